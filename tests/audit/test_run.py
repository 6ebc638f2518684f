"""Audits of models whose shortcut is known, from beginning to end."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from suffice.audit import Audit, AuditSettings, run_audit
from suffice.audit.boxes import read_boxes
from suffice.audit.classes import classes_found
from suffice.audit.conditions import Condition, held, numbers_of, untested
from suffice.audit.evidence import SURROUNDINGS
from suffice.audit.findings import Rate
from suffice.audit.pictures import Pictures
from suffice.audit.sample import Prediction, repeated
from suffice.audit.trials import pasted_of
from suffice.benchmark.images import open_images
from suffice.benchmark.local import LocalEngine
from suffice.benchmark.specs import DatasetSpec, ModelSpec
from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.images import Photo, prepare
from suffice.report.audit import audit_json, render_audit, summary, write_audit

HERE = Path(__file__).parent
SIDE, COUNT = 32, 14


def settings_for(animals: Path, **changes: Any) -> AuditSettings:
    model = ModelSpec(model="audit_models:blue_is_horse", device="cpu")
    return AuditSettings(DatasetSpec(source=str(animals)), model, block=4, **changes)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("audit")


@pytest.fixture(scope="module")
def found(animals: Path, folder: Path) -> Iterator[Audit]:
    """The audit of the model with a shortcut beside the mended one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(HERE)
        yield run_audit(
            settings_for(animals, against=ModelSpec(model="audit_models:mended", device="cpu")), folder / "first"
        )


def test_the_mark_is_the_one_shortcut_and_its_members_are_the_marked_horses(found: Audit) -> None:
    (shortcut,) = found.shortcuts
    assert (shortcut.target_name, shortcut.where) == ("horse", "lower left")
    marked = {f"horse/horse{number:02d}.png" for number in range(COUNT) if number % 3 != 0}
    assert set(shortcut.members.images) == marked
    # Blue is brighter than green is, so the class comes on every cow; a faint horse is nothing without the mark.
    assert (shortcut.brings.count, shortcut.brings.total) == (2 * len(marked), 2 * len(marked))
    assert (shortcut.loses.count, shortcut.loses.total) == (len(marked), len(marked))
    assert shortcut.brings_control.count == shortcut.loses_control.count == 0


def test_the_mended_model_lost_the_evidence(found: Audit) -> None:
    assert found.comparison is not None
    (change,) = [each for each in found.comparison.changes if each.verdict == "shortcut"]
    assert (change.name, change.found_in, change.became) == (found.shortcuts[0].name, "first", "went")
    assert (change.first.value, change.second.value) == (1.0, 0.0)
    assert found.comparison.agree.count == 2 * COUNT - len(
        found.shortcuts[0].members.images
    )  # it says nothing of a faint horse


def test_a_second_model_with_its_classes_in_another_order_is_refused_before_the_work(
    animals: Path, tmp_path: Path, models: None
) -> None:
    against = ModelSpec(model="audit_models:reordered", label="after.pth", device="cpu")
    settings = settings_for(animals, against=against)
    with pytest.raises(InputError, match=r"'cow' is class 0 of audit_models:blue_is_horse, class 1 of after.pth"):
        run_audit(settings, tmp_path / "out")
    assert not list(tmp_path.glob("out/**/*.parquet"))


def test_a_run_that_was_stopped_goes_on_to_the_same_page(
    found: Audit, animals: Path, folder: Path, models: None
) -> None:
    class KilledError(Exception):
        pass

    class Stopping(LocalEngine):
        """Stops after some images."""

        def run(self, config: Any, tasks: Any) -> Iterator[Any]:
            for number, result in enumerate(super().run(config, tasks)):
                if number == 5:
                    raise KilledError
                yield result

    settings = dataclasses.replace(found.settings, against=None)
    for _ in range(5):
        with pytest.raises(KilledError):
            run_audit(settings, folder / "second", Stopping())
    again = run_audit(settings, folder / "second")
    pages = [render_audit(dataclasses.replace(one, comparison=None)) for one in (found, again)]
    assert pages[0] == pages[1]


