"""The page in a real browser, Debian's Chromium without a screen: what a visitor does, by mouse and by keyboard."""

from __future__ import annotations

import contextlib
import io
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import uvicorn
from PIL import Image
from toys import HOSTILE, Corner, audit, photo, served

from suffice.web.app import make_app
from suffice.web.audited import Audited, open_audit
from suffice.web.jobs import Jobs
from suffice.web.served import Served
from suffice.web.serving import bound
from suffice.web.work import work

playwright_api = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install suffice[dev]")
expect = playwright_api.expect
expect.set_options(timeout=15_000)
HOSTILE_FILE = "<img src=x onerror=window.hacked=1>.png"


@contextlib.contextmanager
def answering(module: Corner, port: int = 0, audited: Callable[[Served], Audited] | None = None) -> Iterator[str]:
    """A server in a thread: its address."""
    listening, model = bound("127.0.0.1", port), served(module)
    app = make_app([model], jobs=Jobs(work), audit=None if audited is None else audited(model))
    config = uvicorn.Config(app, log_level="critical", timeout_graceful_shutdown=1)
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True)
    thread.start()
    until = time.monotonic() + 30
    while not server.started and time.monotonic() < until:
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{listening.getsockname()[1]}/"
    finally:
        module.go.set()
        server.should_exit = True
        thread.join(10)
        listening.close()


@pytest.fixture
def module_() -> Corner:
    return Corner()


@pytest.fixture
def address(module_: Corner) -> Iterator[str]:
    with answering(module_) as there:
        yield there


@pytest.fixture
def page(browser: Any, address: str) -> Iterator[Any]:
    """The open page."""
    with watched(browser, address) as opened:
        yield opened


@contextlib.contextmanager
def watched(browser: Any, address: str, path: str = "") -> Iterator[Any]:
    """An open page, of which no request may leave this machine, and nothing on the console may be an error."""
    context = browser.new_context(accept_downloads=True)
    opened, asked, wrong = context.new_page(), [], []
    opened.on("request", lambda request: asked.append(request.url))
    opened.on("console", lambda message: wrong.append(message.text) if message.type == "error" else None)
    opened.on("pageerror", lambda error: wrong.append(str(error)))
    opened.goto(address + path)
    opened.wait_for_selector("body[data-ready]")
    yield opened
    assert opened.evaluate("window.hacked") is None
    context.close()
    assert all(url.startswith((address, "blob:", "data:")) for url in asked), asked
    assert not [text for text in wrong if "Failed to load resource" not in text], wrong


def drop(page: Any, name: str = "photo.png", data: bytes | None = None) -> None:
    """Drop a file on the page, as a hand would."""
    content = list(photo() if data is None else data)
    page.evaluate(
        """([name, content]) => {
            const transfer = new DataTransfer();
            transfer.items.add(new File([new Uint8Array(content)], name, {type: "image/png"}));
            document.querySelector("#drop").dispatchEvent(
                new DragEvent("drop", {dataTransfer: transfer, bubbles: true, cancelable: true}));
        }""",
        [name, content],
    )


def explained(page: Any) -> None:
    expect(page.locator("#verdict")).to_contain_text("is enough for")
    expect(page.locator("#running")).to_be_hidden()


def pixels(page: Any) -> str:
    return str(page.evaluate("document.querySelector('#canvas').toDataURL()"))


def test_a_drop_gives_an_explanation_the_slider_moves_it_and_names_are_text(page: Any) -> None:
    drop(page, HOSTILE_FILE)
    explained(page)
    expect(page.locator("#about")).to_contain_text(HOSTILE_FILE)
    expect(page.locator("#verdict")).to_contain_text(HOSTILE)
    assert page.locator("main img[src='x']").count() == 0
    before = pixels(page)
    share = page.locator("#share").text_content()
    page.locator("#slider").evaluate("element => { element.value = 900; element.dispatchEvent(new Event('input')); }")
    page.evaluate("new Promise(done => requestAnimationFrame(() => requestAnimationFrame(done)))")
    assert pixels(page) != before
    assert page.locator("#share").text_content() != share
    page.locator("#slider").evaluate("element => { element.value = 10; element.dispatchEvent(new Event('input')); }")
    expect(page.locator("#says")).to_have_attribute("data-enough", "false")
    page.click("#whole-part")
    expect(page.locator("#says")).to_have_attribute("data-enough", "true")
    assert pixels(page) == before


