"""The panel as a person meets it: JupyterLab, Notebook 7 and Voila in Chromium.

One server serves all three. JupyterLab is used with the mouse and with the keyboard, in
light; Notebook 7 goes on with the same kernel, in dark; Voila starts its own.
Screenshots are kept in ``out/browser``.
"""

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
import samples

from playbook import show

nbformat = pytest.importorskip("nbformat")
playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
for front_end in ("jupyterlab", "notebook", "voila"):
    pytest.importorskip(front_end, reason=f"{front_end} is not installed")

CHROMIUM = next(
    filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None
)
if CHROMIUM is None:
    pytest.skip("no Chromium on this machine", allow_module_level=True)

pytestmark = [pytest.mark.e2e, pytest.mark.alone, pytest.mark.timeout(280)]

ROOT = Path(__file__).parents[1]
PICTURES = ROOT / "out" / "browser"
LONG = 90_000
"""Milliseconds within which CrewAI has loaded and a level has run on a busy machine."""
PANEL = 'case = pb.open_case("drill:shared-state", max_seconds=600)\ncase.audit();'


def write(path: Path) -> None:
    """A notebook with the panel, as the triage notebook has it."""
    sources = [
        "import playbook as pb",
        PANEL,
        "view = pb.panel(case, levels=(1, 10))\nview",
        "view.start().wait(120)",
    ]
    cells = [nbformat.v4.new_code_cell(source) for source in sources]
    notebook = nbformat.v4.new_notebook(cells=cells)
    notebook.metadata["kernelspec"] = {
        "name": "python3", "display_name": "Python 3 (ipykernel)", "language": "python",
    }  # fmt: skip
    nbformat.write(notebook, path)
    notebook.cells = notebook.cells[:-1]  # Voila runs them all before it shows anything
    nbformat.write(notebook, path.with_name("dashboard.ipynb"))