def boxes_of(names: Sequence[str]) -> dict[str, Any]:
    """The boxes of the animals, as COCO has them."""
    from audit_pictures import picture

    boxes: dict[str, Any] = {"images": [], "annotations": []}
    for index, name in enumerate(names):
        rows, columns = np.nonzero(picture(name.split("/")[0], int(name[-6:-4]))[1])
        box = [int(columns.min()), int(rows.min()), int(np.ptp(columns)) + 1, int(np.ptp(rows)) + 1]
        boxes["images"].append({"id": index, "file_name": name, "width": SIDE, "height": SIDE})
        boxes["annotations"].append({"image_id": index, "bbox": box})
    return boxes


def test_what_surrounds_objects_is_shown_as_the_model_was_asked(found: Audit, folder: Path, models: None) -> None:
    (folder / "all.json").write_text(json.dumps(boxes_of([image.name for image in found.images])))
    boxed = run_audit(dataclasses.replace(found.settings, boxes=str(folder / "all.json")), folder / "first")
    assert [(each.kind, each.target_name) for each in boxed.shortcuts] == [("part", "horse"), ("surroundings", "horse")]
    assert boxed.comparison is not None
    # The mark is in parts and in surroundings, and went once.
    assert numbers_of(boxed)["went"] == 1
    (change,) = [each for each in boxed.comparison.changes if each.became != "stayed"]
    assert change.also is not None
    assert [each.name for each in (change, change.also)] == [each.name for each in boxed.shortcuts]
    assert (change.found_in, change.became) == ("first", "went")
    said = summary(boxed, ())
    assert said.count("- went: ") == 1
    assert f"; the same mark as {change.also.name}, {change.also.first.counts} before" in said
    content = write_audit(boxed)
    assert {"part", "surroundings"} == {each["kind"] for each in content["evidence"]}
    images = {image.name: image for image in boxed.images}
    pictures = Pictures(boxed.source, boxed.classifier)
    for index, each in enumerate(boxed.evidence):
        around = boxed.surroundings if each.kind == SURROUNDINGS else None
        members = {part.name: part for part in (around.values() if around else (*boxed.parts, *boxed.second_parts))}
        for number, (host, member, donor, said) in enumerate(each.hosts[:3]):
            mask = pasted_of(members[member], images[host], images[donor], around)
            pasted = pictures.pasted(members[member].image.number, mask, images[host].number)
            assert int(boxed.classifier.logits(pasted[None]).argmax()) == said
            with Image.open(boxed.folder / "thumbnails" / f"paste-{index}-{number}.jpg") as shown:
                small = np.asarray(shown.resize((SIDE, SIDE), Image.Resampling.BOX), dtype=float).transpose(2, 0, 1)
            assert np.abs(small / 255 - pasted.numpy()).mean() < 0.03
    page = (boxed.folder / "audit.html").read_text()
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    for index, each in enumerate(boxed.evidence):
        group = int(page.split(f'id="evidence-{index}"')[1].split('data-group="')[1].split('"')[0])
        files = [data["images"][number][1] for number in data["groups"][group]]
        assert [file.endswith("-around.jpg") for file in files] == [each.kind == SURROUNDINGS] * each.members.count
        assert all((boxed.folder / "thumbnails" / file).is_file() for file in files)


def test_the_share_inside_equals_a_count_by_hand(found: Audit, animals: Path, folder: Path, models: None) -> None:
    ten = [part for part in found.parts if part.name.endswith(tuple(f"0{n}.png" for n in range(5)))]
    assert len(ten) == 10
    boxes = boxes_of([part.name for part in ten])
    (folder / "boxes.json").write_text(json.dumps(boxes))
    said: list[str] = []
    settings = dataclasses.replace(found.settings, against=None, boxes=str(folder / "boxes.json"))
    boxed = run_audit(settings, folder / "first", tell=said.append)
    assert f"{2 * COUNT - 10} of {2 * COUNT} images have no box" in said
    shares: dict[str, list[float]] = {"cow": [], "horse": []}
    for part, annotation in zip(ten, boxes["annotations"], strict=True):
        left, top, width, height = annotation["bbox"]
        kept = [(y, x) for y in range(SIDE) for x in range(SIDE) if part.mask[y][x]]
        inside = [1 for y, x in kept if top <= y < top + height and left <= x < left + width]
        shares[part.name.split("/")[0]].append(len(inside) / len(kept))
    assert {each.name: each.inside.value for each in boxed.classes} == pytest.approx(
        {name: sum(values) / len(values) for name, values in shares.items()}
    )
    assert [each.where for each in boxed.shortcuts] == ["lower left"]
    outside = boxed.shortcuts[0].outside
    assert outside is not None
    assert (outside.count, outside.total) == (3, 3)  # of nine members: too few for boxes to decide
    assert boxed.shortcuts[0].decided_by == "common"


