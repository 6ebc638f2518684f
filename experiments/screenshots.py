"""Screenshots of the page, for the README and the docs: `make screenshots`.

    python experiments/screenshots.py [--out docs]

It starts `suffice web` with the default model, drops a sample photo, and takes pictures in a Chromium without a screen:
`web.png` (light, wide) and, with --all, `web-dark.png` and `web-phone.png`.
"""

from __future__ import annotations

import argparse
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from playwright.sync_api import expect, sync_playwright

CHROMIUM = "/usr/bin/chromium"


@contextmanager
def serving(*words: str) -> Iterator[str]:
    """`suffice web` with the default model in a process of its own: its address."""
    code = "import sys; sys.argv[0] = 'suffice'; from suffice.cli import main; main()"
    command = [sys.executable, "-c", code, "web", "--no-browser", "--port", "0", *words]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        found = re.search(r"http://\S+", running.stdout.readline())
        assert found, "suffice web printed no address"
        yield found[0]
    finally:
        running.terminate()
        running.wait()


def explained(page: Any, address: str, sample: str) -> None:
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    page.click(f"#samples button:has-text('{sample}')")
    expect(page.locator("#status")).to_have_text("Done.", timeout=300_000)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--sample", default="coffee")
    parser.add_argument("--all", action="store_true", help="also dark, and on a phone")
    arguments = parser.parse_args()
    views: dict[str, dict[str, Any]] = {"web": {"viewport": {"width": 1180, "height": 1000}}}
    if arguments.all:
        views["web-dark"] = {**views["web"], "color_scheme": "dark"}
        views["web-phone"] = {"viewport": {"width": 360, "height": 740}}
    with serving() as address, sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        for name, view in views.items():
            page = browser.new_context(**view).new_page()
            explained(page, address, arguments.sample)
            page.screenshot(path=arguments.out / f"{name}.png", full_page=name != "web")
            print(arguments.out / f"{name}.png")
        browser.close()


if __name__ == "__main__":
    main()
