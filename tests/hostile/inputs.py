"""Hostile calls by kind of input: each a corpus of what is known to be nasty, then as many drawn ones as are asked for.

`KINDS` is the table. What is drawn is the same in every run, as hypothesis derives its seed from the drawing function.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import contents
import hostile_models
import numpy as np
from calls import Call, Content
from contents import FILES, MAP, NO_FILES, PHOTOS, SIDE, changed, mutated, npy
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from PIL import Image

MODEL = ("--model", "hostile_models:good", "--occlusion", "min")
QUICK = (*MODEL, "--set", "block=4")
NETWORK = ("--model", "hostile_models:convolution")
QUICK_NETWORK = (*NETWORK, "--occlusion", "min", "--set", "block=8")
CIRCUIT = (*NETWORK, "--layers", "all", "--switch", "all", "--random", "1")
OUT = ("--out", "o")
NONE_GOOD = frozenset({2})  # the statuses of a call in which nothing can be right


def explain(*words: str, **more: Any) -> Call:
    return Call(("explain", *words), **more)


def score(*words: str, **more: Any) -> Call:
    return Call(("score", *words, *MODEL, "--metrics", "area"), **more)


def circuit(*words: str, **more: Any) -> Call:
    return Call(("circuit", *words, *CIRCUIT), **more)


def drawn(strategy: st.SearchStrategy[Any], count: int) -> list[Any]:
    """So many values, the same in every run."""
    found: list[Any] = []

    @settings(
        max_examples=max(count, 1), derandomize=True, database=None, deadline=None, phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )  # fmt: skip
    @given(strategy)
    def collect(value: Any) -> None:
        found.append(value)

    collect()
    return found[:count]


def places(name: str) -> dict[str, Call]:
    """Every place of the command line that takes a file, with a file of this name there."""
    return {
        "image": explain(f"{name}.png", *QUICK, "--json"),
        "image of several": explain(f"{name}.png", "photo.png", *QUICK, "--json", results=1),
        "image to circuit": circuit(f"{name}.png", "--json"),
        "image to score": score(f"{name}.png", "photo.png", "--json"),
        **{f"map {kind}": score("photo.png", f"{name}.{kind}", "--json") for kind in ("npy", "npz", "pt", "png")},
        "explanation": score("photo.png", f"{name}/explanation.json", "--json"),
        "folder of explanations": score("photo.png", name, "--json"),
        "mask": circuit("photo.png", "--mask", f"{name}.npy", "--json"),
        "reference": circuit("photo.png", "--reference", f"{name}.png", "--json"),
        "occlusion": explain("photo.png", *QUICK, "--occlusion", f"image:{name}.png", "--json"),
        "backgrounds": Call(
            ("score", "photo.png", "photo.png", *MODEL, "--metrics", "robustness_images", "--backgrounds", name)
        ),
        **{
            f"weights {kind}": explain("photo.png", *QUICK_NETWORK, "--weights", f"{name}.{kind}", "--json")
            for kind in ("pth", "safetensors", "ckpt", "bin")
        },
        **{
            f"classes {kind}": explain("photo.png", *QUICK, "--classes", f"{name}.{kind}", "--json")
            for kind in ("txt", "json", "csv", "yaml")
        },
        "adapter": explain("photo.png", *NETWORK, "--method", "lax", "--adapter", f"{name}.safetensors", "--json"),
        "network": explain(
            "photo.png", *NETWORK, "--method", "activation-matching", "--set", f"network={name}.safetensors", "--json"
        ),
        "onnx": explain("photo.png", "--model", f"{name}.onnx", "--json"),
        "exported": explain("photo.png", "--model", f"exported:{name}.pt2", "--json"),
        "torchscript": explain("photo.png", "--model", f"torchscript:{name}.pt", "--json"),
        "config": Call(("bench", f"{name}.toml", *OUT)),
        "results": Call(("bench-report", name)),
        "results of before": Call(("bench-report", name, "--against", name)),
    }


def no_files(count: int) -> Iterator[Call]:
    """Files that are none, or hold nothing of the kind, wherever a file is taken."""
    for kind, content in NO_FILES.items():
        for place, call in places("x").items():
            if kind == "the kernel's memory" and place.startswith("image"):
                continue
            name = next(n for word in call.words for n in (word.rpartition(":")[2].rpartition("=")[2],) if n[:1] == "x")
            results = 0 if kind.endswith("folder") else call.results  # of a folder without images, the call is wrong
            yield Call(call.words, {name: content}, results=results)


def images(count: int) -> Iterator[Call]:
    """Images that are damaged, odd, or far too large."""
    good = contents.seeds_of_images()
    for data in (*contents.IMAGES.values(), *good.values()):
        yield explain("x", *QUICK, "--json", files={"x": data})
        yield explain("photo.png", "x.png", *QUICK, *OUT, files={"x.png": data}, results=1)
    for number, data in enumerate(drawn(st.sampled_from(list(good.values())).flatmap(mutated), count)):
        files = {"x.png": data}
        yield (
            explain("x.png", "photo.png", *QUICK, "--json", files=files, results=1),
            explain("x.png", *QUICK, *OUT, files=files),
            circuit("x.png", "--json", files=files),
            score("photo.png", "x.png", "--json", files=files),
            explain("photo.png", *QUICK, "--occlusion", "image:x.png", "--json", files=files),
        )[number % 5]


def maps(count: int) -> Iterator[Call]:
    """Saliency maps: of any file, type and shape."""
    for name, data in contents.nasty_maps().items():
        yield score("photo.png", name, "--json", files={name: data})
        yield score("photo.png", name, "good.npy", *OUT, files={name: data, "good.npy": npy(MAP)}, results=1)
    good = {
        ".npy": npy(MAP),
        ".npz": contents.npz(saliency=MAP),
        ".pt": contents.pth(contents.ONES),
        ".pth": contents.old_pth({"a": contents.ONES}),
    }
    pairs = st.sampled_from(list(good)).flatmap(lambda kind: st.tuples(st.just(kind), mutated(good[kind])))
    for kind, data in drawn(pairs, count):
        yield score("photo.png", f"x{kind}", "--json", files={f"x{kind}": data})


def masks(count: int) -> Iterator[Call]:
    """Masks for circuits: what maps are, and pictures."""
    for name, data in contents.nasty_maps().items():
        yield circuit("photo.png", "--mask", name, "--json", files={name: data})
    mask = (np.arange(SIDE**2).reshape(SIDE, SIDE) % 3 > 0).astype(np.uint8) * 255
    good = {
        ".npy": npy(mask > 0),
        ".png": contents.image_bytes(image=Image.fromarray(mask)),
        ".gif": contents.image_bytes("GIF", Image.fromarray(mask)),
    }
    shapes = st.lists(st.integers(0, 2 * SIDE), max_size=4)
    for shape in drawn(shapes, count // 4):
        files = {"x.npy": npy(np.resize(mask, shape) > 0)}
        yield circuit("photo.png", "--mask", "x.npy", "--json", files=files)
    pairs = st.sampled_from(list(good)).flatmap(lambda kind: st.tuples(st.just(kind), mutated(good[kind])))
    for kind, data in drawn(pairs, count - count // 4):
        yield circuit("photo.png", "--mask", f"x{kind}", "--json", files={f"x{kind}": data})


# Options

WORDS = (
    "", " ", "-", "--", "-1", "0", "1", "nan", "inf", "-inf", "1e400", "1e-400", "0x10", "1_000", "٣", "½", "9" * 5000,
    str(2**31), str(2**63), str(2**64), "-" + "9" * 400, "true", "None", "null", "[]", "{}", "a", "\x1b[31m", "a\nb",
    "\u202eabc", os.fsdecode(b"\xff\xfe"), "x" * 100_000, "," * 100, ",", "a,b,a", ":", "::", "a:", ":a", "a:b:c",
    "../../etc/passwd", "/dev/zero", "/proc/self/mem", "$(touch ../owned)", "`id`", "%s%n", "{0.__class__}", "=", "==",
    "a=", "=a", "*", "?", "~", "\\", "photo.png", ".", "..", "/", "auto", "cpu", "cuda:99", "mps", "meta", "all",
    "1" * 400 + ".5", "0.5", "2x2", "0x0", "99999x99999", "1,2,3", "1 2 3", "0,0,0", "#0", "#99", "index:1", "0;1",
)  # fmt: skip
"""What anybody may type after an option."""

OPTIONS: dict[str, tuple[str, ...]] = {
    "explain": (
        "--model", "--weights", "--classes", "--method", "--adapter", "--occlusion", "--kind", "--keep-confidence",
        "--target", "--threshold", "--seed", "--set", "--out", "--device", "--precision", "--batch-size",
        "--input-size", "--mean", "--std", "--channels", "--crop", "--interpolation", "--outputs", "--layout",
        "--prompts",
    ),
    "score": (
        "--metrics", "--target", "--model", "--weights", "--classes", "--occlusion", "--threshold", "--seed", "--set",
        "--backgrounds", "--out", "--device", "--batch-size", "--input-size", "--mean", "--std", "--channels", "--crop",
    ),
    "circuit": (
        "--mask", "--model", "--layers", "--switch", "--nodes", "--ranking", "--share", "--keep-confidence", "--target",
        "--occlusion", "--reference", "--random", "--seed", "--out", "--device", "--batch-size", "--mean", "--outputs",
    ),
    "bench": ("--out", "--engine", "--threads"),
    "bench-report": ("--format", "--against", "--out"),
}  # fmt: skip

SETTINGS = {
    "explain": ("search", "block", "cell", "iterations", "smallest_box", "budget", "segments", "samples", "layer"),
    "score": ("alpha_min", "step", "measure", "fid_measure", "normalise", "at_threshold", "hide", "ties", "drop",
    "count"),
}  # fmt: skip


def _with_option(command: str, option: str, word: str) -> Call:
    start = {
        "explain": ("explain", "photo.png", *QUICK, "--json"),
        "score": ("score", "photo.png", "map.npy", *MODEL, "--metrics", "area,msi", "--json"),
        "circuit": ("circuit", "photo.png", *CIRCUIT, "--json"),
        "bench": ("bench", "x.toml", *(OUT if option != "--out" else ())),
        "bench-report": ("bench-report", ".", *(("--format", "html") if option == "--out" else ())),
    }[command]
    files: dict[str, Content] = {"map.npy": npy(MAP), "x.toml": contents.toml(contents.BENCHMARK)}
    out = os.path.normpath(word) if option == "--out" and word.strip() else "o"
    return Call((*start, option, word), files, out=out)


def options(count: int) -> Iterator[Call]:
    """Values of options, their names, and what stands where nothing should."""
    named = [(command, option) for command, several in OPTIONS.items() for option in several]
    for number, (command, option) in enumerate(named):
        # Where a file may be written, or photos be read, only what names nothing of the machine's.
        careful = option in ("--out", "--reference")
        words = [word for word in WORDS if not (careful and word.startswith(("/", ".", "~")))]
        for word in words[number % 2 :: 2]:
            yield _with_option(command, option, word)
    settings_of = [(command, name) for command, several in SETTINGS.items() for name in several]
    for number, (command, name) in enumerate(settings_of):
        for word in WORDS[number % 2 :: 2]:
            yield _with_option(command, "--set", f"{name}={word}")
    for alone in ("", "--", "-", "explain", "score", "circuit", "bench", "--version", "--help", "nonsense"):
        yield Call(tuple(alone.split()))
    text = st.text(max_size=30).map(_word)
    free = [pair for pair in named if pair[1] != "--out"]
    for (command, option), word in drawn(st.tuples(st.sampled_from(free), text), count):
        yield _with_option(command, option, word)
    anything = [word for word in (*WORDS, *OPTIONS["explain"], "--json", "--help") if word not in ("--", "--out")]
    for several in drawn(st.lists(st.sampled_from(anything), max_size=5), count // 8):
        if not any(word.startswith(("/", "..", "~")) for word in several):
            yield explain(*QUICK, *several, "--json")


def _word(text: str) -> str:
    """A text as the shell hands it over."""
    return text.replace("\0", "").encode("utf-8", "surrogatepass").decode("utf-8", "surrogateescape")


def bench(content: str | bytes | dict[str, Any], *words: str, files: Mapping[str, Content] = {}, **more: Any) -> Call:
    text = contents.toml(content) if isinstance(content, dict) else content
    return Call(("bench", "x.toml", *words, *OUT), {**PHOTOS, "x.toml": text, **files}, **more)


def tomls(count: int) -> Iterator[Call]:
    """Configurations of benchmarks."""
    yield bench(contents.BENCHMARK, results=1, statuses=frozenset({0}))
    for text, files in contents.documents().values():
        yield bench(text, files=files)
    more = {
        **contents.BENCHMARK,
        "areas": [0.1],
        "maps": True,
        "differences": [{"metric": "area", "of": ["min"], "best": ["min"], "by": "area"}],
    }
    more |= {"plots": [{"metrics": ["area"]}], "cut_from": 0.5, "cell": 4, "only_correct": False, "note": "b"}
    more["datasets"] = [{**more["datasets"][0], "count": 1, "seed": 0, "split": "test", "root": "."}]
    more["models"] = [{**more["models"][0], "mean": 0.0, "std": 1.0, "batch_size": 2, "class_names": "a.txt"}]
    more["metrics"] = [
        {"names": ["msi"], "options": {"alpha_min": 0.5}, "images": 1, "at": ["gamma"], "occlusion": "own"},
        *more["metrics"],
    ]
    for content in drawn(changed(more), count // 2):
        yield bench(content, "--dry-run")
    for content in drawn(changed(contents.BENCHMARK), count // 4):
        yield bench(content)
    for data in drawn(mutated(contents.toml(contents.BENCHMARK).encode()), count - count // 2 - count // 4):
        yield bench(data, "--dry-run")


def readers(text: str | bytes) -> Iterator[Call]:
    """Every command that reads a JSON, with this text in its place."""
    beside: dict[str, Content] = {"e/mask.png": contents.MASK, "e/saliency.npy": npy(MAP)}
    yield score("photo.png", "e", "--json", files={**beside, "e/explanation.json": text})
    yield circuit("photo.png", "--mask", "e", "--json", files={**beside, "e/explanation.json": text})
    yield explain("photo.png", *QUICK, "--classes", "x.json", "--json", files={"x.json": text})
    yield explain("photo.png", *QUICK, "--classes", "x.yaml", "--json", files={"x.yaml": text})
    yield explain("photo.png", *QUICK, *OUT, files={"o/photo/.suffice.json": text})
    yield explain("photo.png", *QUICK, *OUT, files={"o/photo/explanation.json": text}, out="o/report.html")
    yield score(
        "photo.png", "m.npy", *OUT, files={"m.npy": npy(MAP), "o/scores.json": text}, out="o/none", statuses=NONE_GOOD
    )
    yield bench(contents.BENCHMARK, files={"o/run.json": text})
    yield Call(("bench-report", "o"), {"o/run.json": text, "o/rows/none": b""}, out="none")


def jsons(count: int) -> Iterator[Call]:
    """Foreign and damaged JSON, wherever it is read."""
    for text in contents.TEXTS.values():
        yield from readers(text)
    values = (*contents.VALUES, "half \ud83d", "../../mask.png", "/dev/zero", "pipe", 0.5)
    beside: dict[str, Content] = {"e/mask.png": contents.MASK, "e/saliency.npy": npy(MAP), "e/pipe": NO_FILES["pipe"]}
    part = count // 6
    for content in drawn(changed(contents.EXPLANATION, values), 2 * part):
        files = {**beside, "e/explanation.json": contents.as_json(content)}
        yield score("photo.png", "e", "--json", files=files)
    for content in drawn(changed(contents.RUN, values), part):
        yield bench(contents.BENCHMARK, files={"o/run.json": contents.as_json(content)})
    for content in drawn(changed(contents.RUN, values), part):
        yield Call(("bench-report", "o"), {"o/run.json": contents.as_json(content), "o/rows/none": b""}, out="none")
    for content in drawn(changed(contents.RECORD, values), part):
        files = {"o/photo/.suffice.json": contents.as_json(content), "o/.suffice.json": contents.as_json(content)}
        yield explain("photo.png", *QUICK, *OUT, files=files)
    for content in drawn(changed(contents.NAMES, values), part):
        yield explain("photo.png", *QUICK, "--classes", "x.json", "--json", files={"x.json": contents.as_json(content)})
    for data in drawn(mutated(contents.as_json(contents.EXPLANATION).encode()), part):
        yield score("photo.png", "e", "--json", files={**beside, "e/explanation.json": data})


def with_adapter(data: bytes) -> Call:
    return explain(
        "photo.png", *NETWORK, "--method", "lax", "--adapter", "x.safetensors", "--json",
        files={"x.safetensors": data},
    )  # fmt: skip


def weights(count: int) -> Iterator[Call]:
    """Checkpoints, safetensors, ONNX and programs."""
    for name, content in contents.checkpoints().items():
        data = contents.pth(content)
        for kind in (".pth", ".ckpt"):
            yield explain("photo.png", *QUICK_NETWORK, "--weights", f"x{kind}", "--json", files={f"x{kind}": data})
        yield circuit("photo.png", "--weights", f"{name}.pth", *OUT, files={f"{name}.pth": data})
        yield with_adapter(data)
    for data in contents.safetensors().values():
        yield explain(
            "photo.png", *QUICK_NETWORK, "--weights", "x.safetensors", "--json", files={"x.safetensors": data}
        )
        yield with_adapter(data)
        yield explain(
            "photo.png", *NETWORK, "--method", "activation-matching", "--set", "network=x.safetensors", "--json",
            files={"x.safetensors": data},
        )  # fmt: skip
    for data in (contents.onnx_bytes(), *contents.onnxes().values()):
        yield explain("photo.png", "--model", "x.onnx", "--set", "block=8", "--json", files={"x.onnx": data})
    for model, data in contents.programs().items():
        name = model.partition(":")[2]
        yield explain(
            "photo.png", "--model", model, "--input-size", "16", "--set", "block=8", "--json", files={name: data}
        )
        for cut in range(0, len(data), max(1, len(data) // 8)):
            yield explain("photo.png", "--model", model, "--json", files={name: data[:cut]})
    good = {
        ".pth": contents.pth(contents.good_weights()),
        ".pt": contents.old_pth(contents.good_weights()),
        ".safetensors": contents.save_safetensors(contents.good_weights()),
    }
    pairs = st.sampled_from(list(good)).flatmap(lambda kind: st.tuples(st.just(kind), mutated(good[kind])))
    for kind, data in drawn(pairs, count - count // 5):
        yield explain("photo.png", *QUICK_NETWORK, "--weights", f"x{kind}", "--json", files={f"x{kind}": data})
    for data in drawn(mutated(contents.onnx_bytes()), count // 5):
        yield explain("photo.png", "--model", "x.onnx", "--set", "block=8", "--json", files={"x.onnx": data})


# Models

MODULES: dict[str, str | bytes] = {
    "exits": "import sys\nsys.exit(0)",
    "raises": "raise KeyError('\x1b[31m')",
    "leaves": "raise GeneratorExit",
    "syntax": "def build(:\n",
    "nul": b"a = '\0'",
    "not UTF-8": b"a = '\xff'",
    "nothing": "",
    "itself": "import {name}\nbuild = {name}.build",
    "deep": "(" * 5000 + ")" * 5000,
    "talks": "print('imported')\nfrom hostile_models import good as build",
    "imports": "import no_such_module_at_all",
    "unsayable": "from hostile_models import UnsayableError\nraise UnsayableError",
    "attribute": "def __getattr__(name):\n    raise SystemExit(0)",
    "closes": "import sys\nsys.stdout.close()\nfrom hostile_models import good as build",
}
"""Modules of the user's own."""