def test_files_conditions_and_the_images_behind_numbers(found: Audit, animals: Path) -> None:
    pytest.importorskip("fastapi", reason="needs suffice[web]")
    from suffice.web.audited import open_audit
    from suffice.web.served import Served
    from suffice.web.uploads import Uploads

    verdicts = held([Condition.read("shortcuts > 0"), Condition.read("accuracy < 50%")], numbers_of(found))
    assert [(value, holds) for _, value, holds in verdicts] == [(1, True), (1.0, False)]
    content = write_audit(found, verdicts)
    files = {path.name for path in found.folder.iterdir()}
    assert {"audit.html", "audit.json", "junit.xml", "summary.md", "thumbnails"} <= files
    assert json.loads((found.folder / "audit.json").read_text()) == content
    assert '<failure message="shortcuts is 1"' in (found.folder / "junit.xml").read_text()
    assert "**fails**: fail if shortcuts &gt; 0; it is 1" in (found.folder / "summary.md").read_text()
    page = (found.folder / "audit.html").read_text()
    data = json.loads(page.split('<script type="application/json" id="data">')[1].split("</script>")[0])
    # By the name that the summary and the table of two models have.
    assert all(f"<bdi>{each.name}</bdi>: {each.where} " in page for each in found.evidence)
    groups = [int(text.split('"')[0]) for text in page.split('data-group="')[1:]]
    assert max(groups) == len(data["groups"]) - 1
    shown = {data["images"][index][1] for group in data["groups"] for index in group} - {""}
    assert shown <= {path.name for path in (found.folder / "thumbnails").iterdir()}
    assert "http" not in page.replace("http-equiv", "")
    model = Served("coloured", found.classifier)
    upload = Uploads().add((animals / "cow" / "cow00.png").read_bytes(), "cow00.png")
    pasted = open_audit(str(found.folder), [model]).pasted(0, upload)
    assert (pasted.before, len(pasted.pastes)) == ("cow", len(found.shortcuts[0].members.images))
    assert pasted.brings
    assert all(each.came and not each.hidden_came for each in pasted.pastes)
    # Of a cluster that there was once, nothing is left; and of surroundings nothing is pasted.
    around = dataclasses.replace(found.evidence[0], kind=SURROUNDINGS, hosts=())
    surroundings = {part.image.number: part for part in found.parts}
    fewer = dataclasses.replace(found, evidence=[found.evidence[0], around], surroundings=surroundings)
    cluster, other = write_audit(fewer)["evidence"]
    assert other["cut_outs"] == []
    files = {path.name for path in (found.folder / "cut-outs").glob("*.png")}
    assert files == {each["file"] for each in cluster["cut_outs"]} == {f"0-{n}.png" for n in range(9)}
    with pytest.raises(
        InputError, match=r"inside .* is not known here; got shortcuts, evidence, accuracy, [a-z_, ]*went$"
    ):
        held([Condition.read("inside < 50%")], numbers_of(found))


def test_where_nothing_was_pasted_nothing_is_said_of_shortcuts(found: Audit) -> None:
    alone = [dataclasses.replace(each, brings=Rate(0, 0), verdict="not confirmed") for each in found.evidence]
    audit = dataclasses.replace(found, evidence=alone)
    verdicts = held([Condition.read("shortcuts > 0")], numbers_of(audit))
    assert [untested(condition, audit) for condition, *_ in verdicts] == [True]
    assert "There was no image to paste evidence on that is of another class" in summary(audit, verdicts)
    page = render_audit(audit, verdicts)
    assert '<div class="verdict alarm">' in page
    assert "No shortcut was shown" not in page
    assert "Undecided: fail if shortcuts" in page