@pytest.fixture(scope="module")
def settings(tmp_path_factory) -> Path:
    """The settings that JupyterLab and Notebook 7 share."""
    folder = tmp_path_factory.mktemp("settings") / "@jupyterlab" / "apputils-extension"
    folder.mkdir(parents=True)
    (folder / "notification.jupyterlab-settings").write_text(
        '{"fetchNews": "false", "checkForUpdates": false}'
    )
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory, settings) -> Iterator[str]:
    """Address of a Jupyter server with all three; ``{}`` is where the path goes."""
    home = tmp_path_factory.mktemp("jupyter")
    (home / "work").mkdir()
    write(home / "work" / "panel.ipynb")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    token = secrets.token_hex(8)
    with (home / "server.log").open("w") as log:
        server = subprocess.Popen(
            [
                sys.executable, "-m", "jupyterlab", "--no-browser", "--allow-root",
                f"--ServerApp.port={port}", "--ServerApp.port_retries=0", "--ip=127.0.0.1",
                f"--IdentityProvider.token={token}", f"--ServerApp.root_dir={home / 'work'}",
                "--LabApp.extension_manager=readonly",
                f"--LabApp.user_settings_dir={settings.parents[1]}",
                f"--LabApp.workspaces_dir={home / 'workspaces'}",
                "--VoilaConfiguration.theme=dark",
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
        address = f"http://127.0.0.1:{port}/{{}}?token={token}"
        until = time.monotonic() + 60
        while True:
            try:
                urllib.request.urlopen(address.format("api/status"), timeout=5).close()
                break
            except OSError:
                text = (home / "server.log").read_text()
                assert server.poll() is None, f"the server ended: {text[-2000:]}"
                assert time.monotonic() < until, f"the server does not answer: {text[-2000:]}"
                time.sleep(0.1)  # between two questions to a server that is starting
        yield address
    finally:
        server.terminate()
        try:
            server.wait(20)
        except subprocess.TimeoutExpired:
            server.kill()
            server.wait()


@pytest.fixture(scope="module")
def browser(tmp_path_factory) -> Iterator[playwright.BrowserContext]:
    PICTURES.mkdir(parents=True, exist_ok=True)
    with playwright.sync_playwright() as play:
        context = play.chromium.launch_persistent_context(
            str(tmp_path_factory.mktemp("chromium")),
            executable_path=CHROMIUM,
            headless=True,
            viewport={"width": 1280, "height": 1100},
            args=[
                "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                "--disable-background-networking", "--disable-component-update", "--disable-sync",
            ],
        )  # fmt: skip
        context.set_default_timeout(30_000)
        yield context
        context.close()


@pytest.fixture(scope="module")
def page(server, browser) -> playwright.Page:
    """The notebook in JupyterLab, not yet run."""
    page = browser.pages[0]
    page.goto(server.format("lab/tree/panel.ipynb"))
    page.locator(".jp-Notebook").wait_for(timeout=60_000)
    playwright.expect(page.locator(".jp-NotebookPanel-toolbar")).to_contain_text(
        "Python 3", timeout=60_000
    )
    return page


_NAME = """const name = it => it.localName + ' ' + (it.labels?.[0]?.textContent || it.textContent);
const panel = document.querySelector('.jp-OutputArea-output .widget-vbox');"""
FOCUSED = f"""() => {{
    {_NAME}
    return panel.contains(document.activeElement) ? name(document.activeElement) : '';
}}"""
"""The control that has the focus; empty outside the panel."""
CONTROLS = f"""() => {{
    {_NAME}
    const controls = [...panel.querySelectorAll('input, select, button')];
    return controls.filter(it => !it.disabled).map(name);
}}"""

# What a person sees and does --------------------------------------------------------


def button(page, name: str) -> playwright.Locator:
    return page.get_by_role("button", name=name, exact=True).and_(page.locator(".widget-button"))


def status(page) -> playwright.Locator:
    return page.get_by_role("status").filter(
        has_text=re.compile(r"Ready|Running|Done|Stop|Starting")
    )


def figure(page, words: str) -> playwright.Locator:
    return page.get_by_role("img", name=re.compile(words))


def fill(page, label: str, value: str) -> None:
    control = page.get_by_label(re.compile(label))
    control.fill(value)
    control.press("Tab")


def run_all_but_last(page) -> None:
    page.locator(".jp-Notebook").click(position={"x": 5, "y": 5})
    page.keyboard.press("Escape")
    last = page.locator(".jp-CodeCell").last
    last.scroll_into_view_if_needed()
    last.locator(".jp-InputPrompt").click()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Above Selected Cell").click()


def picture(page, name: str) -> None:
    page.screenshot(path=PICTURES / f"{name}.png")


def stop_while_running(page) -> None:
    """Run is pressed, some requests end, Stop is pressed."""
    button(page, "Run").click()
    playwright.expect(status(page)).to_contain_text("Running, ", timeout=LONG)
    playwright.expect(page.get_by_text(re.compile(r"^[1-9]\d* of 30 requests"))).to_be_visible(
        timeout=LONG
    )
    button(page, "Stop").click()
    playwright.expect(status(page)).to_contain_text("Stop")
    playwright.expect(status(page)).to_contain_text("Stopped:", timeout=LONG)
    playwright.expect(button(page, "Run")).to_be_enabled()
    playwright.expect(button(page, "Stop")).to_be_disabled()


# JupyterLab -------------------------------------------------------------------------


def test_run_shows_the_sweep(page):
    run_all_but_last(page)
    button(page, "Run").wait_for(timeout=LONG)
    playwright.expect(status(page)).to_have_text("Ready.")
    fill(page, "Requests at once", "1, 6")
    fill(page, "Requests per level", "6")
    fill(page, "Model call timeout", "20")
    button(page, "Run").scroll_into_view_if_needed()
    picture(page, "lab-ready")
    before = figure(page, "Nothing was measured yet").screenshot()

    button(page, "Run").click()
    playwright.expect(button(page, "Run")).to_be_disabled()
    playwright.expect(page.get_by_text("The budget has left: 1,")).to_be_visible(timeout=LONG)
    playwright.expect(status(page)).to_contain_text("Running, 1 at once.", timeout=LONG)
    picture(page, "lab-running")
    playwright.expect(status(page)).to_contain_text("Done:", timeout=LONG)
    playwright.expect(button(page, "Run")).to_be_enabled()
    assert status(page).inner_text().endswith("requests failed.")

    table = page.locator(".widget-html table").first
    rows = [row.split("\t") for row in table.inner_text().splitlines() if row[:1].isdigit()]
    assert [row[0] for row in rows] == ["1", "6"]
    failed, attempts = map(int, rows[1][1].split(" of "))
    assert 3 <= failed <= attempts
    after = figure(page, "Failure share and latency by concurrency")
    playwright.expect(after).to_have_count(1)
    assert after.screenshot() != before
    playwright.expect(figure(page, "requests in time")).to_be_visible()
    picture(page, "lab-done")


def test_every_control_has_a_name(page):
    for name in ("Requests at once", "Requests per level", "Model call timeout", "Deadline"):
        playwright.expect(page.get_by_label(re.compile(name))).to_be_editable()
    for name in ("Retries of a model call", "Fault plan of the lab"):
        playwright.expect(page.get_by_label(name).and_(page.locator("select"))).to_be_enabled()
    for name in ("tool:case_lookup", "task:1", "task:2"):
        playwright.expect(page.get_by_role("checkbox", name=name)).to_be_checked()


ROLES = ("button", "textbox", "spinbutton", "combobox", "checkbox", "image")


def named(page, role: str) -> list[str]:
    """The names by which a screen reader tells the panel's parts of one role, in their order."""
    session = page.context.new_cdp_session(page)
    panel = "document.querySelector('.jp-OutputArea-output .widget-vbox')"
    found = session.send("Runtime.evaluate", {"expression": panel})["result"]["objectId"]
    nodes = session.send("Accessibility.queryAXTree", {"objectId": found, "role": role})["nodes"]
    session.detach()
    return [node["name"]["value"] for node in nodes if not node["ignored"]]


def test_nothing_in_the_panel_is_without_a_name(page):
    """As the accessibility tree has them, which is what a screen reader gets."""
    names = {role: named(page, role) for role in ROLES}
    assert names["button"] == ["Run", "Stop", "Isolate", "Reduce", "Verdict"]
    assert names["checkbox"] == ["tool:case_lookup", "task:1", "task:2"]
    counts = {role: len(found) for role, found in names.items()}
    assert (counts["textbox"], counts["spinbutton"], counts["combobox"]) == (1, 3, 2)
    assert counts["image"] == 2  # the sweep and its requests
    assert [role for role, found in names.items() if not all(map(str.strip, found))] == []


def test_the_keyboard_reaches_every_control(page):
    page.get_by_label("Requests at once").focus()
    reached = []
    for _ in range(30):
        control = page.evaluate(FOCUSED)
        if not control:
            break
        reached.append(control)
        page.keyboard.press("Tab")
    expected = page.evaluate(CONTROLS)
    assert len(expected) == 13  # Stop is off
    assert reached[: len(expected)] == expected


def test_the_ladder_fills_in(page):
    button(page, "Isolate").click()
    playwright.expect(figure(page, "rung|Fails first at")).to_be_visible(timeout=LONG)
    playwright.expect(page.locator(".widget-html table").last).to_contain_text("tcp")
    playwright.expect(button(page, "Stop")).to_be_enabled()  # the first rungs are seen meanwhile
    playwright.expect(status(page)).to_contain_text("Done:", timeout=LONG)
    figure(page, "rung|Fails first at").scroll_into_view_if_needed()
    picture(page, "lab-ladder")


def test_stop_by_keyboard_keeps_the_partial_result(page):
    fill(page, "Requests at once", "1, 40")
    fill(page, "Requests per level", "30")
    button(page, "Run").focus()
    page.keyboard.press("Enter")
    playwright.expect(page.get_by_text(re.compile(r"^[1-9]\d* of 30 requests"))).to_be_visible(
        timeout=LONG
    )
    page.keyboard.press("Tab")
    playwright.expect(button(page, "Stop")).to_be_focused()
    page.keyboard.press("Enter")
    playwright.expect(status(page)).to_contain_text("Stopped:", timeout=LONG)
    playwright.expect(button(page, "Run")).to_be_enabled()
    playwright.expect(button(page, "Stop")).to_be_disabled()
    playwright.expect(page.locator(".widget-html table").nth(1)).to_contain_text("1 at once")
    picture(page, "lab-stopped")


def test_stop_is_answered_while_a_hundred_run(page):
    """Before the first of them ends; no more are started, and what ended is kept."""
    fill(page, "Requests at once", "100")
    fill(page, "Requests per level", "400")
    button(page, "Run").click()
    playwright.expect(status(page)).to_contain_text("Running, 100 at once.", timeout=LONG)
    button(page, "Stop").click()
    playwright.expect(status(page)).to_contain_text("Stopping: requests that are under way end")
    playwright.expect(button(page, "Stop")).to_be_disabled()
    picture(page, "lab-stopping")
    playwright.expect(status(page)).to_contain_text("Stopped:", timeout=LONG)
    playwright.expect(button(page, "Run")).to_be_enabled()
    words = re.findall(r"\d+", status(page).inner_text())
    assert len(words) == 2
    assert int(words[1]) <= 200


def test_levels_that_are_none_are_said(page):
    fill(page, "Requests at once", "many")
    button(page, "Run").click()
    playwright.expect(page.get_by_role("alert").filter(has_text="whole numbers")).to_be_visible()
    picture(page, "lab-alert")


def test_interrupting_a_cell_that_waits_stops_the_sweep(page):
    """A kernel that is busy hears no button; its interrupt does what Stop does."""
    fill(page, "Requests at once", "1, 10")
    last = page.locator(".jp-CodeCell").last
    last.locator(".jp-InputPrompt").click()
    page.keyboard.press("Control+Enter")
    playwright.expect(status(page)).to_contain_text("Running, 1 at once", timeout=LONG)
    page.get_by_title("Interrupt the kernel").click()
    playwright.expect(last.locator(".jp-OutputArea")).to_contain_text("KeyboardInterrupt")
    playwright.expect(status(page)).to_contain_text("Stopped:", timeout=LONG)


@pytest.mark.parametrize("obj", [samples.SWEEP, samples.AUDIT, samples.LADDER, samples.VERDICT])
def test_a_table_is_whole_on_paper(browser, obj):
    """Nothing can be scrolled there: at the width that a printed notebook has, nothing is cut."""
    page = browser.new_page()
    page.set_viewport_size({"width": 577, "height": 700})
    css = "body{margin:0;font:14px sans-serif} table{font-size:12px;border-spacing:0}"
    page.set_content(f"<style>{css}</style>{show.html(obj)}")
    over = "[...document.querySelectorAll('.playbook > div')].map(it => it.scrollWidth - 577)"
    scrolled = "getComputedStyle(document.querySelector('table').parentElement).overflowX"
    assert page.evaluate(scrolled) == "auto"
    page.emulate_media(media="print")
    assert page.evaluate(scrolled) == "visible"
    assert max(page.evaluate(over)) <= 0
    page.close()


# Notebook 7 and Voila ---------------------------------------------------------------


def test_notebook_7(server, settings, browser, page):
    """In dark, on the kernel that JupyterLab left, where the case goes on."""
    (settings / "themes.jupyterlab-settings").write_text('{"theme": "JupyterLab Dark"}')
    page = browser.new_page()
    page.goto(server.format("notebooks/panel.ipynb"))
    cell = page.locator(".jp-CodeCell").nth(2)
    cell.locator(".jp-InputPrompt").click(timeout=60_000)
    idle = page.locator(".jp-Notebook-ExecutionIndicator[data-status=idle]")
    playwright.expect(idle).to_be_attached(timeout=LONG)
    page.keyboard.press("Control+Enter")
    button(page, "Run").wait_for(timeout=LONG)
    fill(page, "Requests at once", "1, 30")
    fill(page, "Requests per level", "30")
    fill(page, "Model call timeout", "15")
    before = page.locator("svg[role=img]").first.screenshot()
    stop_while_running(page)
    assert page.locator("svg[role=img]").first.screenshot() != before
    assert page.locator("body").get_attribute("data-jp-theme-light") == "false"
    button(page, "Run").scroll_into_view_if_needed()
    picture(page, "notebook-stopped")


def test_voila(server, browser):
    """Without code, in dark, on a kernel of its own."""
    page = browser.new_page()
    page.goto(server.format("voila/render/dashboard.ipynb"), timeout=LONG)
    button(page, "Run").wait_for(timeout=LONG)
    playwright.expect(page.get_by_text("open_case")).to_have_count(0)
    fill(page, "Requests at once", "30")
    fill(page, "Requests per level", "30")
    fill(page, "Model call timeout", "15")
    before = figure(page, "Nothing was measured yet").screenshot()
    stop_while_running(page)
    playwright.expect(figure(page, "Nothing was measured yet")).to_have_count(0)
    assert page.locator("svg[role=img]").first.screenshot() != before
    picture(page, "voila-stopped")