def models(count: int) -> Iterator[Call]:
    """Models that end the program, return no logits, or change the process; a bad image never costs a good one."""
    quick = ("--occlusion", "min", "--set", "block=4")
    for number, name in enumerate(hostile_models.MISBEHAVIOUR):
        model = ("--model", f"hostile_models:{name}")
        for_good = name in _FOR_GOOD
        # What changes the process alone need not fail.
        statuses = frozenset({0} if name in hostile_models.CHANGES and not for_good else {0, 1})
        yield explain("photo.png", "red.png", *model, *quick, "--json", model=True, results=1, statuses=statuses)
        yield explain(
            "red.png", "photo.png", *model, *quick, *OUT, model=True, results=1 - for_good,
            statuses=statuses | {2} if for_good else statuses,
        )  # fmt: skip
        yield explain("red.png", *model, *quick, "--json", model=True)
        files = {"m.npy": npy(MAP)}
        metrics = ("--occlusion", "min", "--metrics", "msi,area", "--json")
        yield Call(("score", "red.png", "m.npy", *model, *metrics), files, model=True)
        yield Call(("circuit", "red.png", *model, "--layers", "all", "--json"), model=True)
        content = {**contents.BENCHMARK, "models": [{"model": model[1], "device": "cpu"}]}
        files = {"photos/c_0.png": FILES["red.png"]}
        yield bench(content, files=files, model=True, results=1, statuses=statuses | {1}, alone=number % 12 == 0)
    yield from _models_as_they_are_built()
    for name in hostile_models.NAMES:
        model = ("--model", f"hostile_models:{name}", "--occlusion", "min")
        yield explain("photo.png", *model, "--set", "block=4", "--json", results=1)
        yield explain("photo.png", *model, "--set", "block=4", *OUT, results=1)
        yield Call(("score", "photo.png", "m.npy", *model, "--metrics", "area", *OUT), {"m.npy": npy(MAP)}, results=1)
        content = {**contents.BENCHMARK, "models": [{"model": model[1], "label": "good"}]}
        yield bench(content, results=1, statuses=frozenset({0}))
    for word in drawn(st.text(max_size=20).map(_word), count):
        yield explain("photo.png", "--model", f"hostile_models:{word}", "--json")
        yield explain("photo.png", "--model", word or ":", "--json")