def test_a_painted_part_is_answered_under_each_occlusion(page: Any) -> None:
    drop(page)
    explained(page)
    page.click("#nothing")
    expect(page.locator("#says")).to_have_attribute("data-enough", "false")
    page.check("input[value=paint]")
    page.locator("#brush-size").evaluate("element => { element.value = 20; }")
    page.locator("#canvas").scroll_into_view_if_needed()
    box = page.locator("#canvas").bounding_box()
    page.mouse.move(box["x"] + 5, box["y"] + 5)
    page.mouse.down()
    page.mouse.move(box["x"] + box["width"] / 4, box["y"] + box["height"] / 4, steps=5)
    page.mouse.up()
    expect(page.locator("#says")).to_have_attribute("data-enough", "true")
    page.click("#enough")
    rows = page.locator("#answers tbody tr")
    expect(rows.first).to_be_visible()
    names = [row.split("\t")[0] for row in rows.all_inner_texts()]
    assert {"zero", "min", "max", "mean", "deactivate"} <= set(names)
    page.click("#answers th button >> nth=2")  # sorted by confidence
    assert page.locator("#answers th >> nth=2").get_attribute("aria-sort") == "ascending"


def test_a_run_is_cancelled_and_another_one_goes_on(page: Any, module_: Corner) -> None:
    drop(page)
    explained(page)
    module_.go.clear()
    page.locator("#gamma").fill("0.9")
    page.click("#explain")
    expect(page.locator("#cancel")).to_be_visible()
    with page.expect_response(lambda response: response.request.method == "DELETE"):
        page.click("#cancel")
    module_.go.set()
    expect(page.locator("#status")).to_have_text("Cancelled.")
    expect(page.locator("#running")).to_be_hidden()
    page.click("#explain")
    expect(page.locator("#status")).to_have_text("Done.")


def test_everything_is_downloaded_and_a_link_opens_the_same_question(page: Any, browser: Any, address: str) -> None:
    drop(page)
    explained(page)
    page.click("#tool-keep summary")
    with page.expect_download() as started:
        page.click("#download")
    assert started.value.suggested_filename == "suffice.zip"
    expect(page.locator("#command")).to_contain_text("suffice explain photo.png")
    expect(page.locator("#python")).to_contain_text("suffice.explain(")
    page.select_option("#occlusion", "mean")
    page.locator("#gamma").fill("0.9")
    link = page.input_value("#link")
    digest = re.search(r"image=([0-9a-f]{64})", link)
    assert digest
    with contextlib.closing(browser.new_context()) as context:
        other = context.new_page()
        other.goto(link)
        expect(other.locator("#status")).to_contain_text(digest[1][:16])
        assert (other.input_value("#occlusion"), other.input_value("#gamma")) == ("mean", "0.9")
        drop(other, data=photo(7))
        expect(other.locator("#status")).not_to_contain_text("digest")
        explained(other)


def test_two_browsers_at_once_see_their_own(browser: Any, page: Any, address: str) -> None:
    with contextlib.closing(browser.new_context()) as context:
        other = context.new_page()
        other.goto(address)
        other.wait_for_selector("body[data-ready]")
        drop(page, "mine.png", photo(1))
        drop(other, "yours.png", photo(2))
        explained(page)
        explained(other)
        assert "mine.png" in page.locator("#about").text_content()
        assert "yours.png" not in page.content()
        assert "mine.png" not in other.content()


def test_the_tools_answer(page: Any) -> None:
    drop(page)
    explained(page)
    for tool in ("why", "paste", "certificate", "several", "compare"):
        page.click(f"#tool-{tool} > summary")
    page.fill("#against", "dark")
    page.click("#why")
    expect(page.locator("#why-found")).to_contain_text("rather than")
    page.click("#paste")
    expect(page.locator("#pasted strong").first).to_contain_text("backgrounds")
    expect(page.locator("#pasted canvas").first).to_be_visible()
    page.click("#certify")
    expect(page.locator("#certified .verdict")).to_contain_text(re.compile("Certified|Refuted|Unknown"))
    page.click("#several")
    expect(page.locator("#several-found .verdict")).to_be_visible()
    page.evaluate(
        """document.querySelectorAll("#compare-methods input").forEach(
            each => { each.checked = each.value === "causal"; })"""
    )
    page.click("#compare")
    expect(page.locator("#compared table")).to_contain_text("insertion")


