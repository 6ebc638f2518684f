"""The HTTP interface: what it promises of jobs, of quick questions, and of those who ask at the same time."""

from __future__ import annotations

import base64
import io
import json
import time
import zipfile
from importlib.metadata import version
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from starlette.testclient import TestClient
from toys import BASE, HOSTILE, Corner, photo, served, small_network

import suffice
from suffice.classifier import Classifier
from suffice.explainers.along import order_of
from suffice.explanation import Explanation
from suffice.report.agreement import verdict_on
from suffice.web.app import make_app
from suffice.web.jobs import Jobs
from suffice.web.served import Served
from suffice.web.wording import again

BLOCK = {"block": 8}


def asked(client: Any, request: dict[str, Any], data: bytes | None = None, **more: Any) -> Any:
    files = {"image": ("photo.png", photo() if data is None else data, "image/png"), **more}
    return client.post("/api/jobs", files=files, data={"request": json.dumps(request)})


def ended(client: Any, id: str, wanted: str = "done") -> dict[str, Any]:
    until = time.monotonic() + 20
    while True:
        state = client.get(f"/api/jobs/{id}").json()
        if state["state"] not in ("queued", "running"):
            assert state["state"] == wanted, state
            return dict(state)
        assert time.monotonic() < until, state
        time.sleep(0.01)


def done(client: Any, request: dict[str, Any], data: bytes | None = None, **more: Any) -> dict[str, Any]:
    answer = asked(client, request, data, **more)
    assert answer.status_code == 200, answer.text
    return ended(client, answer.json()["id"])


def waited(condition: Any) -> None:
    until = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < until
        time.sleep(0.005)


def bits(mask: np.ndarray[Any, Any]) -> str:
    return base64.b64encode(np.packbits(mask.reshape(-1)).tobytes()).decode()


def test_health_and_models(client: Any) -> None:
    health = client.get("/api/health").json()
    assert (health["status"], health["version"], health["models"]) == ("ok", version("suffice"), ["corner"])
    (model,) = client.get("/api/models").json()["models"]
    assert "causal" in model["methods"]
    assert "lax" not in model["methods"]  # it needs a file that this server was not given
    assert {"robust", "deactivate", "blur"} <= set(model["occlusions"])
    assert client.get("/api/classes").json() == ["dark", HOSTILE, "never"]


def test_an_explanation_is_that_of_the_library(client: Any, module: Corner) -> None:
    job = done(client, {"do": "explain", "method": "causal", "keep_confidence": 0.5, "settings": BLOCK})
    classifier = served(Corner()).classifier
    wanted = suffice.explain(classifier, photo(), "causal", block=8, name="photo.png")
    result = job["result"]
    for name in ("target", "area", "confidence", "explanation_confidence", "sufficient", "forward_passes", "notes"):
        expected = getattr(wanted, name)
        assert result[name] == pytest.approx(list(expected) if name == "notes" else expected, abs=1e-6), name
    assert bits(wanted.mask.numpy()) == result["bits"]
    assert result["target_name"] == HOSTILE
    assert job["forward_passes"] >= wanted.forward_passes
    npy = client.get(result["saliency"])
    assert np.array_equal(np.load(io.BytesIO(npy.content)), wanted.saliency.numpy())
    with zipfile.ZipFile(io.BytesIO(client.get(f"/api/jobs/{job['id']}/files.zip").content)) as archive:
        assert set(archive.namelist()) == {"explanation.json", "mask.png", "saliency.npy", "overlay.png", "report.html"}
        assert json.loads(archive.read("explanation.json"))["area"] == result["area"]


def test_settings_of_the_method_may_stand_beside_the_rest(client: Any) -> None:
    one, other = (done(client, {"do": "explain", **settings})["result"] for settings in (BLOCK, {"settings": BLOCK}))
    assert one["settings"] == other["settings"]
    assert one["settings"]["block"] == 8


