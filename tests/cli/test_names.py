"""Names that anybody may choose, files that are none, and models that talk, or end the program."""

from __future__ import annotations

import io
import json
import os
import re
import subprocess
import sys
import xml.etree.ElementTree as ElementTree
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from markupsafe import escape
from PIL import Image

from suffice.cli.command import progress_bar
from suffice.cli.process import printable
from suffice.report.html import content_hash

QUICK = ("--model", "toy_models:corner", "--occlusion", "min", "--set", "block=8")
CONTROL = [chr(code) for code in (*range(32), *range(127, 160), 0x202E, 0x2066)]

HOSTILE = [
    os.fsdecode(b"caf\xe9\xff.png"),
    "a\x1b]0;title\x07\x1b[31mred.png",
    "two\nlines\r.png",
    "\u202egnp.png",
    "<img src=x onerror=alert(1)>.png",
    "<script>alert(1)</script>.png".replace("/", "\u2215"),
    "{{ 7*7 }}{% raw %}.png",
    "$(touch owned).png",
    "`touch owned`.png",
    "a;b|c&d.png",
    "--out=owned.png",
    "=1+1.png",
    "\x85\x9b31m.png",
]


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take only names that are text")
@pytest.mark.parametrize("name", HOSTILE, ids=ascii)
def test_a_files_name_is_shown_and_not_obeyed(name: str, suffice: Any, save_photo: Any, contents: Any) -> None:
    save_photo(name)
    np.save("map.npy", np.random.default_rng(0).random((32, 32)))
    heat = f"{name}.npy"
    Path(heat).write_bytes(Path("map.npy").read_bytes())
    circuit = ("--model", "toy_models:convolution", "--layers", "all", "--switch", "all", "--random", "1")
    for words, page in (
        (("explain", *QUICK, "--out", "o", "--", name), "o/report.html"),
        (("score", *QUICK[:4], "--metrics", "area", "--out", "o2", "--", name, heat), "o2/report.html"),
        (("circuit", *circuit, "--out", "o3", "--", name), "o3/circuits.html"),
    ):
        run = suffice(*words)
        assert (run.status, run.err) == (0, "")
        assert not set(run.out) & (set(CONTROL) - {"\n"})
        text = Path(page).read_text(encoding="utf-8")
        assert "<img src=x" not in text
        assert "<script>alert" not in text
        assert not set(text) & (set(CONTROL) - {"\n", "\u202e", "\u2066"})
        assert "49" not in text.partition("<title>")[2].partition("</title>")[0]
    for svg in Path("o3").glob("*/circuit.svg"):
        ElementTree.parse(svg)
    run = suffice("explain", *QUICK, "--json", "--", name)
    assert run.json[0]["image"] == name  # escapes that JSON itself reads back
    assert not set(run.out) & (set(CONTROL) - {"\n"})
    assert not any(
        "owned" in path for path in contents() if not path.startswith(name) and not path.startswith(("o/", "o3/"))
    )


@pytest.mark.parametrize("name", ["\x1b[31mnone.png", "a\nb.png", "\x00.png"[1:] + "\x9b1m.png"])
def test_a_complaint_shows_a_name_without_what_a_terminal_obeys(name: str, suffice: Any) -> None:
    run = suffice("explain", name, *QUICK)
    assert run.status == 2
    assert not set(run.complaints(1)[0]) & set(CONTROL)


def test_class_names_with_anything_in_them(suffice: Any, save_photo: Any, toy_models: Any, monkeypatch: Any) -> None:
    names = ["plain", "half \ud83d and \x1b[31m and \x00 and <b>\n=cmd|' /C calc'!A0"]
    classifier = toy_models.corner()
    monkeypatch.setattr(toy_models, "corner", lambda: classifier)
    classifier.class_names = tuple(names)
    photo = save_photo("a.png")
    run = suffice("explain", photo, *QUICK, "--out", "o")
    assert (run.status, run.err) == (0, "")
    assert not set(run.out) & (set(CONTROL) - {"\n"})
    assert r"half \ud83d and \u001b[31m and \u0000 and <b>\u000a=cmd" in run.out
    assert json.loads(Path("o/a/explanation.json").read_text())["target_name"] == names[1]
    from suffice.saved import load_explanation

    assert load_explanation("o/a").target_name == names[1]
    run = suffice("explain", photo, *QUICK, "--json")
    assert run.json[0]["target_name"] == names[1]
    np.save("map.npy", np.random.default_rng(0).random((32, 32)))
    run = suffice("score", photo, "map.npy", *QUICK[:4], "--metrics", "area", "--out", "o2")
    assert (run.status, run.err) == (0, "")
    assert not set(run.out) & (set(CONTROL) - {"\n"})


