"""Runs of a benchmark: every row once, failures as rows, nothing done twice, explanations made once."""

from __future__ import annotations

import copy
import dataclasses
import hashlib
import importlib
import json
import math
import os
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from PIL import Image

import suffice
from suffice import provenance
from suffice.benchmark import explanations, plan, run_benchmark
from suffice.benchmark.config import make_config
from suffice.benchmark.explanations import cut_at
from suffice.benchmark.results import Results, read_rows, rows_as_arrow, rows_as_csv
from suffice.benchmark.tables import read_report
from suffice.errors import InputError
from suffice.explainers import METHODS
from suffice.metrics import explanation_area
from suffice.report.benchmark import render_benchmark
from suffice.report.tables import as_csv, as_markdown


def values(rows: list[dict[str, Any]], **wanted: Any) -> dict[str, float]:
    """By image, of one setup."""
    return {r["image"]: r["value"] for r in rows if all(r[name] == value for name, value in wanted.items())}


def test_a_row_for_each_explanation_and_metric(run: Any, toy: dict[str, Any], photos: Path) -> None:
    outcome, rows = run(toy | {"only_correct": True})
    assert (outcome.cells, outcome.failed_rows) == (8, 0)
    assert run.said == [
        "toys: 4 images found, 4 taken",
        "8 cells; 8 to do: 48 rows",
        "toys: 4 images found, 3 used; left out: 1 not classified as labelled",
    ]
    assert len(rows) == 4 * 2 * 2 * 3  # photos, occlusions, γ, metrics
    assert {r["status"] for r in rows if r["image"] != "d_2.png"} == {"done"}
    left_out = [r for r in rows if r["image"] == "d_2.png"]
    assert {(r["status"], r["error"], r["value"]) for r in left_out} == {
        ("left out", "classified as 0, labelled 2", None)
    }
    # The same numbers as without a benchmark.
    import bench_models

    classifier = bench_models.corner()
    image = suffice.load_image(photos / "a_1.png", classifier)
    by_hand = suffice.explain_series(classifier, image, [0.0, 0.9], "causal", "min", 1, block=8)
    here = [r for r in rows if (r["image"], r["occlusion"], r["metric"]) == ("a_1.png", "min", "area")]
    assert [r["value"] for r in here] == [explanation_area(e.mask) for e in by_hand]
    assert [r["forward_passes"] for r in here] == [e.forward_passes for e in by_hand]
    assert [r["explanation_confidence"] for r in here] == [e.explanation_confidence for e in by_hand]
    assert {(r["target"], r["label"], r["series"]) for r in here} == {(1, 1, "0 0.9")}
    # At γ = 0.9 all of the corner is kept, and on the two photos of other classes it is on top.
    assert values(rows, occlusion="min", level=0.9, metric="robustness_images")["a_1.png"] == 1.0


def test_any_reader_of_parquet_takes_the_rows(run: Any, toy: dict[str, Any], tmp_path: Path) -> None:
    _, rows = run(toy)
    table = pq.read_table(tmp_path / "out" / "rows")
    assert table.num_rows == len(rows)
    assert "torch" in table["provenance"][0].as_py()
    assert rows_as_arrow(tmp_path / "out").to_pylist() == [
        {name: row[name] for name in table.schema.names} for row in rows
    ]