def _models_as_they_are_built() -> Iterator[Call]:
    for name in hostile_models.BUILDS:
        model = f"hostile_models:{name}"
        yield explain(
            "photo.png", "--model", model, "--set", "block=4", "--json", model=True, statuses=frozenset({0, 2})
        )
        content = {**contents.BENCHMARK, "models": [{"model": "hostile_models:good"}, {"model": model}]}
        yield bench(content, model=True, results=1, statuses=frozenset({0, 1}))
    interrupted = frozenset({130})
    yield explain("photo.png", "--model", "hostile_models:interrupts", "--json", model=True, statuses=interrupted)
    content = {**contents.BENCHMARK, "models": [{"model": "hostile_models:interrupts"}]}
    yield bench(content, model=True, statuses=interrupted)
    for number, source in enumerate(MODULES.values()):
        file = f"own{number}"
        text = source.replace("{name}", file) if isinstance(source, str) else source
        for model in (f"{file}:build", f"{file}:", f"{file}.sub:build"):
            words = ("photo.png", "--model", model, "--set", "block=4", "--json")
            yield explain(*words, files={f"{file}.py": text}, model=True)


_FOR_GOOD = ("spoils_its_weights", "goes_away")
"""After which the model is another one, or the folder, for whatever follows."""


# Folders