def test_the_ranking_comes_as_one_buffer_whose_prefix_is_the_explanation(client: Any) -> None:
    job = done(client, {"do": "explain", **BLOCK, "curve": 6})
    data = client.get(job["result"]["ranking"]).content
    height, width, points, different = np.frombuffer(data, "<u4", 4)
    assert (height, width) == (64, 64)
    assert different <= 256
    curve = np.frombuffer(data, [("count", "<u4"), ("confidence", "<f4")], points, 16)
    start = 16 + 8 * points
    levels, mask = np.frombuffer(data, "u1", different, start), data[start + different : start + different + 512]
    assert (int(levels[0]), int(levels[-1]), sorted(levels, reverse=True)) == (255, 0, list(levels))
    assert base64.b64encode(mask).decode() == job["result"]["bits"]
    ranks = np.frombuffer(data, "u1", -1, start + different + 512).cumsum(dtype="u1").reshape(height, width)
    saliency = np.load(io.BytesIO(client.get(f"/api/jobs/{job['id']}/files/saliency.npy").content))
    assert (np.unique(-saliency)[ranks] == -saliency).all()
    shown = np.unpackbits(np.frombuffer(mask, "u1")).astype(bool).reshape(height, width)
    places = order_of(shown, saliency)
    assert bits(places < shown.sum()) == job["result"]["bits"]
    # What the model says along it, asked anew, one by one.
    classifier = served(Corner()).classifier
    question = suffice.Question(classifier, photo())
    for number, confidence in curve:
        answer = question.exact(torch.from_numpy(places < number))
        assert confidence == pytest.approx(answer.confidence if answer.margin > 0 else 0, abs=1e-5)


def test_quick_answers_are_those_of_masked_logits_and_are_not_asked_twice(client: Any) -> None:
    upload = client.post("/api/images", files={"image": ("a.png", photo(), "image/png")}).json()
    classifier = served(Corner()).classifier
    image = suffice.load_image(photo(), classifier)
    assert upload["classes"][0][:2] == [1, HOSTILE]
    mask = np.zeros((64, 64), bool)
    mask[:20, :20] = True
    part = {"masks": [bits(mask), bits(~mask)], "occlusions": ["robust", "deactivate", "image:sample:cat"]}
    if not client.get("/api/samples").json():
        part["occlusions"].pop()
    first = client.post(f"/api/images/{upload['id']}/answers", json=part).json()
    for row, shown in zip(first["answers"], (mask, ~mask), strict=True):
        for said in row:
            logits = suffice.masked_logits(
                classifier, image[None], torch.from_numpy(shown)[None], occlusion=said["occlusion"]
            )
            wanted = logits[0].softmax(0)
            assert said["confidence"] == pytest.approx(float(wanted[1]), abs=1e-5)
            assert said["on_top"] == (int(wanted.argmax()) == 1)
            assert said["other"] == int(wanted.index_fill(0, torch.tensor([1]), 0).argmax())
    assert first["forward_passes"] == 2 * len(first["answers"][0])
    assert client.post(f"/api/images/{upload['id']}/answers", json=part).json()["forward_passes"] == 0


def test_events_tell_of_the_passes_and_the_part_and_end_with_the_job(client: Any) -> None:
    id = asked(client, {"do": "explain", **BLOCK}).json()["id"]
    with client.stream("GET", f"/api/jobs/{id}/events") as stream:
        lines = [line for line in stream.iter_lines() if line]
    kinds = [line.removeprefix("event: ") for line in lines if line.startswith("event: ")]
    told = [json.loads(line.removeprefix("data: ")) for line in lines if line.startswith("data: ")]
    assert kinds[-1] == "done"
    assert told[-1]["state"] == "done"
    assert told[-1]["forward_passes"] > 0
    assert told[-1]["mask"] == client.get(f"/api/jobs/{id}").json()["result"]["bits"]


def test_a_cancelled_job_stops_within_one_batch_and_the_model_is_as_it_was(client: Any, module: Corner) -> None:
    module.train()
    module.go.clear()
    id = asked(client, {"do": "explain", **BLOCK}).json()["id"]
    waited(lambda: module.batches > 0)
    before = module.batches
    assert client.delete(f"/api/jobs/{id}").status_code == 200
    module.go.set()
    ended(client, id, "cancelled")
    assert module.batches <= before + 1
    assert module.training
    done(client, {"do": "explain", **BLOCK})


