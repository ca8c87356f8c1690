"""A target in the kernel's own process: its cell holds what the user's code says, and no more."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from playbook import local


@pytest.fixture
def root():
    """The root logger and that of CrewAI, put back as they were."""
    logger, theirs = logging.getLogger(), logging.getLogger("crewai")
    filters, level = list(logger.filters), theirs.level
    yield logger
    logger.filters[:] = filters
    theirs.setLevel(level)


def test_what_crewai_logs_is_left_out_and_nothing_else(root, caplog, tmp_path: Path):
    local._quiet()
    for folder, text in (("crewai", "an API call failed"), ("app", "ours")):
        # Some of CrewAI's errors go to the root logger: only their file tells whose they are.
        file = tmp_path / folder / "llms.py"
        exec(compile(f"import logging; logging.error({text!r})", str(file), "exec"), {})
    logging.getLogger("crewai.flow.runtime").error("a listener failed")
    assert caplog.messages == ["ours"]
