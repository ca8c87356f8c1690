"""What the notebooks and the panel need of a front end: no more than VS Code's notebooks have.

VS Code cannot be run here. What it shows can: text, Markdown, HTML without scripts, PNG, and the
models of ipywidgets' own two modules over the comm target ``jupyter.widget``. All that is stored
and all that a kernel sends while the panel works is held against that.
"""

from __future__ import annotations

import base64
import json
import os
import re
import struct
from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

nbformat = pytest.importorskip("nbformat")
jupyter_client = pytest.importorskip("jupyter_client")
pytest.importorskip("ipywidgets")

ROOT = Path(__file__).parents[1]
NOTEBOOKS = sorted((ROOT / "notebooks").rglob("*.ipynb"))
WIDGET = "application/vnd.jupyter.widget-view+json"
SHOWN = {"text/plain", "text/html", "text/markdown", "image/png", WIDGET}
"""MIME types, each of which VS Code renders by itself, without another extension."""
MODULES = {"@jupyter-widgets/base": "2.0.0", "@jupyter-widgets/controls": "2.0.0"}
"""What VS Code brings along for ipywidgets 8; any other it would have to fetch from a CDN."""
MODELS = {
    *("VBoxModel", "HBoxModel", "LabelModel", "HTMLModel", "HTMLStyleModel", "LabelStyleModel"),
    *("TextModel", "TextStyleModel", "DropdownModel", "CheckboxModel", "CheckboxStyleModel"),
    *("BoundedIntTextModel", "BoundedFloatTextModel", "DescriptionStyleModel", "LayoutModel"),
    *("ButtonModel", "ButtonStyleModel", "IntProgressModel", "ProgressStyleModel"),
}
PASSIVE = {
    *("div", "span", "p", "b", "br", "code", "pre", "a", "ul", "ol", "li", "h1", "h2", "h3"),
    *("table", "thead", "tbody", "tr", "th", "td", "style"),
    *("svg", "g", "path", "defs", "use", "clippath", "rect", "circle", "text", "tspan", "title"),
    *("desc", "metadata", "rdf:rdf", "cc:work", "dc:type", "dc:date", "dc:format", "dc:creator"),
    *("cc:agent", "dc:title"),
}
"""Elements that only show something."""


class Passive(HTMLParser):
    """Notes down whatever runs, fetches or takes the page over."""

    def __init__(self) -> None:
        super().__init__()
        self.wrong: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in PASSIVE:
            self.wrong.append(f"<{tag}>")
        for name, value in attrs:
            if name.startswith("on"):
                self.wrong.append(f"<{tag} {name}>")
            target = (value or "").strip()
            if name in ("src", "href", "xlink:href"):
                followed = ("#", "https://", "http://") if tag == "a" else ("#",)
                if not target.startswith(followed):
                    self.wrong.append(f"<{tag} {name}={target}>")
            if re.search(r"url\((?!['\"]?#)|expression\(|@import", target):
                self.wrong.append(f"<{tag} {name}={target}>")


def active(html: str) -> list[str]:
    parser = Passive()
    parser.feed(html)
    parser.close()
    return parser.wrong


@pytest.mark.parametrize(
    "html",
    [
        "<script>1</script>",
        "<img src=x onerror=alert(1)>",
        "<div onclick='x()'>",
        "<a href=' javascript:x()'>",
        "<iframe></iframe>",
        "<link rel=stylesheet href=https://example.com/x.css>",
        "<use xlink:href='https://example.com/x.svg'/>",
        "<div style='background:url(https://example.com/x.png)'>",
        "<input>",
    ],
)
def test_what_acts_is_told(html: str) -> None:
    assert active(html)


def size(png: bytes) -> tuple[int, int]:
    """Width and height of a PNG; an error if it is none."""
    assert png[:8] == b"\x89PNG\r\n\x1a\n"
    return struct.unpack(">II", png[16:24])