def test_a_job_that_waits_is_cancelled_at_once_and_makes_room(client: Any, module: Corner) -> None:
    ids = held_up(client, module)
    assert asked(client, {"do": "explain"}).status_code == 429
    assert client.delete(f"/api/jobs/{ids[-1]}").json()["state"] == "cancelled"
    assert asked(client, {"do": "explain"}).status_code == 200


def held_up(client: Any, module: Corner) -> list[str]:
    """A job that runs and does not go on, and the four that the queue holds."""
    image = client.post("/api/images", files={"image": ("a.png", photo(), "image/png")}).json()["id"]
    before = module.batches
    module.go.clear()
    request = {"request": json.dumps({"do": "explain", "image": image, **BLOCK})}
    ids = [client.post("/api/jobs", data=request).json()["id"]]
    waited(lambda: module.batches > before)
    return ids + [client.post("/api/jobs", data=request).json()["id"] for _ in range(4)]


@pytest.mark.parametrize("error", [RuntimeError("boom"), SystemExit(3), MemoryError(), KeyboardInterrupt()])
def test_a_job_that_crashes_ends_alone(client: Any, module: Corner, error: BaseException, capsys: Any) -> None:
    image = client.post("/api/images", files={"image": ("a.png", photo(), "image/png")}).json()["id"]
    module.fail = error
    id = client.post("/api/jobs", data={"request": json.dumps({"do": "explain", "image": image})}).json()["id"]
    assert type(error).__name__ in str(ended(client, id, "failed")["error"])
    module.fail = None
    done(client, {"do": "explain", **BLOCK})


def test_quick_questions_are_answered_while_a_job_runs(client: Any, module: Corner) -> None:
    upload = client.post("/api/images", files={"image": ("a.png", photo(), "image/png")}).json()
    id = asked(client, {"do": "explain", "search": "partitions", "iterations": 20}).json()["id"]
    waited(lambda: client.get(f"/api/jobs/{id}").json()["state"] != "queued")
    part = {"masks": [bits(np.ones((64, 64), bool))], "occlusions": ["zero"]}
    assert client.post(f"/api/images/{upload['id']}/answers", json=part).status_code == 200
    client.delete(f"/api/jobs/{id}")


def test_methods_are_scored_side_by_side_with_a_verdict(client: Any) -> None:
    ids = [done(client, {"do": "explain", "block": block})["id"] for block in (8, 16)]
    job = done(client, {"do": "score", "explanations": ids, "metrics": ["area", "insertion"], "step": 0.1})
    assert set(job["result"]["scores"]) == {"causal", "causal (2)"}
    assert job["result"]["scores"]["causal"]["area"] == client.get(f"/api/jobs/{ids[0]}").json()["result"]["area"]
    assert job["result"]["verdict"]


def test_what_is_asked_about_a_part_takes_it_from_anywhere(client: Any) -> None:
    mask = np.zeros((64, 64), bool)
    mask[:32, :32] = True
    file = io.BytesIO()
    np.save(file, mask)
    shapes = [
        done(client, {"do": "verify", "mask": bits(mask)}),
        done(client, {"do": "verify", "mask": mask.astype(int).tolist()}),
        done(client, {"do": "verify"}, mask=("mask.npy", file.getvalue())),
    ]
    classifier = served(Corner()).classifier
    wanted = suffice.certify(classifier, suffice.load_image(photo(), classifier), mask)
    for job in shapes:
        assert job["result"]["guarantee"]["verdict"] == wanted.verdict == "certified"
        assert job["result"]["guarantee"]["draws"] == wanted.draws
        assert job["result"]["in_words"].startswith("Certified")
    alone = done(client, {"do": "verify", "rho": 0.8, "draws": 200})
    assert alone["result"]["guarantee"]["verdict"] in ("certified", "refuted", "unknown")


def test_a_circuit_is_a_drawing_and_its_numbers(jobs: Jobs) -> None:
    with TestClient(make_app([served(small_network())], jobs=jobs), base_url=BASE) as client:
        job = done(client, {"do": "circuit", "random": 2})
        check_circuit(client, job)