def test_a_folder_is_a_table_that_sorts_and_opens_any_row(page: Any) -> None:
    files = [{"name": f"{n}.png", "mimeType": "image/png", "buffer": photo(n)} for n in range(3)]
    page.set_input_files("#files", [*files, {"name": "bad.png", "mimeType": "image/png", "buffer": b"x"}])
    expect(page.locator("#table tbody tr")).to_have_count(4)
    expect(page.locator("#table")).to_contain_text("expected")
    page.click("#table th button >> nth=0")
    names = [row.split("\t")[0] for row in page.locator("#table tbody tr").all_inner_texts()]
    assert names == sorted(names)
    page.click("#table tbody tr:has-text('1.png') button")
    explained(page)
    expect(page.locator("#about")).to_contain_text("1.png")


def test_by_keyboard_alone(page: Any) -> None:
    if page.locator("#samples button").count() == 0:
        pytest.skip("needs sample photos: pip install suffice[demo]")

    def tab_to(selector: str) -> None:
        for _ in range(60):
            page.keyboard.press("Tab")
            if page.evaluate("s => document.activeElement.matches(s)", selector):
                return
        raise AssertionError(f"no Tab leads to {selector}")

    tab_to("#samples button")
    page.keyboard.press("Enter")
    expect(page.locator("#says")).not_to_have_text("")
    tab_to("#explain")
    page.keyboard.press("Enter")
    expect(page.locator("#status")).to_have_text("Done.", timeout=20_000)
    tab_to("#canvas")
    before = pixels(page)
    page.keyboard.press("ArrowLeft")
    page.keyboard.press("Space")
    page.keyboard.press("Shift+Space")
    page.wait_for_timeout(100)
    assert pixels(page) != before
    if page.locator("#slider").is_enabled():
        tab_to("#slider")
        page.keyboard.press("ArrowRight")
    tab_to("#enough")
    page.keyboard.press("Enter")
    expect(page.locator("#answers table")).to_be_visible()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_everything_has_a_name_enough_contrast_and_room_on_a_phone(
    browser: Any, address: str, scheme: str, unreadable: Any
) -> None:
    with contextlib.closing(
        browser.new_context(viewport={"width": 360, "height": 740}, color_scheme=scheme)
    ) as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        drop(page)
        explained(page)
        page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        assert unreadable(page) == []


def test_axe_finds_nothing_serious(browser: Any, address: str, faults_by_axe: Any) -> None:
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        for step in ("empty", "explained"):
            if step == "explained":
                drop(page)
                explained(page)
                page.click("#enough")
                expect(page.locator("#answers table")).to_be_visible()
                page.evaluate("document.querySelectorAll('details').forEach(each => { each.open = true; })")
            assert faults_by_axe(page) == []


def test_a_server_that_was_killed_is_waited_for_and_the_page_goes_on(browser: Any) -> None:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    slow = Corner()
    with contextlib.closing(browser.new_context()) as context:
        page = context.new_page()
        with answering(slow, port) as there:
            page.goto(there)
            page.wait_for_selector("body[data-ready]")
            drop(page)
            explained(page)
            slow.go.clear()
            page.click("#explain")
            expect(page.locator("#running")).to_be_visible()
            expect(page.locator("#progress-text")).to_contain_text("images asked")
        expect(page.locator("#status")).to_contain_text(re.compile("does not answer|started again"))
        with answering(Corner(), port):
            expect(page.locator("#status")).to_have_text("Done.", timeout=20_000)
            explained(page)


