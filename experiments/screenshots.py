"""Screenshots of the page, the report and a notebook's cell, for the README and the docs: `make screenshots`.

    python experiments/screenshots.py [--out docs] [--all]

It starts `suffice web` with the default model, drops a sample photo, and takes pictures in a Chromium without a screen:
`web.png`, `report.png` and `notebook.png` (light, wide) and, with --all, each dark and on a phone, and the
report printed.
"""

from __future__ import annotations

import argparse
import html
import io
import itertools
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from PIL import Image
from playwright.sync_api import expect, sync_playwright

import suffice

CHROMIUM = "/usr/bin/chromium"


@contextmanager
def serving(*words: str) -> Iterator[tuple[str, int]]:
    """`suffice web` with the default model in a process of its own: its address, and the number of the process."""
    code = "import sys; sys.argv[0] = 'suffice'; from suffice.cli import main; main()"
    command = [sys.executable, "-c", code, "web", "--no-browser", "--port", "0", *words]
    running = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
    try:
        assert running.stdout is not None
        found = re.search(r"http://\S+", running.stdout.readline())
        assert found, "suffice web printed no address"
        yield found[0], running.pid
    finally:
        running.terminate()
        running.wait()


def explained(page: Any, address: str, sample: str) -> None:
    page.goto(address)
    page.wait_for_selector("body[data-ready]")
    page.click(f"#samples button:has-text('{sample}')")
    expect(page.locator("#status")).to_have_text("Done.", timeout=300_000)


def reported(page: Any, folder: Path, sample: str) -> None:
    """The report of a sample photo, all of it drawn."""
    if not (folder / "report.html").exists():
        command = [sys.executable, "-m", "suffice", "explain", f"sample:{sample}"]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, cwd=folder.parent)
    page.goto((folder / "report.html").as_uri())
    page.evaluate("document.querySelector('.along').scrollIntoView({behavior: 'instant'})")
    page.wait_for_selector("[data-built]")
    page.evaluate("scrollTo({top: 0, behavior: 'instant'})")


def cell_of(sample: str) -> str:
    """A cell of a notebook and what it shows, as a page."""
    classifier = suffice.load_classifier()
    code = f"""image = suffice.load_image("sample:{sample}", classifier)
suffice.explain(classifier, image, curve=8, paste=True)"""
    found = suffice.explain(classifier, suffice.load_image(f"sample:{sample}", classifier), curve=8, paste=True)
    return f"""<!DOCTYPE html><html lang="en"><title>A cell</title><meta name="color-scheme" content="light dark">
<body style="font: 14px system-ui, sans-serif; margin: 16px">
<pre style="background: #8881; padding: 10px; border: 1px solid #8884; white-space: pre-wrap">{html.escape(code)}</pre>
{found._repr_html_()}</body></html>"""


def celled(page: Any, cell: str) -> None:
    page.set_content(cell)
    page.frames[1].wait_for_selector("[data-built]")


def saved(page: Any, path: Path, full_page: bool) -> None:
    """A picture of the page in 256 colours, a third of its size."""
    shot = Image.open(io.BytesIO(page.screenshot(full_page=full_page)))
    shot.convert("RGB").quantize(256).save(path, optimize=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("docs"))
    parser.add_argument("--sample", default="coffee")
    parser.add_argument("--all", action="store_true", help="also dark, on a phone, and printed")
    arguments = parser.parse_args()
    sample, heights = arguments.sample, {"web": 1000, "report": 1940, "notebook": 740}
    views: dict[str, dict[str, Any]] = {"": {}}
    if arguments.all:
        views |= {"-dark": {"color_scheme": "dark"}, "-phone": {"viewport": {"width": 360, "height": 740}}}
    with tempfile.TemporaryDirectory() as folder, serving() as (address, _), sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        cell = cell_of(sample)
        opened = {
            "web": lambda page: explained(page, address, sample),
            "report": lambda page: reported(page, Path(folder) / "suffice-out", sample),
            "notebook": lambda page: celled(page, cell),
        }
        for (what, open_it), (suffix, view) in itertools.product(opened.items(), views.items()):
            page = browser.new_context(**{"viewport": {"width": 1180, "height": heights[what]}, **view}).new_page()
            open_it(page)
            saved(page, arguments.out / f"{what}{suffix}.png", full_page=bool(suffix))
            print(arguments.out / f"{what}{suffix}.png")
            if arguments.all and what == "report" and not suffix:
                page.pdf(path=arguments.out / "report.pdf")
        browser.close()


if __name__ == "__main__":
    main()