def check_circuit(client: Any, job: dict[str, Any]) -> None:
    assert job["result"]["channels_total"] > 0
    assert set(job["files"]) == {"circuit.json", "circuit.graphml", "circuit.svg"}
    drawn = client.get(job["result"]["svg"])
    assert drawn.headers["content-type"].startswith("image/svg")
    assert "sandbox" in drawn.headers["content-security-policy"]


def test_several_parts_have_no_pixel_in_common(client: Any) -> None:
    parts = done(client, {"do": "explain", **BLOCK, "count": 3})["result"]["parts"]
    masks = [np.unpackbits(np.frombuffer(base64.b64decode(each["bits"]), np.uint8)) for each in parts]
    assert all(not (a & b).any() for i, a in enumerate(masks) for b in masks[i + 1 :])


def test_why_one_class_and_not_another(client: Any) -> None:
    result = done(client, {"do": "explain", **BLOCK, "against": "dark"})["result"]
    classifier = served(Corner()).classifier
    image = suffice.load_image(photo(), classifier)
    for text, beats in ((result["bits"], True), (result["must_go"], False)):
        packed = np.unpackbits(np.frombuffer(base64.b64decode(text), np.uint8)).reshape(64, 64).astype(bool)
        shown = torch.from_numpy(packed if beats else ~packed)
        worst = [
            suffice.masked_logits(classifier, image[None], shown[None], name)[0]
            for name in (each.name for each in suffice.Question(classifier, image).occlusions)
        ]
        assert all(bool(logits[1] > logits[0]) for logits in worst) == beats
    assert asked(client, {"do": "explain", "against": HOSTILE, "target": 1}).status_code == 200


def test_a_request_that_cannot_be_is_one_line(client: Any) -> None:
    for request, words in [
        ({"do": "dance"}, "do"),
        ({"do": "explain", "method": "casual"}, "did you mean causal"),
        ({"do": "explain", "keep_confidence": 2}, "less than or equal to 1"),
        ({"do": "explain", "blok": 8}, "unknown option 'blok'"),
        ({"do": "explain", "occlusion": "nothing"}, "unknown occlusion"),
        ({"do": "explain", "target": "cat"}, "cat"),
        ({"do": "explain", "model": "other"}, "expected a model among corner"),
        ({"do": "score", "metrics": ["beauty"]}, "beauty"),
        ({"do": "verify", "explanation": "guessed"}, "job"),
        ({"do": "circuit", "mask": "xx"}, "mask"),
    ]:
        answer = asked(client, request)
        assert answer.status_code in (404, 422), request
        assert words in answer.json()["detail"], answer.text
        assert "\n" not in answer.json()["detail"]
    assert client.post("/api/jobs", data={"request": "{"}).status_code == 422
    assert client.post("/api/jobs", data={"request": '{"do": "explain"}'}).status_code == 422
    assert client.get("/api/jobs/guessed").status_code == 404


def test_every_address_has_types(client: Any) -> None:
    described = client.get("/api/openapi.json").json()
    assert {"/api/health", "/api/jobs", "/api/jobs/{id}", "/api/jobs/{id}/events"} <= set(described["paths"])
    assert set(described["paths"]["/api/jobs/{id}"]) == {"get", "delete"}
    assert {"Explain", "Score", "Verify", "Circuit", "State", "Created"} <= set(described["components"]["schemas"])


def test_what_is_kept_has_a_limit(module: Corner) -> None:
    jobs = Jobs(lambda job: {"answer": 1}, most=3)
    made = [jobs.add("explain", "cpu", None) for _ in range(6)]
    waited(lambda: all(job.state == "done" for job in made))
    jobs.add("explain", "cpu", None)
    assert jobs.get(made[0].id) is None
    assert jobs.get(made[-1].id) is made[-1]
    jobs.close()