def test_the_command_listens_prints_its_address_and_ends_on_a_signal(tmp_path: Path) -> None:
    (tmp_path / "tiny.py").write_text(
        "from torch import nn\n\ndef build():\n    return nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten())\n"
    )
    code = "import sys; sys.argv[0] = 'suffice'; from suffice.cli import main; main()"
    words = ["web", "--no-browser", "--port", "0", "--token", "secret", "--model", "tiny:build", "--input-size", "16"]
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}"}
    running = subprocess.Popen(
        [sys.executable, "-c", code, *words], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment
    )
    try:
        assert running.stdout is not None
        line = running.stdout.readline()
        found = re.fullmatch(r"suffice web: (http://127\.0\.0\.1:\d+/)\?token=secret\n", line)
        assert found, (line, running.stderr.read() if running.poll() is not None and running.stderr else "")
        import urllib.request

        asked = urllib.request.Request(f"{found[1]}api/health", headers={"authorization": "Bearer secret"})
        until = time.monotonic() + 10
        while True:
            try:
                with urllib.request.urlopen(asked, timeout=5) as answer:
                    assert answer.status == 200
                break
            except OSError:
                assert time.monotonic() < until
                time.sleep(0.05)
        running.send_signal(signal.SIGTERM)
        assert running.wait(20) in (0, 130, 143)
    finally:
        running.kill()
        running.communicate()


@pytest.fixture
def audit_page(browser: Any, module_: Corner, tmp_path: Path) -> Iterator[Any]:
    """The open page at /audit, of an audit whose every text is hostile."""
    texts = dict.fromkeys(("name", "where", "verdict", "why"), HOSTILE)

    def audited(model: Served) -> Audited:
        return open_audit(str(audit(tmp_path / "a", model, **texts)), [model])

    with answering(module_, audited=audited) as address, watched(browser, address, "audit") as opened:
        yield opened


def choose(page: Any, data: bytes) -> None:
    page.set_input_files("#file", {"name": HOSTILE_FILE, "mimeType": "image/png", "buffer": data})


def test_names_of_an_audit_are_text_and_a_class_that_is_there_already_does_not_come(audit_page: Any) -> None:
    expect(audit_page.locator("#about")).to_have_text(f"{HOSTILE}.")
    expect(audit_page.locator("#cluster option").first).to_have_text(f"{HOSTILE}, {HOSTILE}: {HOSTILE}")
    expect(audit_page.locator("#left-out")).to_contain_text("Surroundings are left out (1)")
    choose(audit_page, photo())
    expect(audit_page.locator(".verdict.plain strong")).to_have_text(f"It says {HOSTILE} already")
    expect(audit_page.locator("#pasted figcaption").first).to_have_text(re.compile(f"^{re.escape(HOSTILE)}, "))
    choose(audit_page, dark())
    expect(audit_page.locator(".verdict.alarm strong")).to_have_text(f"Pasted, {HOSTILE} comes in 5 of 5")
    assert audit_page.locator("main img[src='x']").count() == 0


def test_the_latest_choice_is_answered_whatever_answer_comes_last(audit_page: Any) -> None:
    audit_page.evaluate(
        """() => {
            const plain = window.fetch;
            window.held = [];
            window.fetch = (path, how) => window.hold && path.startsWith(window.hold)
                ? new Promise(done => window.held.push(() => plain(path, {...how, signal: null}).then(done)))
                : plain(path, how);
        }"""
    )
    for hold, first, second in (
        ("/api/images", lambda: choose(audit_page, photo()), lambda: choose(audit_page, dark())),
        (
            "/api/audit/1/",
            lambda: audit_page.select_option("#cluster", "1"),
            lambda: audit_page.select_option("#cluster", "0"),
        ),
    ):
        audit_page.evaluate("hold => { window.hold = hold; }", hold)
        first()
        audit_page.wait_for_function("window.held.length === 1")
        audit_page.evaluate("() => { window.hold = ''; }")
        second()
        expect(audit_page.locator(".verdict strong")).to_have_text(f"Pasted, {HOSTILE} comes in 5 of 5")
        audit_page.evaluate("() => Promise.all(window.held.splice(0).map(go => go()))")
        audit_page.wait_for_timeout(200)
        expect(audit_page.locator(".verdict strong")).to_have_text(f"Pasted, {HOSTILE} comes in 5 of 5")


def dark() -> bytes:
    """An image of the class "dark"."""
    file = io.BytesIO()
    Image.linear_gradient("L").resize((64, 64)).point(lambda value: value // 4).save(file, "PNG")
    return file.getvalue()