OUTPUTS = ("report.html", "circuits.html", "scores.json", "photo", "photo/explanation.json", "photo/mask.png",
"photo-circuit",
           "photo-circuit/circuit.json", ".suffice.json", ".suffice.lock", ".suffice-write.lock", "photo/.suffice.json",
           "photo/.suffice-write.lock", "rows", "rows/0.parquet", "rows/foreign.parquet", "explanations",
           "run.json")  # fmt: skip

IN_THE_WAY: dict[str, Content] = {
    **{name: NO_FILES[name] for name in ("pipe", "zeros without end", "full", "socket", "folder", "loop",
    "link to nothing",
                                         "link to the folder", "empty", "text", "40 GB of nothing")},
    "a person's": "mine",
    "a link out": lambda path: path.symlink_to(os.path.relpath(path.parent.parent / "../../beside.txt", path.parent)),
    "a link to a folder": lambda path: _link_to_an_empty_folder(path),
}  # fmt: skip


def _link_to_an_empty_folder(path: Path) -> None:
    aside = next(above for above in path.parents if above.name == "work").parent / "aside"
    aside.mkdir(exist_ok=True)
    path.symlink_to(aside)


def _writers() -> Iterator[Call]:
    yield explain("photo.png", *QUICK, *OUT)
    yield score("photo.png", "m.npy", *OUT, files={"m.npy": npy(MAP)})
    yield circuit("photo.png", *OUT)
    yield bench(contents.BENCHMARK)


