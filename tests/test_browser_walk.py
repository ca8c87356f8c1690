"""Every notebook as a person meets it: opened in JupyterLab, *Run All*, down to the last cell.

    pytest -m slow tests/test_browser_walk.py           # all, some ten minutes
    pytest -m slow tests/test_browser_walk.py -k 00     # one

nbval compares what the cells say; here it is seen that they show it: without an error, and
with as many figures as are stored. Screenshots are kept in ``out/browser``.
"""

from __future__ import annotations

import json
import os
import urllib.request
from pathlib import Path

import pytest

test_browser = pytest.importorskip("test_browser", exc_type=ImportError)
nbformat = pytest.importorskip("nbformat")
playwright = pytest.importorskip("playwright.sync_api")

from test_browser import PICTURES, ROOT, browser, server, settings  # noqa: E402, F401

pytestmark = [pytest.mark.e2e, pytest.mark.slow, pytest.mark.timeout(280)]

NOTEBOOKS = sorted(path for path in (ROOT / "notebooks").rglob("*.ipynb"))
DARK = bool(os.environ.get("DARK"))
"""Walk in JupyterLab's dark theme."""
RUN = 200_000
"""Milliseconds that a notebook may take from *Run All* to its last cell."""
ENDED = """last => {
    const prompts = document.querySelectorAll('.jp-CodeCell .jp-InputPrompt');
    const failed = document.querySelector(
        '[data-mime-type="application/vnd.jupyter.error"], \
[data-mime-type="application/vnd.jupyter.stderr"]');
    return failed || prompts[prompts.length - 1].textContent.trim() === last;
}"""
FIGURES = """() => [...document.querySelectorAll('.jp-OutputArea .jp-RenderedImage img')]
    .filter(image => image.naturalWidth > 100).length"""


SCROLL = """to => {
    const panel = document.querySelector('.jp-WindowedPanel-outer');
    panel.scrollTo(0, to);
    const last = [...panel.querySelectorAll('.jp-Cell')].at(-1).getBoundingClientRect();
    return last.bottom > panel.getBoundingClientRect().bottom ? panel.clientHeight : 0;
}"""
"""Scrolls the notebook; a screen's height, or 0 where its last cell is seen to its end."""


@pytest.fixture(scope="module")
def lab(settings, server) -> str:  # noqa: F811
    """Address of a server whose JupyterLab keeps all cells of a notebook in the page."""
    tracker = settings.parent / "notebook-extension"
    tracker.mkdir()
    (tracker / "tracker.jupyterlab-settings").write_text('{"windowingMode": "none"}')
    if DARK:
        (settings / "themes.jupyterlab-settings").write_text('{"theme": "JupyterLab Dark"}')
    return server


def pictures(page, name: str) -> None:
    """The whole notebook, from its first cell to its last."""
    for old in PICTURES.glob(f"{name}-[0-9][0-9].png"):
        old.unlink()
    at, number = 0, 1
    while True:
        height = page.evaluate(SCROLL, at)
        page.screenshot(path=PICTURES / f"{name}-{number:02}.png")
        if not height:
            return
        at, number = at + height - 40, number + 1  # what a screen cuts off, the next one shows


def upload(address: str, path: Path) -> tuple[int, int]:
    """Put a notebook without its outputs on the server; how many code cells and figures it has."""
    notebook = nbformat.read(path, as_version=4)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    figures = sum("image/png" in out.get("data", ()) for cell in cells for out in cell.outputs)
    for cell in cells:
        cell.outputs, cell.execution_count = [], None
    body = json.dumps({"type": "notebook", "format": "json", "content": notebook}).encode()
    request = urllib.request.Request(
        address.format(f"api/contents/{path.name}"), data=body, method="PUT"
    )
    urllib.request.urlopen(request, timeout=20).close()
    return len(cells), figures


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_all_cells_run_and_show_their_figures(path, lab, browser):  # noqa: F811
    cells, figures = upload(lab, path)
    page = browser.new_page()
    try:
        page.goto(lab.format(f"lab/workspaces/{path.stem}/tree/{path.name}"))  # no other tab
        page.locator(".jp-NotebookPanel-toolbar").get_by_text("Python 3").wait_for(timeout=60_000)
        page.locator(".jp-Notebook").click(position={"x": 5, "y": 5})
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_text("Run All Cells", exact=True).click()
        page.wait_for_function(ENDED, arg=f"[{cells}]:", timeout=RUN)
        pictures(page, f"walk-{path.stem}{'-dark' if DARK else ''}")
        wrong = page.locator('[data-mime-type="application/vnd.jupyter.stderr"]').or_(
            page.locator('[data-mime-type="application/vnd.jupyter.error"]')
        )
        assert wrong.all_inner_texts() == []
        assert page.evaluate(FIGURES) == figures
    finally:
        page.close()


def test_reduce_and_verdict_by_their_buttons(lab, browser):  # noqa: F811
    page = browser.new_page()
    page.goto(lab.format("lab/workspaces/panel/tree/panel.ipynb"))
    page.locator(".jp-NotebookPanel-toolbar").get_by_text("Python 3").wait_for(timeout=60_000)
    test_browser.run_all_but_last(page)
    test_browser.button(page, "Run").wait_for(timeout=RUN)
    test_browser.fill(page, "Requests at once", "1, 10")
    status = test_browser.status(page)
    for name, words in (
        ("Run", "requests failed."),
        ("Reduce", "Done: reduced to task:2 + concurrency:10"),
        ("Verdict", "Done: fault, shared-mutable-state"),
    ):
        test_browser.button(page, name).click()
        playwright.expect(status).to_contain_text(words, timeout=RUN)
        test_browser.picture(page, f"panel-{name.lower()}{'-dark' if DARK else ''}")
    # The table of requests names the intervention as well; only the proof says that it returned.
    proof = page.locator(".widget-html").filter(has_text="(returned)")
    playwright.expect(proof).to_contain_text("fresh instances per request")
    playwright.expect(proof).to_be_visible()
    page.close()
