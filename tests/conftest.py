"""What the tests share: the photos, the default model, and one thread, so that a run does not depend on the machine."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from suffice.classifier import Classifier


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session", autouse=True)
def _nothing_converted() -> None:
    """Where OpenVINO is installed no test but those of it waits for a conversion, or keeps one in the user's folder."""
    os.environ["SUFFICE_OPENVINO"] = "0"


@pytest.fixture(autouse=True)
def _repeatable() -> Iterator[None]:
    """Random weights and inputs are the same in every run, and no test hands its draws on to the next."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        yield


@pytest.fixture(scope="session")
def imagenet20() -> list[tuple[Path, int]]:
    """Twenty photos of ImageNet, each with its class, which the number at the end of the file's name gives."""
    data = os.environ.get("SUFFICE_DATA")
    if not data:
        pytest.skip("needs photos: set SUFFICE_DATA to the folder that holds imagenet20")
    photos = sorted(Path(data, "imagenet20").glob("*.jpg"))
    assert len(photos) == 20, f"expected 20 photos in imagenet20 of SUFFICE_DATA; got {len(photos)}"
    return [(photo, int(photo.stem.rpartition("_")[2])) for photo in photos]


@pytest.fixture(scope="session")
def default_classifier() -> Classifier:
    """The embedded default with its real weights; shared, so a test that looks at its counters takes differences."""
    from suffice.models import load_classifier

    return load_classifier(device="cpu")


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """Debian's Chromium without a screen, which reaches this machine alone."""
    chromium = Path(os.environ.get("SUFFICE_CHROMIUM", "/usr/bin/chromium"))
    if not chromium.exists():
        pytest.skip(f"needs a browser at {chromium}: apt-get install chromium")
    playwright = pytest.importorskip("playwright.sync_api", reason="needs playwright: pip install suffice[dev]")
    with playwright.sync_playwright() as driver:
        arguments = ["--no-sandbox", "--disable-gpu", "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE 127.0.0.1"]
        opened = driver.chromium.launch(executable_path=str(chromium), args=arguments)
        yield opened
        opened.close()


@pytest.fixture(scope="session")
def faults_by_axe() -> Callable[[Any], list[Any]]:
    """What axe-core finds wrong with an open page: names, how bad, and where."""
    axe = os.environ.get("SUFFICE_AXE")
    if not axe:
        pytest.skip("needs axe-core: npm install axe-core, and SUFFICE_AXE=node_modules/axe-core/axe.min.js")
    script = Path(axe).read_text(encoding="utf-8")

    def faults(page: Any) -> list[Any]:
        page.evaluate(script)
        found = page.evaluate("axe.run()")["violations"]
        return [(each["id"], each["impact"], [node["html"] for node in each["nodes"]][:3]) for each in found]

    return faults


@pytest.fixture(scope="session")
def unreadable() -> Callable[[Any], list[str]]:
    """What of an open page has no name for who cannot see it, or is too faint."""
    return lambda page: page.evaluate(_NAMELESS) + page.evaluate(_FAINT)


# Fields without a name, for who cannot see them.
_NAMELESS = """() => [...document.querySelectorAll("input, select, button, canvas, a, progress, img, [role=region]")]
    .filter(each => !(each.labels?.length || each.ariaLabel || each.textContent.trim() || each.alt !== undefined
        || each.closest("label, [aria-hidden=true]")))
    .map(each => each.outerHTML)"""

# Texts whose contrast is below 4.5, as WCAG counts it.
_FAINT = """() => {
    const curved = value => value <= 0.03928 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4;
    const channel = value => curved(value / 255);
    const light = ([r, g, b]) => 0.2126 * channel(r) + 0.7152 * channel(g) + 0.0722 * channel(b);
    const numbers = text => text.match(/[\\d.]+/g).map(Number);
    const behind = element => {
        for (let at = element; at; at = at.parentElement) {
            const colour = numbers(getComputedStyle(at).backgroundColor);
            if (colour.length === 3 || colour[3] === 1) return colour;
        }
        return numbers(getComputedStyle(document.body).backgroundColor);
    };
    const found = [];
    for (const each of document.querySelectorAll("body *")) {
        const own = [...each.childNodes].some(node => node.nodeType === 3 && node.textContent.trim());
        if (!own || !each.checkVisibility() || each.disabled) continue;
        const [a, b] = [light(numbers(getComputedStyle(each).color)), light(behind(each))].sort((x, y) => y - x);
        if ((a + 0.05) / (b + 0.05) < 4.5) found.push(`${each.tagName}: ${each.textContent.trim().slice(0, 40)}`);
    }
    return found;
}"""
