"""The panel as a person meets it: JupyterLab in Chromium, with the mouse and with the keyboard."""

from __future__ import annotations

import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator
from pathlib import Path

import pytest

nbformat = pytest.importorskip("nbformat")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
pytest.importorskip("jupyterlab", reason="jupyterlab is not installed")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine", allow_module_level=True)

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(280)]

ROOT = Path(__file__).parents[1]
PICTURES = os.environ.get("PLAYBOOK_PICTURES")
"""A folder for screenshots, to look at; none are taken without."""
LONG = 90_000
"""Milliseconds within which CrewAI has loaded and a level has run on a busy machine."""


def front(path: Path) -> None:
    """The triage notebook up to its panel, not yet run."""
    notebook = nbformat.read(ROOT / "notebooks" / "00_triage.ipynb", as_version=4)
    last = next(
        i
        for i, cell in enumerate(notebook.cells)
        if "pb.panel(" in cell.source or "panel(case" in cell.source
    )
    notebook.cells = [
        cell for cell in notebook.cells[: last + 1] if "case.audit()" not in cell.source
    ]
    for cell in notebook.cells:
        if cell.cell_type == "code":
            cell.outputs, cell.execution_count = [], None
    notebook.cells.append(nbformat.v4.new_code_cell("view.start().wait(120)"))
    nbformat.write(notebook, path)


@pytest.fixture(scope="module")
def lab(tmp_path_factory) -> Iterator[str]:
    """Address of a JupyterLab whose folder holds the front of the triage notebook."""
    home = tmp_path_factory.mktemp("lab")
    (home / "work").mkdir()
    front(home / "work" / "triage.ipynb")
    settings = home / "settings" / "@jupyterlab" / "apputils-extension"
    settings.mkdir(parents=True)
    (settings / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}'
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    with (home / "lab.log").open("w") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
                f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ip=127.0.0.1",
                f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={home / 'work'}",
                "--LabApp.extension_manager=readonly",
                f"--LabApp.user_settings_dir={home / 'settings'}",
                f"--LabApp.workspaces_dir={home / 'workspaces'}",
            ],
            env={
                **os.environ,
                "HOME": str(home),
                "JUPYTER_CONFIG_DIR": str(home / "config"),
                "JUPYTER_RUNTIME_DIR": str(home / "runtime"),
                "IPYTHONDIR": str(home / "ipython"),
            },
            cwd=home,
            stdout=log,
            stderr=subprocess.STDOUT,
        )  # fmt: skip
    try:
        status = f"http://127.0.0.1:{port}/api/status?token={token}"
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(status, timeout=5).close()
                break
            except OSError:
                text = (home / "lab.log").read_text()
                assert server.poll() is None, f"JupyterLab ended: {text[-2000:]}"
                assert time.monotonic() < until, f"JupyterLab does not answer: {text[-2000:]}"
                time.sleep(0.1)  # between two questions to a server that is starting
        yield f"http://127.0.0.1:{port}/lab/tree/triage.ipynb?token={token}"
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def page(lab, tmp_path_factory) -> Iterator[playwright.Page]:
    """The notebook in Chromium, with every cell up to the panel run."""
    with playwright.sync_playwright() as play:
        context = play.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("chromium")),
            executable_path=CHROMIUM,
            headless=True,
            viewport={"width": 1280, "height": 900},
            args=[
                "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
            ],
        )  # fmt: skip
        page = context.pages[0]
        page.set_default_timeout(30_000)
        page.goto(lab)
        page.locator(".jp-Notebook").wait_for(timeout=60_000)
        playwright.expect(page.locator(".jp-NotebookPanel-toolbar")).to_contain_text(
            "Python 3", timeout=60_000
        )
        yield page
        context.close()


def picture(page, name: str) -> None:
    if PICTURES:
        page.screenshot(path=f"{PICTURES}/{name}.png")


def run_all_but_last(page) -> None:
    page.locator(".jp-Notebook").click(position={"x": 5, "y": 5})
    page.keyboard.press("Escape")
    last = page.locator(".jp-CodeCell").last
    last.scroll_into_view_if_needed()
    last.locator(".jp-InputPrompt").click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Above Selected Cell").click()