def folders(count: int) -> Iterator[Call]:
    """What lies where results should go, and folders that cannot be written to."""
    for call in _writers():
        for place in OUTPUTS:
            for content in IN_THE_WAY.values():
                yield Call(call.words, {**call.files, f"o/{place}": content})
        for kind, content in IN_THE_WAY.items():
            # Whoever makes a link of the folder itself means the folder that it leads to.
            out = {"a link to a folder": "../aside", "link to the folder": ".", "link to nothing": "nothing-here"}.get(
                kind, "o"
            )
            yield Call(call.words, {**call.files, "o": content}, out=out)
        for out in (
            "/proc/suffice",
            "/dev/null/a",
            "/dev/full",
            "photo.png",
            "photo.png/a",
            "o" * 300,
            "o/" * 300,
            "",
            " ",
            ".",
        ):
            words = (*call.words[:-1], out)
            yield Call(words, call.files, out=os.path.normpath(out) if out.strip() else "o")
    for content in IN_THE_WAY.values():
        yield Call(("bench-report", "o"), {"o": content}, out="none")
        yield Call(("bench-report", "o"), {"o/run.json": contents.as_json(contents.RUN), "o/rows": content}, out="none")
        yield Call(
            ("bench-report", "o"),
            {"o/run.json": contents.as_json(contents.RUN), "o/rows/0.parquet": content},
            out="none",
        )
        yield Call(
            ("bench-report", "o", "--against", "p"),
            {"o/run.json": contents.as_json(contents.RUN), "p": content},
            out="none",
        )
        yield explain("x", *QUICK, *OUT, files={"x/a.png": content})
        yield explain("x", *QUICK, *OUT, files={"x/a.png": content, "x/b.png": FILES["photo.png"]}, results=1)
    names = st.lists(
        st.sampled_from([*OUTPUTS, "notes.txt", "photo/notes.txt", "again", ".hidden"]), min_size=1, max_size=4
    )
    pairs = st.tuples(st.sampled_from(list(_writers())), names, st.sampled_from(list(IN_THE_WAY.values())))
    for call, several, content in drawn(pairs, count):
        chosen = [
            name for name in dict.fromkeys(several) if not any(o != name and name.startswith(f"{o}/") for o in several)
        ]
        yield Call(call.words, {**call.files, **{f"o/{name}": content for name in chosen}})