def test_the_verdict_on_several_methods_says_when_they_disagree() -> None:
    left, right = np.zeros((4, 4), bool), np.zeros((4, 4), bool)
    left[:, 0], right[:, 3] = True, True
    classifier: Classifier = served(Corner()).classifier
    whole = suffice.explain(classifier, photo(), block=8)

    def part(mask: np.ndarray[Any, Any], sufficient: bool = True) -> Explanation:
        import dataclasses

        return dataclasses.replace(whole, mask=torch.from_numpy(mask), area=float(mask.mean()), sufficient=sufficient)

    assert "disagree" in verdict_on({"a": part(left), "b": part(right)})
    assert "agree:" in verdict_on({"a": part(left), "b": part(left)})
    nearly_all = ~right  # any two parts of these sizes share a lot, wherever they lie
    assert "cannot be told: a and b share 50%" in verdict_on({"a": part(nearly_all), "b": part(~left)})
    assert "agree:" in verdict_on({"a": part(nearly_all), "b": part(nearly_all)})
    assert "Only a" in verdict_on({"a": part(left), "b": part(right, False)})
    assert "None" in verdict_on({"a": part(left, False), "b": part(right, False)})


def test_made_again_by_the_command_and_by_python(client: Any, tmp_path: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    how = again(
        "-p.png", "ab" * 32, {"model": "timm:resnet18", "weights": "a b.pth"},
        {"method": "causal", "target": "cat", "certify": 0.9, "settings": {"block": 8}},
    )  # fmt: skip
    assert how["command"].endswith("-- -p.png")
    assert "--weights 'a b.pth'" in how["command"]
    compile(how["python"], "again", "exec")
    result = done(client, {"do": "explain", **BLOCK})["result"]
    (tmp_path / "photo.png").write_bytes(photo())
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(suffice, "load_classifier", lambda: served(Corner()).classifier, raising=False)
    names: dict[str, Any] = {}
    exec(result["again"]["python"], names)
    assert bits(names["explanation"].mask.numpy()) == result["bits"]


def test_a_map_in_sixteen_bits_has_all_its_levels(client: Any) -> None:
    levels = np.tile(np.arange(64, dtype=np.uint16) * 1024, (64, 1))
    file = io.BytesIO()
    Image.fromarray(levels).save(file, "PNG")
    found = done(client, {"do": "verify"}, mask=("map.png", file.getvalue()))
    assert found["result"]["bits"] == bits(levels > 63 * 1024 / 2)


def test_a_map_in_colour_is_refused_as_score_refuses_it_and_a_grey_one_is_taken(client: Any) -> None:
    grey = np.tile(np.arange(64, dtype=np.uint8) * 4, (64, 1))
    colour = np.stack([grey, grey, 255 - grey], 2)
    for pixels, wanted in ((colour, 422), (np.stack([grey] * 3, 2), 200)):
        file = io.BytesIO()
        Image.fromarray(pixels).save(file, "PNG")
        answer = asked(client, {"do": "verify"}, mask=("map.png", file.getvalue()))
        assert answer.status_code == wanted
        assert wanted == 200 or "in colour, from which values cannot be told" in answer.json()["detail"]


def test_a_part_for_a_model_of_volumes_is_refused_in_one_line(module: Corner, jobs: Jobs) -> None:
    volumes = Classifier(lambda x: x.mean((2, 3, 4)), input_size=(4, 8, 8), mean=(0, 0, 0), std=(1, 1, 1))
    with TestClient(make_app([served(module), Served("volumes", volumes)], jobs=jobs), base_url=BASE) as client:
        image = client.post("/api/images", files={"image": ("a.png", photo())}).json()["id"]
        request = {"do": "verify", "image": image, "model": "volumes", "mask": "AAAA"}
        answer = client.post("/api/jobs", data={"request": json.dumps(request)}, files={"none": b""})
    assert (answer.status_code, "needs an input with two dimensions" in answer.json()["detail"]) == (422, True)


def test_two_visitors_see_nothing_of_each_other(client: Any) -> None:
    ids = [done(client, {"do": "explain", **BLOCK}, photo(seed))["id"] for seed in (1, 2)]
    first, second = (client.get(f"/api/jobs/{id}").json()["result"]["made"]["image"] for id in ids)
    assert first != second
    assert all(len(id) >= 20 for id in ids)
    for path in ("/api/jobs", "/api/images", "/api/jobs/", "/api/images/"):
        assert client.get(path).status_code in (404, 405)


def test_the_page_is_small(client: TestClient) -> None:
    page = client.get("/")
    assert page.status_code == 200
    from suffice.web.app import PARTS, STATIC

    assert sum(path.stat().st_size for folder in (STATIC, PARTS) for path in folder.iterdir()) < 300_000