# What is stored ---------------------------------------------------------------------


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
class TestStored:
    def test_outputs_are_of_kinds_that_need_no_extension(self, path: Path) -> None:
        for cell in nbformat.read(path, as_version=4).cells:
            for out in cell.get("outputs", ()):
                data = out.get("data", {})
                assert set(data) <= SHOWN
                if data:  # what cannot be rendered leaves a text
                    assert data["text/plain"].strip()
                assert not active(data.get("text/html", "") + data.get("text/markdown", ""))
                if "image/png" in data:
                    assert min(size(base64.b64decode(data["image/png"]))) > 50

    def test_cells_hold_no_magic_and_no_script(self, path: Path) -> None:
        for cell in nbformat.read(path, as_version=4).cells:
            if cell.cell_type == "code":
                assert not re.search(
                    r"(?m)^\s*[%!]|get_ipython|Javascript|IPython\.core", cell.source
                )
                assert "HTML(" not in cell.source
            else:
                assert not cell.get("attachments")
                text = re.sub(r"`[^`]*`|^```.*?^```", "", cell.source, flags=re.S | re.M)
                assert not active(re.sub(r"<(https?://[^>]*)>", r"\1", text))


# What is sent while the panel works -------------------------------------------------

CODE = """
from types import SimpleNamespace
import test_widgets
from playbook.notebook import panel

case = test_widgets.FakeCase()
case.names = ("memory", "task:1")
case.lab = SimpleNamespace(swap=lambda plan: None)
case.drill = SimpleNamespace(plan="plan.yaml")
view = panel(case, levels=(1, 10))
display(view)
for step in ("sweep", "isolate", "reduce", "verdict"):
    view.start(step).wait(20)
view.controls.levels.value = "none"
view.start();
"""


@pytest.fixture(scope="module")
def sent() -> list[dict[str, Any]]:
    """Every message that a kernel publishes while each of the panel's steps is run."""
    manager = jupyter_client.KernelManager(kernel_name="python3")
    path = os.pathsep.join([str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")])
    manager.start_kernel(env={**os.environ, "PYTHONPATH": path})
    client = manager.blocking_client()
    client.start_channels()
    messages: list[dict[str, Any]] = []
    try:
        client.wait_for_ready(timeout=60)
        reply = client.execute_interactive(CODE, timeout=120, output_hook=messages.append)
        assert reply["content"]["status"] == "ok", reply["content"]
    finally:
        client.stop_channels()
        manager.shutdown_kernel(now=True)
    return messages


def opened(sent: list[dict[str, Any]]) -> list[dict[str, Any]]:
    return [message["content"] for message in sent if message["msg_type"] == "comm_open"]


def states(sent: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """What each widget was made with, and each change of it."""
    for message in sent:
        if message["msg_type"] in ("comm_open", "comm_msg"):
            yield message["content"]["data"].get("state", {})


def test_the_panel_is_made_of_core_widgets(sent) -> None:
    models = set()
    for message in opened(sent):
        assert message["target_name"] == "jupyter.widget"
        assert not message.get("target_module")
        state = message["data"]["state"]
        for part in ("model", "view"):
            if (module := state[f"_{part}_module"]) is not None:
                assert state[f"_{part}_module_version"] == MODULES[module]
        models.add(state["_model_name"])
    # Each control, button, text and figure; nothing that asks for more.
    assert {"ButtonModel", "TextModel", "DropdownModel", "CheckboxModel", "HTMLModel"} <= models
    assert models <= MODELS


def test_nothing_else_is_sent(sent) -> None:
    kinds = {message["msg_type"] for message in sent}
    assert kinds <= {"status", "execute_input", "display_data", "comm_open", "comm_msg"}
    shown = [message["content"] for message in sent if message["msg_type"] == "display_data"]
    assert [set(each["data"]) for each in shown] == [{"text/plain", WIDGET}]
    assert {
        message["content"]["data"]["method"]
        for message in sent
        if message["msg_type"] == "comm_msg"
    } <= {"update", "echo_update"}
    assert not any(message.get("buffers") for message in sent)
    json.dumps([message["content"] for message in sent])


def test_what_the_widgets_show_is_passive(sent) -> None:
    texts = [state["value"] for state in states(sent) if isinstance(state.get("value"), str)]
    pictures = [text for text in texts if "<svg " in text]
    assert len(pictures) >= 3
    assert any("<table>" in text for text in texts)
    assert [wrong for text in texts for wrong in active(text)] == []
    # Where neither theme is known, the kit's own colours stand.
    for text in pictures:
        assert re.search(r"--ink:var\(--jp-[\w-]+,var\(--vscode-[\w-]+,#[0-9a-f]{6}\)\)", text)