class Elements(HTMLParser):
    """What a browser would make of a page: every tag with its attributes, and what scripts hold."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.scripts: list[str] = []
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append((tag, dict(attrs)))
        if tag == "script":
            self.scripts.append("")

    def handle_data(self, data: str) -> None:
        if self.cdata_elem == "script":
            self.scripts[-1] += data


BREAKING_OUT = (
    '"><script>alert(1)</script>',
    "' onmouseover='alert(1)' x='",
    "</title></style></script><img src=x onerror=alert(1)>",
    "javascript:alert(1)",
    "</svg><a href=javascript:alert(1)>",
)


@pytest.mark.parametrize("name", BREAKING_OUT)
def test_in_a_page_nothing_but_the_page_acts(
    name: str, suffice: Any, save_photo: Any, toy_models: Any, monkeypatch: Any
) -> None:
    for model, classes in (("corner", 2), ("convolution", 4)):
        classifier = getattr(toy_models, model)()
        monkeypatch.setattr(toy_models, model, lambda classifier=classifier: classifier)
        classifier.class_names = tuple(f"{name}{number}" for number in range(classes))
    file = name.replace("/", "\u2215")
    photo, heat = save_photo(f"photos/{file}_1.png"), f"{file}.npy"
    save_photo("photos/bad_1.png", marker="fail")
    np.save("map.npy", np.random.default_rng(0).random((32, 32)))
    Path("map.npy").rename(heat)
    Path("b.toml").write_text(
        f"title = {json.dumps(name)}\nnote = {json.dumps(name)}\n"
        + BENCHMARK.replace('label = "', f"label = {json.dumps(name)[:-1]}")
    )
    circuit = ("--model", "toy_models:convolution", "--layers", "all", "--switch", "all", "--random", "1")
    suffice("bench", "b.toml", "--out", "bench")
    for words in (
        ("explain", "photos", *QUICK, "--out", "o"),
        ("score", photo, heat, *QUICK[:4], "--metrics", "area", "--out", "o2"),
        ("circuit", photo, *circuit, "--out", "o3"),
        ("bench-report", "bench", "--format", "html"),
    ):
        run = suffice(*words)
        assert run.status == (1 if words[1] == "photos" else 0), run.err
    for page in ("o/report.html", "o2/report.html", "o3/circuits.html", "bench/report.html"):
        text = Path(page).read_text(encoding="utf-8")
        found = Elements(text)
        policy = next(attrs["content"] for tag, attrs in found.tags if attrs.get("http-equiv"))
        assert policy is not None
        assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
        assert [f"'{content_hash(script)}'" in policy for script in found.scripts] in ([], [True])
        for tag, attrs in found.tags:
            assert not any(attribute.startswith("on") for attribute in attrs), (tag, attrs)
            for link in (attrs.get("href"), attrs.get("src"), attrs.get("xlink:href")):
                assert link is None or link.startswith(("#", "data:image/")) or ":" not in link, link
            assert tag != "img" or str(attrs["src"]).startswith("data:image/")
        assert escape(name) in text


BENCHMARK = """
gammas = [0.5]
target = "predicted"
[[datasets]]
source = "photos"
[[models]]
model = "toy_models:corner"
label = "\\u001b[31m\\u0000 \\u202e[bold][/] \\u009b"
[[methods]]
method = "causal"
[[metrics]]
names = ["area"]
"""


def test_a_benchmark_says_names_without_what_a_terminal_obeys(suffice: Any, save_photo: Any) -> None:
    save_photo("photos/\x1b[31m\u202e_1.png", marker="fail")
    Path("b.toml").write_text(BENCHMARK)
    run = suffice("bench", "b.toml", "--out", "o\x1b[31m")
    assert run.status == 1
    assert r"failed: \u001b[31m\u0000 \u202e[bold][/] \u009b causal" in run.err
    assert not set(run.err) & (set(CONTROL) - {"\n"})
    for form in ("markdown", "latex", "csv"):
        run = suffice("bench-report", "o\x1b[31m", "--format", form)
        assert not set(run.out + run.err) & (set(CONTROL) - {"\n"})


def test_a_training_says_names_without_what_a_terminal_obeys(suffice: Any, save_photo: Any) -> None:
    for kind in ("left", "right"):
        for number in range(5):
            save_photo(f"photos/{kind}/{number}.png", number)
    Path("photos/left/\x1b[31m\u202e.png").write_bytes(b"no photo")
    quick = ("--model", "toy_models:trainable", "--accelerator", "cpu", "--set", "epochs=1", "--out", "run")
    run = suffice("train-classifier", "photos", *quick)
    assert run.status == 0, run.err
    assert r"\u001b[31m\u202e.png" in run.err
    assert not set(run.err) & (set(CONTROL) - {"\n"})


def test_warnings_and_tracebacks_show_names_without_what_a_terminal_obeys(suffice: Any, save_photo: Any) -> None:
    Path("talking.py").write_text(
        "import toy_models, warnings\n"
        "def build():\n"
        "    warnings.warn('a \\x1b[31m\\u202e name')\n"
        "    raise ValueError('no \\x1b[31m\\u202e\\n\\x9b such')\n"
    )
    path = os.pathsep.join([os.getcwd(), str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", "import suffice.cli; suffice.cli.main()", "explain", save_photo("a.png"),
         "--model", "talking:build", "--traceback"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 2
    assert r"UserWarning: a \u001b[31m\u202e name" in done.stderr
    assert r"ValueError: no \u001b[31m\u202e" in done.stderr
    assert "Traceback" in done.stderr
    assert not set(done.stderr) & (set(CONTROL) - {"\n"})


@pytest.mark.parametrize("name", ["[bold]", "[red]a[\u2215red]", "[\\]", ":smile:", "a\x1b[31m\u202e"])
def test_the_progress_bar_shows_a_name_and_obeys_none(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    monkeypatch.setattr(sys, "stderr", terminal)
    monkeypatch.setenv("TERM", "xterm")
    with progress_bar(2)(f"photos/{name}") as told:
        told(0.5)
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", terminal.getvalue())  # rich's own
    assert printable(name) in shown
    assert not set(shown) & (set(CONTROL) - {"\n", "\r"})


# Files that are none


NO_FILES = {
    "pipe": (os.mkfifo, "is a pipe, a socket or a device"),
    "endless device": (lambda path: path.symlink_to("/dev/zero"), "is a pipe, a socket or a device"),
    "directory": (lambda path: path.mkdir(), "director"),
    "link to itself": (lambda path: path.symlink_to(path.name), "symbolic links"),
}


@pytest.mark.skipif(os.name != "posix", reason="files of POSIX")
@pytest.mark.parametrize("kind", NO_FILES)
@pytest.mark.parametrize("place", ["image", "map", "mask", "weights", "classes", "config", "occlusion", "references"])
def test_what_is_no_file_is_refused_before_it_is_read(place: str, kind: str, suffice: Any, save_photo: Any) -> None:
    photo = save_photo("a.png")
    suffix = {"map": ".npy", "weights": ".safetensors", "classes": ".txt", "config": ".toml"}.get(place, ".png")
    path = Path(f"x{suffix}")
    make, said = NO_FILES[kind]
    make(path)
    circuit = ("circuit", "--model", "toy_models:convolution", "--layers", "all")
    words: dict[str, tuple[str, ...]] = {
        "image": ("explain", str(path), *QUICK),
        "map": ("score", photo, str(path), *QUICK[:4]),
        "mask": (*circuit, photo, "--mask", str(path)),
        "weights": ("explain", photo, *QUICK, "--weights", str(path)),
        "classes": ("explain", photo, *QUICK, "--classes", str(path)),
        "config": ("bench", str(path)),
        "occlusion": ("explain", photo, *QUICK, "--occlusion", f"image:{path}"),
        "references": (*circuit, photo, "--reference", str(path)),
    }
    run = suffice(*words[place])
    assert run.status == 2
    assert run.out == ""
    complaint = run.complaints(1)[0]
    assert path.name in complaint
    if kind != "directory" and place in ("image", "map", "mask", "occlusion", "references"):
        assert said.lower() in complaint.lower()


# Models that talk, or end the program


def test_what_a_model_prints_is_not_among_the_results(suffice: Any, save_photo: Any) -> None:
    photos = [save_photo("a.png", 1, "print"), save_photo("b.png", 2)]
    np.save("map.npy", np.random.default_rng(0).random((32, 32)))
    explain = ("explain", *photos, *QUICK, "--json")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join([str(Path(__file__).parent), *sys.path])}
    program = "import suffice.cli; suffice.cli.main()"
    done = subprocess.run(
        [sys.executable, "-c", program, *explain], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert all(isinstance(json.loads(line), dict) for line in done.stdout.splitlines())
    assert "a model that talks" in done.stderr
    assert "also past Python" in done.stderr
    for words in (explain, ("score", photos[0], "map.npy", *QUICK[:4], "--metrics", "area", "--json")):
        run = suffice(*words)
        assert run.status == 0
        assert run.json
        assert "a model that talks" in run.err


def test_what_c_code_prints_late_is_not_among_the_results(suffice: Any, save_photo: Any) -> None:
    """C's own buffer is written when it is full, or as the program ends."""
    Path("printing.py").write_text(
        "import ctypes, toy_models\n"
        "def build():\n"
        "    ctypes.CDLL(None).printf(b'from C\\n')\n"
        "    return toy_models.corner()\n"
    )
    photo = save_photo("a.png")
    path = os.pathsep.join([os.getcwd(), str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", "import suffice.cli; suffice.cli.main()", "explain", photo, "--model", "printing:build",
         *QUICK[2:], "--json"],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert len([json.loads(line) for line in done.stdout.splitlines()]) == 1
    assert "from C" in done.stderr


@pytest.mark.parametrize(
    ("marker", "said"), [("exit", "its code ended the program, SystemExit: 0"), ("generator exit", "GeneratorExit")]
)
def test_a_model_that_ends_the_program_costs_one_image(
    marker: str, said: str, suffice: Any, save_photo: Any, contents: Any
) -> None:
    bad, good = save_photo("bad.png", 1, marker), save_photo("good.png", 2)
    np.save("map.npy", np.random.default_rng(0).random((32, 32)))
    before = contents()
    for words in (("explain", bad, *QUICK), ("score", bad, "map.npy", *QUICK[:4], "--metrics", "area")):
        run = suffice(*words)
        assert (run.status, run.out) == (2, "")
        assert said in run.complaints(1)[0]
        assert contents() == before
    run = suffice("explain", bad, good, *QUICK, "--json", "--out", "o")
    assert run.status == 1
    assert said in run.complaints(1)[0]
    assert [line["image"] for line in run.json] == [good]
    assert "bad.png" in Path("o/report.html").read_text(encoding="utf-8")


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("SystemExit(0)", "its code ended the program, SystemExit: 0"),
        ("GeneratorExit", "GeneratorExit"),
        ("Silent", "Silent (--traceback shows where)"),
        ("RuntimeError('x' * 10**6)", "xxx … xxx"),
    ],
)
def test_a_model_that_ends_the_program_costs_one_circuit(error: str, said: str, suffice: Any, save_photo: Any) -> None:
    Path("ending.py").write_text(
        "import toy_models\n"
        "class Silent(Exception):\n"
        "    def __str__(self): raise RuntimeError('no words')\n"
        "def build():\n"
        "    classifier = toy_models.convolution()\n"
        "    def ends(module, inputs):\n"
        f"        if bool((inputs[0][:, 2, -1, -1] == 1).any()): raise {error}\n"
        "    classifier.module.register_forward_pre_hook(ends)\n"
        "    return classifier\n"
    )
    bad, good = save_photo("bad.png", 1, "interrupt"), save_photo("good.png", 2)  # a blue last pixel
    words = ("--model", "ending:build", "--layers", "all", "--switch", "all", "--random", "1", "--json")
    sys.path.insert(0, os.getcwd())
    try:
        alone, both = suffice("circuit", bad, *words), suffice("circuit", bad, good, *words)
    finally:
        sys.path.remove(os.getcwd())
        sys.modules.pop("ending", None)
    assert (alone.status, alone.out, both.status) == (2, "", 1)
    for run in (alone, both):
        line = run.complaints(1)[0]
        assert all(part in line for part in said.split(" … "))
        assert len(line) < 3000
    assert [line["image"] for line in both.json] == [good]