def test_where_too_few_images_could_show_a_shortcut_no_banner_is_green(found: Audit, tmp_path: Path) -> None:
    few = [dataclasses.replace(each, least_p=0.125, verdict="not confirmed") for each in found.evidence]
    audit = dataclasses.replace(found, evidence=few, folder=tmp_path)
    verdicts = held([Condition.read("shortcuts > 0")], numbers_of(audit))
    page, said = render_audit(audit, verdicts), summary(audit, verdicts)
    assert '<div class="verdict alarm">' in page
    assert "No shortcut could be shown" in page
    assert "Too few images to show a shortcut: over" in page
    assert "Too few images to show a shortcut: over" in said
    assert "- undecided: fail if shortcuts &gt; 0; it is 0; none could have been shown" in said
    assert audit_json(audit, verdicts, {})["undecided"] == audit.undecided
    assert audit_json(found, (), {})["undecided"] is None
    # Two parts of one image count, too.
    assert "| evidence | verdict | where | parts |" in said


def test_a_model_of_volumes_is_told_at_once(animals: Path, tmp_path: Path, models: None) -> None:
    settings = dataclasses.replace(settings_for(animals), model=ModelSpec(model="audit_models:volumes", device="cpu"))
    with pytest.raises(InputError, match="a photo needs an input with two dimensions"):
        run_audit(settings, tmp_path / "volumes")


def test_a_file_in_two_classes_is_told_and_one_that_is_there_again(tmp_path: Path) -> None:
    for label, name in (("horse", "a"), ("cow", "b"), ("cow", "c"), ("cow", "d")):
        (tmp_path / label).mkdir(exist_ok=True)
        (tmp_path / label / f"{name}.png").write_bytes(b"one" if name < "c" else b"another")
    images = open_images(DatasetSpec(source=str(tmp_path)))
    asked = [Prediction(n, name, images.label(n), 0, 0.9) for n, name in enumerate(images.names)]
    again = "one file is there more than once, and counts each time, such as cow/c.png and cow/d.png"
    assert repeated(asked, images) == ["one file is in several classes, such as cow/b.png and horse/a.png", again]
    assert repeated([image for image in asked if image.label == asked[0].label], images) == [again]


def test_files_of_a_table_have_their_names_though_one_is_listed_twice(tmp_path: Path) -> None:
    paths = ("x/cow/1.png", "y/cow/1.png", "horse/2.png", "y/cow/1.png")
    (tmp_path / "table.csv").write_text("".join(f"{path},{path[0]}\n" for path in paths))
    images = open_images(DatasetSpec(source=str(tmp_path / "table.csv")))
    assert list(images.names) == ["x/cow/1.png", "y/cow/1.png", f"{tmp_path.name}/horse/2.png", "y/cow/1.png[3]"]
    coco = {"images": [{"id": 1, "file_name": "cow/1.png"}], "annotations": [{"image_id": 1, "bbox": [0, 0, 2, 2]}]}
    (tmp_path / "boxes.json").write_text(json.dumps(coco))
    boxes, photo = read_boxes(tmp_path / "boxes.json"), Photo(Image.new("RGB", (4, 4)))
    assert [boxes.mask(name, photo) is not None for name in images.names] == [True, True, False, True]


def test_ten_thousand_classes_are_a_page_of_the_worst(found: Audit) -> None:
    asked = [Prediction(n, f"{n}.png", n, n if n % 4 else 0, 0.9) for n in range(10_000)]
    model = Classifier(lambda x: x.mean((2, 3)), input_size=(SIDE, SIDE), class_names=[f"c{n}" for n in range(10_000)])
    classes = classes_found(model, asked, [])
    assert (len(classes), sum(each.accuracy.count for each in classes)) == (10_000, 7_501)
    page = render_audit(dataclasses.replace(found, asked=asked, classes=classes, mistakes=[], classifier=model))
    assert "The 500 classes of the least accuracy; 9,500 others are in audit.json." in page
    assert len(page) < 2_000_000


def test_a_second_part_alone_keeps_the_class_where_the_first_was_hidden(found: Audit) -> None:
    first = {part.image.name: part for part in found.parts}
    assert len(found.second_parts) > COUNT  # a part is a corner of a square, and the rest of the square would do
    for part in found.second_parts:
        image = prepare(found.source.photo(part.image.number), found.classifier)
        alone = torch.where(torch.from_numpy(part.mask), image, 0.1)
        assert int(found.classifier.logits(alone[None]).argmax()) == part.target == first[part.image.name].target
        assert not (part.mask & first[part.image.name].mask).any()
    marked = {part.image.name for part in found.second_parts} & set(found.shortcuts[0].members.images)
    assert not marked  # without the mark a faint horse is nothing
