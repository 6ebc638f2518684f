"""How long a visitor waits, on one thread, with the default model: `python experiments/web_latency.py`.

Measured in a Chromium without a screen that uses the page of `suffice web`: until the page can be used, until the first
explanation, from a move of the slider to the frame with the new part and to the model's confidence for it, from the end
of a stroke of the brush to its answer, from the button to the end of a run that is cancelled. It prints medians and the
largest of each.
"""

from __future__ import annotations

import argparse
import re
import statistics
import time
from typing import Any

from playwright.sync_api import expect, sync_playwright

from screenshots import CHROMIUM, serving

_MOVED = """async value => {
    const slider = document.querySelector("#slider"), says = document.querySelector("#says");
    const started = performance.now();
    const answered = new Promise(done => new MutationObserver((_, observer) => {
        observer.disconnect(); done(performance.now() - started);
    }).observe(says, {attributes: true}));
    slider.value = value;
    slider.dispatchEvent(new Event("input"));
    const called = performance.now() - started;
    await new Promise(done => requestAnimationFrame(() => done()));
    const drawn = performance.now() - started;
    return [called, drawn, await answered];
}"""


_ANSWERED = """() => { window.answered = new Promise(done => {
    const canvas = document.querySelector("#canvas"), once = {once: true, capture: true};
    canvas.addEventListener("pointerup", () => { window.up = performance.now(); }, once);
    new MutationObserver((_, observer) => { observer.disconnect(); done(performance.now() - window.up); })
        .observe(document.querySelector("#says"), {attributes: true});
}); }"""


def said(name: str, values: list[float], unit: str = "ms") -> None:
    print(
        f"{name}: median {statistics.median(values):.0f} {unit}, largest {max(values):.0f} {unit}, {len(values)} times"
    )


def strokes(page: Any, count: int) -> list[float]:
    """Milliseconds from the end of each stroke to its answer."""
    page.check("input[value=erase]")
    page.select_option("#occlusion", "mean")
    page.wait_for_timeout(1000)
    page.locator("#canvas").scroll_into_view_if_needed()
    box = page.locator("#canvas").bounding_box()
    found = []
    for index in range(count):
        x, y = box["x"] + box["width"] * (0.2 + 0.6 * index / count), box["y"] + box["height"] / 2
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + 5, y + 20, steps=3)
        page.evaluate(_ANSWERED)
        page.mouse.up()
        found.append(page.evaluate("window.answered"))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--times", type=int, default=40)
    times = parser.parse_args().times
    with serving() as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        page = browser.new_page()
        sizes: list[int] = []
        page.on("response", lambda answer: sizes.append(int(answer.headers.get("content-length", 0))))
        started = time.perf_counter()
        page.goto(address)
        page.wait_for_selector("body[data-ready]")
        said("until the page can be used", [1000 * (time.perf_counter() - started)])
        page.wait_for_timeout(5000)  # the server makes the faster copy of its model meanwhile
        started = time.perf_counter()
        page.click("#samples button:has-text('cat')")
        page.wait_for_selector("#verdict .verdict", timeout=300_000)
        said("first explanation after the drop", [time.perf_counter() - started], "s")
        expect(page.locator("#status")).to_have_text("Done.", timeout=300_000)
        for occlusion in ("robust", "mean"):
            page.select_option("#occlusion", occlusion)
            page.wait_for_timeout(1000)
            moves = [page.evaluate(_MOVED, 150 + 20 * index) for index in range(times)]
            for index, name in enumerate(("the part is made", "the frame with it", "its confidence")):
                said(f"slider, {occlusion}: {name}", [move[index] for move in moves])
        said("brush, mean: its answer", strokes(page, times))
        stopped = []
        for _ in range(max(3, times // 8)):
            page.click("#explain")
            expect(page.locator("#progress-text")).to_contain_text(re.compile("[1-9][0-9]* images"))
            started = time.perf_counter()
            page.click("#cancel")
            expect(page.locator("#status")).to_have_text("Cancelled.")
            stopped.append(1000 * (time.perf_counter() - started))
        said("cancel: until it has stopped", stopped)
        browser.close()


if __name__ == "__main__":
    main()