def status(page) -> playwright.Locator:
    return page.get_by_role("status").filter(
        has_text=re.compile(r"Ready|Running|Done|Stop|Starting")
    )


def test_run_shows_the_sweep(page):
    run_all_but_last(page)
    run = page.get_by_role("button", name="Run", exact=True).and_(page.locator(".widget-button"))
    run.wait_for(timeout=LONG)
    playwright.expect(status(page)).to_have_text("Ready.")
    run.scroll_into_view_if_needed()
    picture(page, "ready")
    before = page.locator(".widget-image").get_attribute("src")

    run.click()
    playwright.expect(run).to_be_disabled()
    playwright.expect(status(page)).to_contain_text("of", timeout=LONG)
    picture(page, "running")
    playwright.expect(status(page)).to_contain_text("Done:", timeout=LONG)
    playwright.expect(run).to_be_enabled()
    picture(page, "done")

    table = page.locator(".widget-html table")
    rows = [row.split("\t") for row in table.inner_text().splitlines() if row[:1].isdigit()]
    assert [row[0] for row in rows] == ["1", "10"]
    assert rows[0][1].startswith("0 of ")
    failed, attempts = map(int, rows[1][1].split(" of "))
    assert 3 <= failed <= attempts
    assert status(page).inner_text().endswith("requests failed.")
    image = page.locator(".widget-image")
    assert image.get_attribute("src") != before
    assert image.evaluate("image => image.complete && image.naturalWidth") == 720


def test_every_control_has_a_name(page):
    for name in ("Requests at once", "Requests per level", "Model call timeout", "Deadline"):
        control = page.get_by_label(re.compile(name))
        playwright.expect(control).to_be_visible()
        playwright.expect(control).to_be_editable()


def test_stop_by_keyboard_keeps_the_partial_result(page):
    levels = page.get_by_label("Requests at once")
    levels.fill("1, 40")
    levels.press("Tab")
    page.get_by_label(re.compile("Requests per level")).fill("30")
    page.get_by_label(re.compile("Requests per level")).press("Tab")
    run = page.get_by_role("button", name="Run", exact=True).and_(page.locator(".widget-button"))
    stop = page.get_by_role("button", name="Stop", exact=True).and_(page.locator(".widget-button"))
    run.focus()
    page.keyboard.press("Enter")
    playwright.expect(status(page)).to_contain_text(re.compile(r"1 at once: [1-9]"), timeout=LONG)
    page.keyboard.press("Tab")
    playwright.expect(stop).to_be_focused()
    page.keyboard.press("Enter")
    playwright.expect(status(page)).to_contain_text("Stopped:", timeout=LONG)
    picture(page, "stopped")
    playwright.expect(run).to_be_enabled()
    playwright.expect(stop).to_be_disabled()


def test_levels_that_are_none_are_said(page):
    page.get_by_label("Requests at once").fill("many")
    page.get_by_label("Requests at once").press("Tab")
    page.get_by_role("button", name="Run", exact=True).and_(page.locator(".widget-button")).click()
    playwright.expect(page.get_by_role("alert").filter(has_text="whole numbers")).to_be_visible()
    picture(page, "alert")


def test_interrupting_a_cell_that_waits_stops_the_sweep(page):
    """A kernel that is busy hears no button; its interrupt does what Stop does."""
    page.get_by_label("Requests at once").fill("1, 10")
    page.get_by_label("Requests at once").press("Tab")
    last = page.locator(".jp-CodeCell").last
    last.locator(".jp-InputPrompt").click()
    page.keyboard.press("Control+Enter")
    playwright.expect(status(page)).to_contain_text(re.compile(r"1 at once: [1-9]"), timeout=LONG)
    page.get_by_title("Interrupt the kernel").click()
    playwright.expect(last.locator(".jp-OutputArea")).to_contain_text("KeyboardInterrupt")
    playwright.expect(status(page)).to_contain_text("Stopped:", timeout=LONG)
    picture(page, "interrupted")