def test_rows_say_which_photo_weights_and_preprocessing_made_them(
    run: Any, toy: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    import bench_models

    torch.save(bench_models.convolution().module.state_dict(), tmp_path / "w.pth")
    toy |= {"gammas": [0.0], "occlusions": ["min"], "target": "predicted"}
    toy["models"] = [{"model": "bench_models:convolution", "label": "conv", "weights": str(tmp_path / "w.pth")}]
    toy["metrics"] = [{"names": ["area"]}]
    _, rows = run(toy)
    assert {row["image"]: row["image_sha256"] for row in rows} == {
        path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in photos.iterdir()
    }
    (made,) = {row["provenance"] for row in rows}
    content = json.loads(made)
    assert content["weights_digest"] == {
        "sha256": hashlib.sha256((tmp_path / "w.pth").read_bytes()).hexdigest(), "of": "file",
    }  # fmt: skip
    assert (content["weights"], content["weights_dtype"]) == ("w.pth", "float32")
    assert content["outputs"] == "logits"
    assert content["preprocessing"]["input_size"] == [32, 32]
    assert {"suffice", "code", "torch", "python", "device"} <= content.keys()


def test_rows_and_reports_hold_no_absolute_path(run: Any, toy: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    (photos / "e_1.png").write_bytes((photos / "a_1.png").read_bytes()[:60])
    del toy["datasets"][0]["label"]
    toy["occlusions"] = ["min", f"image:{photos / 'c_0.png'}"]
    toy["metrics"] = [{"names": ["area"]}]
    run(toy)
    results = Results(tmp_path / "out")
    stored = [row for part in results.explanations.glob("*") for row in pq.read_table(part).to_pylist()]
    assert stored
    assert str(tmp_path) not in str(list(results.parts())) + str(stored)
    report = read_report(tmp_path / "out")
    page = render_benchmark(report, [], folder="out")
    assert "image:c_0.png" in page
    assert "e_1.png is damaged" in page
    assert str(tmp_path) not in page + as_csv(report) + as_markdown(report)


def test_rows_of_earlier_versions_are_read(run: Any, toy: dict[str, Any], tmp_path: Path) -> None:
    _, rows = run(toy)
    for part in (tmp_path / "out" / "rows").iterdir():
        pq.write_table(pq.read_table(part).drop_columns(["image_sha256"]), part)
    assert run(toy)[0].cells == 0
    assert read_rows(tmp_path / "out") == [row | {"image_sha256": None} for row in rows]
    assert read_report(tmp_path / "out").rows == 48


def test_cuts_and_maps(run: Any, toy: dict[str, Any], photos: Path) -> None:
    toy |= {"gammas": [], "areas": [0.25], "maps": True, "occlusions": ["min"], "target": "predicted"}
    toy["models"] = [{"model": "bench_models:convolution", "label": "conv"}]
    toy["methods"] = [{"method": "grad-cam", "settings": {"cell": 4}}]
    toy["metrics"] = [{"names": ["area", "msi"], "occlusion": "zero", "options": {"measure": "accuracy"}}]
    _, rows = run(toy)
    assert [r["error"] for r in rows] == [""] * 16
    import bench_models

    classifier = bench_models.convolution()
    image = suffice.load_image(photos / "a_1.png", classifier)
    target = int(classifier.logits(image[None]).argmax())
    heat = suffice.explainers.saliency_maps(classifier, image[None], [target], "grad-cam").normalised[0]
    expected = suffice.score(classifier, image, heat, ["area", "msi"], target, "zero", measure="accuracy")
    assert {m: values(rows, at="map", metric=m)["a_1.png"] for m in ("area", "msi")} == expected
    assert values(rows, at="area", metric="area")["a_1.png"] <= 0.25


def test_a_ranking_is_cut_at_no_more_than_the_area() -> None:
    saliency = torch.zeros(32, 32).numpy()
    saliency[8:16, 8:16], saliency[:8, :8] = 2, 1
    cut = cut_at(saliency, 0.07).numpy()
    assert cut.sum() == 64
    assert cut[8:16, 8:16].all()
    assert cut_at(saliency, 0.125).sum() == 128
    assert cut_at(saliency, 0.01).sum() == 0
    assert cut_at(saliency, 1.0).all()


def test_nothing_is_done_twice_and_new_metrics_reuse_explanations(
    run: Any, toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rows = run(toy)
    searches = []
    search = explanations.explain_series
    monkeypatch.setattr(explanations, "explain_series", lambda *a, **k: searches.append(a[2]) or search(*a, **k))
    assert run(toy)[1] == rows
    assert run.said[1:-1] == ["8 of 8 cells are there; 0 to do: 0 rows"]
    # Another metric: every explanation is there.
    toy["metrics"].append({"names": ["confidence"]})
    _, more = run(toy)
    assert searches == []
    assert run.said[1:-1] == [
        'changed since the last run: metrics.1: null -> {"at":["gamma","area","map"],"images":100,'
        '"names":["confidence"],"occlusion":"own","options":{}}',
        "0 of 8 cells are there; 8 to do, 8 of them with explanations that are there: 16 rows",
    ]
    assert [r for r in more if r["metric"] != "confidence"] == rows
    for row in more:  # under the same occlusion the metric gives what the explanation says of itself
        if row["metric"] == "confidence":
            assert math.isclose(row["value"], row["explanation_confidence"], rel_tol=1e-5)
    # Another γ: only that is searched for.
    run(toy | {"gammas": [0.0, 0.5, 0.9]})
    assert searches == [[0.5]] * 8
    assert "changed since the last run: gammas: [0.0,0.9] -> [0.0,0.5,0.9]" in run.said
    # Another setting of the method: all of it, and it is said.
    toy["methods"] = [{"method": "causal", "settings": {"block": 16}}]
    run(toy)
    assert "changed since the last run: methods.0.settings.block: 8 -> 16" in run.said
    made = "explanations will be made anew for: corner causal mean, corner causal min"
    assert made in run.said
    # A title is nothing to measure again.
    run(toy | {"title": "Another"})
    assert run.said[1:-1] == ["8 of 8 cells are there; 0 to do: 0 rows"]


def test_what_fails_says_so_and_the_rest_is_complete(
    run: Any, toy: dict[str, Any], photos: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (photos / "e_1.png").write_bytes((photos / "a_1.png").read_bytes()[:60])
    toy["models"].append({"model": "bench_models:not_a_number", "label": "nan"})
    toy["models"].append({"model": "bench_models:there_is_none", "label": "missing"})
    toy["methods"].append({"method": "lime"})

    def fail(*arguments: Any) -> Any:
        raise RuntimeError("out of\nluck")

    monkeypatch.setitem(METHODS._loaded, "lime", dataclasses.replace(METHODS["lime"], explain=fail))
    outcome, rows = run(toy)
    errors: dict[tuple[str, str, str], set[str]] = {}
    for row in rows:
        errors.setdefault((row["model"], row["method"], row["image"][0]), set()).add(row["error"])
    assert len(rows) == 5 * 3 * 2 * 2 * 2 * 3
    for (model, method, photo), found in errors.items():
        if (model, method) == ("corner", "lime") and photo in "cd":
            continue  # where nothing has to be kept, the method is not asked
        (error,) = found
        if model == "missing":
            assert "has no function 'there_is_none'" in error
        elif photo == "e":
            assert "is damaged or truncated" in error or "e_1.png is none" in error
        elif model == "nan":
            assert error.startswith("expected finite logits from ")
        elif method == "lime":
            assert error == "RuntimeError: out of luck"
        else:
            assert error == ""
    assert outcome.failed_rows == sum(row["status"] == "failed" for row in rows) > 0
    assert all(row["value"] is not None for row in rows if row["status"] == "done")
    assert len([line for line in run.said if line.startswith("failed: ")]) == 10
    assert "further failures are in the column error of the rows" in run.said
    # Not again unasked, but told; and again when asked.
    again, same = run(toy)
    assert (again.cells, again.failed_rows) == (0, outcome.failed_rows)
    assert same == rows
    monkeypatch.undo()
    monkeypatch.syspath_prepend(Path(__file__).parent)
    retried, better = run(toy, retry=True)
    assert 0 < retried.failed_rows < outcome.failed_rows
    assert {
        r["error"] for r in better if (r["model"], r["method"]) == ("corner", "lime") and r["image"] != "e_1.png"
    } == {""}


def test_rows_of_other_code_are_told_and_can_be_made_again(
    run: Any, toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    _, rows = run(toy)
    monkeypatch.setattr(provenance, "code_digest", lambda: "another")
    provenance.versions.cache_clear()
    assert run(toy)[1] == rows
    assert (
        run.said[1]
        == "48 of 48 rows were made by other code; they are kept (bench --renew, or another --out, makes them again)"
    )
    outcome, renewed = run(toy, renew=True)
    provenance.versions.cache_clear()
    assert outcome.cells == 8
    assert {'"another"' in row["provenance"] for row in renewed} == {True}
    assert [r["value"] for r in renewed] == [r["value"] for r in rows]


def test_a_photo_replaced_under_its_name_is_made_anew_with_what_was_pasted_onto_it(
    run: Any, toy: dict[str, Any], photos: Path
) -> None:
    toy |= {"gammas": [0.9], "occlusions": ["min"]}
    _, before = run(toy)
    as_it_was = (photos / "c_0.png").read_bytes()
    with Image.open(photos / "c_0.png") as photo:
        photo.save(photos / "c_0.png", compress_level=0)  # the same pixels in another file
    assert run(toy)[0].cells == 0
    (photos / "c_0.png").write_bytes(as_it_was)
    with Image.open(photos / "b_1.png") as photo:
        photo.transpose(Image.Transpose.ROTATE_180).save(photos / "b_1.png")
    rows = run(toy)[1]
    assert run.said[:3] == [
        "toys: 4 images found, 4 taken",
        "changed since the last run: photos of toys: b_1.png",
        "1 of 4 cells are there; 3 to do (0 new, 3 anew), 2 of them with explanations that are there: 5 rows",
    ]
    assert values(rows, metric="area") != values(before, metric="area")
    assert rows_as_csv(rows, times=False) == rows_as_csv(run(toy, "fresh")[1], times=False)
    assert run(toy)[0].cells == 0
    toy["metrics"].append({"names": ["msi"]})  # of the explanations that are stored
    later = run(toy)[1]
    assert later == run(toy)[1]
    assert values(later, metric="msi") == values(run(toy, "fresh")[1], metric="msi")


def test_parts_are_pasted_onto_photos_beside_the_data_set_which_are_measured_nowhere(
    run: Any, toy: dict[str, Any], photos: Path, tmp_path: Path
) -> None:
    beside = tmp_path / "beside"
    beside.mkdir()
    for name in ("of_the_class_1.png", "of_none.png"):
        (beside / name).write_bytes((photos / "c_0.png").read_bytes())
    toy["datasets"][0]["backgrounds"] = [str(beside), "package:skimage/data/rocket.jpg"]
    _, rows = run(toy)
    assert {row["image"] for row in rows} == {photo.name for photo in photos.iterdir()}
    onto = {row["image"]: set(json.loads(row["backgrounds"])) for row in rows if row["metric"] == "robustness_images"}
    assert onto["a_1.png"] == {"c_0.png", "d_2.png", "of_none.png", "rocket.jpg"}  # a number is the class's
    assert onto["c_0.png"] == {"a_1.png", "b_1.png", "d_2.png", "of_the_class_1.png", "of_none.png", "rocket.jpg"}
    again, _ = run(toy)
    assert again.cells == 0
    assert not any("drawn" in line or "changed" in line for line in run.said)
    (beside / "of_none.png").write_bytes((photos / "a_1.png").read_bytes())
    again, _ = run(toy)
    assert again.cells == len(rows) // 6
    assert "changed since the last run: photos of toys: of_none.png" in run.said


@pytest.mark.parametrize(
    ("backgrounds", "message"),
    [
        (["package:no_such_package/a.png"], "expected package:NAME/FILE of a package that is installed"),
        (["package:skimage"], "expected package:NAME/FILE"),
        (["package:skimage/data/no.png"], "expected a photo to paste onto"),
        (["package:skimage/data/rocket.jpg", "package:skimage/data/rocket.jpg"], "'rocket.jpg' twice"),
    ],
)
def test_backgrounds_that_are_not_there(backgrounds: list[str], message: str, run: Any, toy: dict[str, Any]) -> None:
    toy["datasets"][0]["backgrounds"] = backgrounds
    with pytest.raises(InputError, match=message):
        run(toy)


def test_photos_that_are_added_are_backgrounds_of_the_rows_that_are_there(
    run: Any, toy: dict[str, Any], photos: Path
) -> None:
    toy |= {"gammas": [0.9], "occlusions": ["min"]}
    toy["datasets"][0]["only"] = ["a_1.png", "b_1.png"]
    (photos / "broken_0.png").write_bytes(b"no photo")
    run(toy)
    assert run(toy)[0].cells == 0, "what cannot be read is no background"
    with Image.open(photos / "c_0.png") as photo:
        photo.save(photos / "e_0.png")
        photo.save(photos / "e_1.png")  # of the same class as those that are measured
    rows = run(toy)[1]
    assert run.said[1:3] == [
        "changed since the last run: backgrounds of toys: e_0.png",
        "0 of 2 cells are there; 2 to do (0 new, 2 anew), 2 of them with explanations that are there: 2 rows",
    ]
    (onto,) = {row["backgrounds"] for row in rows if row["metric"] == "robustness_images"}
    assert set(json.loads(onto)) == {"c_0.png", "d_2.png", "e_0.png"}
    names = ("image", "metric", "value", "backgrounds")
    fresh = run(toy, "fresh")[1]
    assert [[row[name] for name in names] for row in rows] == [[row[name] for name in names] for row in fresh]
    assert run(toy)[0].cells == 0


def test_other_weights_behind_a_model_of_ones_own_are_noticed(
    run: Any, toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    import bench_models

    toy |= {"gammas": [0.0], "occlusions": ["min"], "target": "predicted"}
    toy["models"] += [{"model": "bench_models:convolution", "label": "conv"}]
    toy["metrics"] = [{"names": ["area"]}]
    run(toy)
    assert run(toy)[0].cells == 0
    other = bench_models.convolution()
    with torch.no_grad():
        other.module[-1].bias += torch.tensor([0.0, 9.0, 0.0])
    monkeypatch.setattr(bench_models, "convolution", lambda: other)
    rows = run(toy)[1]
    assert run.said[1:3] == [
        "changed since the last run: weights of conv",
        "4 of 8 cells are there; 4 to do (0 new, 4 anew): 4 rows",
    ]
    assert {row["target"] for row in rows if row["model"] == "conv"} == {1}
    assert run(toy)[0].cells == 0


def test_other_code_behind_a_model_of_ones_own_is_noticed_where_its_weights_are_the_same(
    toy: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    source = Path(__file__).with_name("bench_models.py").read_text(encoding="utf-8")
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(tmp_path)
    toy |= {"gammas": [0.0], "occlusions": ["min"]}
    toy["models"] = [{"model": "its_model:corner", "label": "corner", "device": "cpu"}]
    toy["metrics"] = [{"names": ["area"]}]

    def run(text: str) -> list[str]:
        said: list[str] = []
        (tmp_path / "its_model.py").write_text(text, encoding="utf-8")
        sys.modules.pop("its_model", None)
        importlib.invalidate_caches()
        with monkeypatch.context() as patch:
            patch.setattr(sys, "dont_write_bytecode", True)  # which is as old as the file, to the second
            run_benchmark(make_config(copy.deepcopy(toy)), tmp_path / "out", tell=said.append)
        sys.modules.pop("its_model", None)
        return said

    run(source)
    assert "4 of 4 cells are there; 0 to do: 0 rows" in run("# the same\n" + source)
    assert run(source.replace("* 20", "* 10"))[1:3] == [
        "changed since the last run: code of corner",
        "0 of 4 cells are there; 4 to do (0 new, 4 anew): 4 rows",
    ]
    assert {json.loads(row["provenance"])["weights_digest"] for row in read_rows(tmp_path / "out")} == {None}


def test_stored_explanations_are_what_was_found(run: Any, toy: dict[str, Any], photos: Path, tmp_path: Path) -> None:
    run(toy)
    made = plan.Plan(make_config(toy))
    setup = made.setups[0]
    row = Results(tmp_path / "out").load(plan.explanation_id(setup, "b_1.png", made.levels[1]))
    assert row is not None
    stored = explanations.unpack(row).result
    import bench_models

    classifier = bench_models.corner()
    image = suffice.load_image(photos / "b_1.png", classifier)
    found = suffice.explain_series(classifier, image, [0.0, 0.9], "causal", "min", 1, block=8)[1]
    assert isinstance(stored, suffice.Explanation)
    assert torch.equal(stored.mask, found.mask)
    assert torch.equal(stored.saliency, found.saliency)
    same = stored.to_dict() | {"seconds": 0, "image": "", "model": ""}
    assert same == found.to_dict() | {"seconds": 0, "image": "", "model": ""}


def test_two_runs_into_one_folder_at_once_are_refused(run: Any, toy: dict[str, Any], tmp_path: Path) -> None:
    with Results(tmp_path / "out").locked(), pytest.raises(InputError, match="no other process writes into"):
        run(toy)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"config": {}}', "[" * 20_000, "null"])
def test_a_run_json_of_something_else_is_not_replaced(text: str, run: Any, toy: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "run.json").write_text(text)
    with pytest.raises(InputError, match=r"expected the run\.json that suffice bench wrote") as caught:
        run(toy)
    assert "\n" not in str(caught.value)
    assert (tmp_path / "out" / "run.json").read_text() == text


def test_what_a_killed_run_left_is_removed_and_nothing_else(run: Any, toy: dict[str, Any], tmp_path: Path) -> None:
    run(toy)
    left = [tmp_path / "out" / place / f".suffice-{'0' * 32}.part" for place in (".", "rows", "explanations")]
    for path in (*left, tmp_path / "out" / "rows" / "notes.txt", tmp_path / "out" / ".suffice.lock"):
        path.touch()
    run(toy)
    assert not any(path.exists() for path in left)
    assert (tmp_path / "out" / "rows" / "notes.txt").exists()
    assert not (tmp_path / "out" / ".suffice.lock").exists()


def test_a_damaged_part_is_named(run: Any, toy: dict[str, Any], tmp_path: Path) -> None:
    run(toy)
    part = next((tmp_path / "out" / "rows").glob("*.parquet"))
    part.write_bytes(part.read_bytes()[:100])
    with pytest.raises(InputError, match=f"expected a part that suffice bench wrote; .*{part.name}"):
        read_rows(tmp_path / "out")


def test_small_parts_or_large_ones_make_one_table(run: Any, toy: dict[str, Any], tmp_path: Path) -> None:
    _, one = run(toy, "one", seconds_a_part=1e9)
    _, many = run(toy, "many", seconds_a_part=0.0)
    assert len(list((tmp_path / "one" / "rows").iterdir())) == 1
    assert len(list((tmp_path / "many" / "rows").iterdir())) == 8
    assert rows_as_csv(one, times=False) == rows_as_csv(many, times=False)


def test_several_seeds_count_and_samples_have_no_labels(run: Any, toy: dict[str, Any]) -> None:
    toy["datasets"] = [{"source": "samples", "only": ["cat"]}]
    toy["metrics"] = [{"names": ["area"]}]
    outcome, rows = run(toy)
    assert outcome.failed_rows == 4
    assert {r["error"] for r in rows} == {'expected images with labels for target = "label"; these have none'}
    _, rows = run(toy | {"target": "predicted", "seeds": [0, 1]}, "out2")
    assert {(r["seed"], r["status"]) for r in rows} == {(0, "done"), (1, "done")}


def test_maps_of_an_adapter_keep_their_scale_and_another_adapter_is_another_method(
    run: Any, toy: dict[str, Any], photos: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import bench_models

    from suffice.explainers.lax import AdapterSettings, heatmaps, new_adapter

    classifier = bench_models.convolution()
    adapter = new_adapter(classifier, AdapterSettings(design="paper"))
    monkeypatch.setenv("ADAPTERS", str(tmp_path))
    adapter.save(tmp_path / "adapter.safetensors")
    toy |= {"gammas": [], "maps": True, "occlusions": ["zero"]}
    toy["models"] = [{"model": "bench_models:convolution", "label": "conv", "device": "cpu"}]
    toy["methods"] = [{"method": "lax", "settings": {"adapter": "${ADAPTERS}/adapter.safetensors"}}]
    toy["metrics"] = [{"names": ["msi", "msi_penalty"], "occlusion": "zero", "options": {"alpha_min": 0.4}}]
    _, rows = run(toy)
    image = suffice.load_image(photos / "b_1.png", classifier)
    heat = heatmaps(classifier, adapter, image[None])[1][0]
    expected = suffice.score(
        classifier, image, heat, ["msi", "msi_penalty"], 1, "zero", alpha_min=0.4, normalise="none"
    )
    assert {m: values(rows, metric=m)["b_1.png"] for m in expected} == expected
    # The same file elsewhere is the same adapter; another one in its place is not.
    other = tmp_path / "elsewhere"
    other.mkdir()
    monkeypatch.setenv("ADAPTERS", str(other))
    adapter.save(other / "adapter.safetensors")
    assert run(toy)[0].cells == 0
    new_adapter(classifier, AdapterSettings(design="paper", seed=1)).save(other / "adapter.safetensors")
    assert run(toy)[0].cells == 4


@pytest.mark.parametrize(
    ("end", "said"),
    [
        (SystemExit(0), "its code ended the program, SystemExit: 0"),
        (GeneratorExit(), "GeneratorExit"),
        (BaseException("of its own"), "BaseException: of its own"),
    ],
)
def test_a_model_or_a_method_that_ends_the_program_costs_one_cell(
    end: BaseException, said: str, run: Any, toy: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    toy["models"].append({"model": "ending:build", "label": "ending"})
    toy["methods"].append({"method": "lime"})

    def fail(*arguments: Any) -> Any:
        raise end

    monkeypatch.setitem(sys.modules, "ending", SimpleNamespace(build=fail))
    monkeypatch.setitem(METHODS._loaded, "lime", dataclasses.replace(METHODS["lime"], explain=fail))
    outcome, rows = run(toy)
    asked = {(row["model"], row["method"]): set() for row in rows}
    for row in rows:
        asked[row["model"], row["method"]].add(row["error"])
    assert asked["ending", "causal"] == asked["ending", "lime"] == {said}
    assert said in asked["corner", "lime"]
    assert asked["corner", "causal"] == {""}
    assert outcome.failed_rows == sum(row["status"] == "failed" for row in rows)

    def interrupt(*arguments: Any) -> Any:
        raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "ending", SimpleNamespace(build=interrupt))
    with pytest.raises(KeyboardInterrupt):  # nobody's fault
        run(toy, "again")


@pytest.mark.skipif(sys.platform != "linux", reason="other systems take only names that are text")
def test_names_that_are_no_text(run: Any, toy: dict[str, Any], photos: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import bench_models

    classifier = bench_models.corner()
    classifier.class_names = ("a", "half \ud83d", "c")
    monkeypatch.setattr(bench_models, "corner", lambda: classifier)
    (photos / "a_1.png").rename(photos / os.fsdecode(b"caf\xe9_1.png"))
    outcome, rows = run(toy)
    assert outcome.failed_rows == 0
    assert {row["image"] for row in rows} == {"caf\\udce9_1.png", "b_1.png", "c_0.png", "d_2.png"}
    toy["metrics"].append({"names": ["msi"]})
    outcome, again = run(toy)  # of the explanations that are stored
    assert outcome.failed_rows == 0
    assert len(again) > len(rows)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"setups": [{"id": 1}]}, "setups.0.id: Input should be a valid string"),
        ({"images": {}}, "images of toys are missing"),
        ({"levels": None}, "levels: Input should be a valid list"),
        ({"metrics": {"a": {"b": [[[[]]] * 3] * 2}}}, "metrics: Input should be a valid list"),
    ],
)
def test_a_run_json_that_is_damaged_is_refused(
    change: dict[str, Any], said: str, run: Any, toy: dict[str, Any], tmp_path: Path
) -> None:
    run(toy)
    path = tmp_path / "out" / "run.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(InputError) as refused:
        run(toy)
    assert said in str(refused.value)
    with pytest.raises(InputError):
        read_report(tmp_path / "out")


def test_a_part_of_another_table_is_refused(run: Any, toy: dict[str, Any], tmp_path: Path) -> None:
    run(toy)
    foreign = tmp_path / "out" / "rows" / "theirs.parquet"
    pq.write_table(pa.table({"a": [1, 2]}), foreign)
    for call in (lambda: run(toy), lambda: read_rows(tmp_path / "out")):
        with pytest.raises(InputError, match=r"theirs\.parquet has no column setup of string"):
            call()
    foreign.unlink()
    os.mkfifo(foreign)
    with pytest.raises(InputError, match="is a pipe"):
        read_rows(tmp_path / "out")


def test_a_link_in_the_place_of_the_rows_is_not_followed(run: Any, toy: dict[str, Any], tmp_path: Path) -> None:
    (tmp_path / "aside").mkdir()
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "rows").symlink_to(tmp_path / "aside")
    with pytest.raises(InputError, match="it is a link to"):
        run(toy)
    assert not list((tmp_path / "aside").iterdir())