# Names

_STEMS = (
    os.fsdecode(b"caf\xe9\xff"), "a\x1b]0;title\x07\x1b[31m", "two\nlines\r", "\u202egnp", "\u2066a",
    "<img src=x onerror=alert(1)>",
    "{{ 7*7 }}{% raw %}", "$(touch ..owned)", "`id`", "a;b|c&d", "--out=..", "-", "-r", "=1+1", "=cmd|' C calc'!A0",
    "@SUM(1)",
    "+1", "\x85\x9b31m", "x" * 240, "\U0001f431" * 50, " ", ".", "..a", "~", "CON", "aux.png", "a'b\"c", "\\",
    "a\\b", "%00", "%s%n",
    "\x7f\x08", "report.html", ".suffice", ".suffice.json", "explanation", "[a-z]*", "?", "image:x", "#1", "a=b",
    ",", "a,b",
    "photo_99999999999999999999", "photo_00000000000000000000000000001", "\ufeff", "e\u0301", "\u00e9",
    "\u0000"[1:] + "z\u200b",
)  # fmt: skip


def _file_name(text: str) -> str:
    """A name that a file can have."""
    data = text.replace("\0", "").replace("/", "\u2215").encode("utf-8", "surrogatepass")[:200]
    return os.fsdecode(data) or "a"