def test_a_model_that_ends_the_program_as_it_is_asked_what_it_returns(suffice: Any, save_photo: Any) -> None:
    Path("asked.py").write_text(
        "import sys, suffice, torch\n"
        "class Ends(torch.nn.Module):\n"
        "    def forward(self, x): sys.exit(0)\n"
        "def build(): return suffice.Classifier(Ends(), input_size=(32, 32), mean=(0,) * 3, std=(1,) * 3)\n"
    )
    sys.path.insert(0, os.getcwd())
    try:
        run = suffice("explain", save_photo("a.png"), "--model", "asked:build", "--json")
    finally:
        sys.path.remove(os.getcwd())
        sys.modules.pop("asked", None)
    assert (run.status, run.out) == (2, "")
    assert "could not load asked:build: its code ended the program, SystemExit: 0" in run.complaints(1)[0]


@pytest.mark.parametrize("words", [("--json",), pytest.param(("--out", "o"), marks=pytest.mark.slow)])
def test_a_model_that_closes_stdout(words: tuple[str, ...], suffice: Any, save_photo: Any) -> None:
    Path("closing.py").write_text(
        "import sys, toy_models\ndef build():\n    sys.stdout.close()\n    return toy_models.corner()\n"
    )
    path = os.pathsep.join([os.getcwd(), str(Path(__file__).parent), *sys.path])
    done = subprocess.run(
        [sys.executable, "-c", "import suffice.cli; suffice.cli.main()", "explain", save_photo("a.png"), "none.png",
         "--model", "closing:build", *QUICK[2:], *words],
        env={**os.environ, "PYTHONPATH": path}, capture_output=True, text=True, timeout=120,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == "suffice: expected an image file; there is none at none.png\n"
    assert "bright corner" in done.stdout


def test_a_model_that_ends_the_program_as_it_is_built(suffice: Any, save_photo: Any) -> None:
    Path("ending.py").write_text("import sys\ndef build():\n    sys.exit()\n")
    sys.path.insert(0, os.getcwd())
    try:
        run = suffice("explain", save_photo("a.png"), "--model", "ending:build")
    finally:
        sys.path.remove(os.getcwd())
        sys.modules.pop("ending", None)
    assert (run.status, run.out) == (2, "")
    assert "could not load ending:build: its code ended the program, SystemExit" in run.complaints(1)[0]


@pytest.mark.parametrize(
    ("words", "said"),
    [("sys.exit(0)", "its code ended the program, SystemExit"), ("raise GeneratorExit", "GeneratorExit")],
)
def test_a_model_that_always_ends_the_program(words: str, said: str, suffice: Any, save_photo: Any) -> None:
    code = f"import sys, torch\nclass Ends(torch.nn.Module):\n    def forward(self, x):\n        {words}\n"
    Path("always_ending.py").write_text(code)
    options = ("--input-size", "32", "--mean", "0", "--std", "1", "--occlusion", "min", "--json")
    sys.path.insert(0, os.getcwd())
    try:
        run = suffice("explain", save_photo("a.png"), "--model", "always_ending:Ends", *options)
    finally:
        sys.path.remove(os.getcwd())
        sys.modules.pop("always_ending", None)
    assert (run.status, run.out) == (2, "")
    assert said in run.complaints(1)[0]


# What was assumed of an image, and what was left out


def test_what_was_assumed_is_said_and_recorded(suffice: Any, save_photo: Any) -> None:
    photo = save_photo("a.png")
    pixels = np.asarray(Image.open(photo).convert("RGBA")).copy()
    pixels[20:, :, 3] = 0
    Image.fromarray(pixels).save("clear.png")
    np.save("map.npy", np.random.default_rng(0).random((32, 32)))
    note = "Its transparent parts are shown on white."
    run = suffice("explain", "clear.png", *QUICK, "--out", "o")
    assert f"  note: {note}\n" in run.out
    assert json.loads(Path("o/clear/explanation.json").read_text())["notes"] == [note]
    assert note in Path("o/report.html").read_text()
    run = suffice("score", "clear.png", "map.npy", *QUICK[:4], "--metrics", "area", "--json")
    assert run.json[0]["notes"] == [note]
    circuit = ("--model", "toy_models:convolution", "--layers", "all", "--switch", "all", "--random", "1")
    assert suffice("circuit", "clear.png", *circuit, "--json").json[0]["notes"][0] == note


def test_a_folder_says_what_it_leaves_out(suffice: Any, save_photo: Any) -> None:
    for name in ("photos/a.png", "photos/b.jfif", "photos/below/c.png"):
        save_photo(name)
    Path("photos/notes.txt").touch()
    run = suffice("explain", "photos", *QUICK, "--json")
    assert run.status == 0
    assert [line["image"] for line in run.json] == ["photos/a.png", "photos/b.jfif"]
    assert run.complaints(1) == ["suffice: photos: left out: 1 .txt; 1 folder in it is not searched"]