def names(count: int) -> Iterator[Call]:
    """Names of images, maps, weights, classes, folders and modules."""
    stems = [*_STEMS, *map(_file_name, drawn(st.text(max_size=40), count // 8))]
    for stem in stems:
        image, other = f"{stem}.png", f"{stem}.npy"
        one = {image: FILES["photo.png"]}
        yield Call(("explain", *QUICK, "--json", "--", image), one, results=1)
        yield Call(("explain", *QUICK, *OUT, "--", image, "photo.png"), one, results=2)
        yield Call(
            ("score", *MODEL, "--metrics", "area", *OUT, "--", image, other), {**one, other: npy(MAP)}, results=1
        )
        yield Call(("circuit", *CIRCUIT, *OUT, "--", image), one, results=1)
        yield Call(("circuit", *CIRCUIT, "--json", "--", f"none{image}"), one, statuses=NONE_GOOD)
        yield explain("photo.png", *QUICK, f"--out={stem}", out=stem if stem.strip() else "o")
        yield explain(
            "photo.png", *QUICK, f"--classes={stem}.txt", "--json", files={f"{stem}.txt": "cat\ndog\n"}, results=1
        )
        yield explain("photo.png", *NETWORK, f"--weights={stem}.pth", "--json", files={f"{stem}.pth": b"no"})
        yield bench(
            contents.BENCHMARK,
            files={f"photos/{stem}_1.png": FILES["photo.png"]},
            results=1,
            statuses=frozenset({0, 1}),
        )
    for stem in stems[: max(1, count // 40)]:
        content = {**contents.BENCHMARK, "datasets": [{"source": "photos"}], "target": "label"}
        folder = {f"photos/{stem}/a.png": FILES["photo.png"], "photos/z/b.png": FILES["red.png"]}
        yield Call(("bench", "x.toml", *OUT), {"x.toml": contents.toml(content), **folder})


KINDS: dict[str, tuple[Callable[[int], Iterator[Call]], int]] = {
    "files that are none": (no_files, 0),
    "images": (images, 1400),
    "maps": (maps, 900),
    "masks": (masks, 500),
    "options": (options, 1200),
    "TOML": (tomls, 1000),
    "JSON": (jsons, 1100),
    "weights": (weights, 800),
    "models": (models, 75),
    "folders": (folders, 300),
    "names": (names, 300),
}
"""By kind of input: what makes the calls, and how many it draws besides its corpus."""
