"""An audit's evidence on a visitor's image: what the page at /audit asks."""

from __future__ import annotations

import hashlib
import io
import json
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from toys import BASE, HOSTILE, MEMBERS, Corner, add_cutout, audit, photo, served

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.web.app import make_app
from suffice.web.audited import open_audit
from suffice.web.served import Served
from suffice.web.uploads import Uploads


def test_members_are_pasted_on_the_visitors_image_alone(tmp_path: Path) -> None:
    model = served(Corner())
    found = open_audit(str(audit(tmp_path / "a", model)), [model])
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(0).integers(0, 80, (64, 64, 3), np.uint8)).save(file, "PNG")
    with TestClient(make_app([model], audit=found), base_url=BASE) as client:
        assert "/static/audit.js" in client.get("/audit").text
        assert client.get("/api/models").json()["audit"]
        told = client.get("/api/audit").json()
        assert (told["model"], [each["name"] for each in told["clusters"]]) == ("corner", ["one 1", "one 2"])
        assert told["left_out"] == 1
        image = client.post("/api/images", files={"image": ("a.png", file.getvalue())}).json()["id"]
        corner, patch = (client.post(f"/api/audit/{n}/images/{image}").json() for n in (0, 1))
        assert (corner["before"], corner["already"], corner["brings"], patch["brings"]) == ("dark", False, True, False)
        assert [(each["came"], each["hidden_came"]) for each in corner["pastes"]] == [(True, False)] * MEMBERS
        assert not any(each["came"] for each in patch["pastes"])
        assert corner["pastes"][0]["picture"].startswith("data:image/png;base64,")
        assert client.post(f"/api/audit/2/images/{image}").json()["detail"] == "expected a cluster from 0 to 1; got 2"
        assert client.post("/api/audit/0/images/none").status_code == 404


def test_an_audit_of_other_weights_or_none_is_told(tmp_path: Path) -> None:
    model = served(Corner())
    with pytest.raises(InputError, match=r"expected a --model with the weights that were audited in .*; got corner"):
        open_audit(str(audit(tmp_path / "a", served(Corner()))), [model])
    (tmp_path / "a" / "audit.json").write_text("[]")
    with pytest.raises(InputError, match=r"expected what suffice audit found in .*; audit.json is none"):
        open_audit(str(tmp_path / "a"), [model])
    with TestClient(make_app([model]), base_url=BASE) as client:
        assert client.get("/api/audit").status_code == 404
        assert not client.get("/api/models").json()["audit"]


def test_only_the_members_that_the_audit_lists_are_pasted_and_as_it_wrote_them(tmp_path: Path) -> None:
    model = served(Corner())
    folder = audit(tmp_path / "a", model)
    cutouts = folder / "cut-outs"
    shutil.copy(cutouts / "1-0.png", cutouts / "0-5.png")  # of an earlier audit, of another cluster
    upload = Uploads().add(photo(), "a.png")
    found = open_audit(str(folder), [model])
    assert len(found.pasted(0, upload).pastes) == MEMBERS
    shutil.copy(cutouts / "1-0.png", cutouts / "0-1.png")
    with pytest.raises(InputError, match=r"expected .*0-1.png as the audit wrote it; got one that was changed since"):
        found.pasted(0, upload)
    (cutouts / "0-0.png").unlink()
    (cutouts / "0-0.png").symlink_to(cutouts / "0-1.png")
    with pytest.raises(InputError, match=r"expected a cut-out .*; .*0-0.png is a link"):
        found.pasted(0, upload)


@pytest.mark.parametrize("kept", [20, 60], ids="{} bytes of it".format)
def test_a_damaged_cut_out_is_told_where_its_digest_is_that_of_the_damage(tmp_path: Path, kept: int) -> None:
    model = served(Corner())
    folder = audit(tmp_path / "a", model)
    file, content = folder / "cut-outs" / "0-0.png", json.loads((folder / "audit.json").read_text())
    file.write_bytes(file.read_bytes()[:kept])
    content["evidence"][0]["cut_outs"][0]["sha256"] = hashlib.sha256(file.read_bytes()).hexdigest()
    (folder / "audit.json").write_text(json.dumps(content))
    with TestClient(make_app([model], audit=open_audit(str(folder), [model])), base_url=BASE) as client:
        image = client.post("/api/images", files={"image": ("a.png", photo())}).json()["id"]
        answer = client.post(f"/api/audit/0/images/{image}")
        assert answer.status_code == 422
        assert re.fullmatch(r"expected a readable image; .*0-0.png is damaged.*", answer.json()["detail"])


def test_an_audit_that_does_not_fit_the_model_is_told(tmp_path: Path) -> None:
    model, folder = served(Corner()), tmp_path / "a"
    file = audit(folder, model) / "audit.json"
    content = file.read_text()
    cases = [
        ("target", 5000, "expected a class from 0 to 2, as corner has; got 5000 in audit.json"),
        ("target", -1, r"audit.json is none of this version \(evidence.0.target: .* greater than or equal to 0\)"),
        ("target_name", "dark", "expected class 1 to be 'dark', as when it was audited; got '<img"),
        ("cut_outs", [{"file": "0-0.png", "sha256": ""}] * 13, "evidence.0.cut_outs: .* at most 12 items"),
        ("cut_outs", [{"file": "../0-0.png", "sha256": ""}], "evidence.0.cut_outs.0.file: "),
        (
            "weights",
            None,
            "expected an audit of a model whose weights can be compared; got .*, of corner, whose",
        ),
        ("preprocessing", {}, r"expected the preprocessing of the audit in .*, {}; got {'input_size': \[64, 64\]"),
    ]
    for name, value, expected in cases:
        changed = json.loads(content)
        place = changed["provenance"] if name in changed["provenance"] else changed["evidence"][0]
        place[name] = value
        file.write_text(json.dumps(changed))
        with pytest.raises(InputError, match=expected):
            open_audit(str(folder), [model])


def test_a_class_that_a_model_without_names_lacks_is_told_once_it_was_asked(tmp_path: Path) -> None:
    model = Served("bare", Classifier(Corner(), input_size=(64, 64), mean=(0, 0, 0), std=(1, 1, 1), device="cpu"))
    found = open_audit(str(audit(tmp_path / "a", model, target=5000, target_name="5000")), [model])
    with pytest.raises(InputError, match=r"expected a class from 0 to 2, .*; got 5000"):
        found.pasted(0, Uploads().add(photo(), "a.png"))


def test_a_cut_out_of_another_size_is_told(tmp_path: Path) -> None:
    model, folder = served(Corner()), tmp_path / "a"
    content = json.loads((audit(folder, model) / "audit.json").read_text())
    content["evidence"][0]["cut_outs"] = []
    add_cutout(folder, content["evidence"][0], "0-0.png", np.zeros((32, 48, 4), np.uint8))
    (folder / "audit.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=r"expected cut-outs of 64 x 64 pixels, .*; .*0-0.png has 48 x 32"):
        open_audit(str(folder), [model]).pasted(0, Uploads().add(photo(), "a.png"))


def test_nothing_comes_where_the_class_is_there_already(tmp_path: Path) -> None:
    model = served(Corner())
    found = open_audit(str(audit(tmp_path / "a", model)), [model]).pasted(0, Uploads().add(photo(), "a.png"))
    assert (found.before, found.already, found.brings) == (HOSTILE, True, False)
    assert {each.top_name for each in found.pastes} == {HOSTILE}
    assert not any(each.came or each.hidden_came for each in found.pastes)


def test_a_class_that_comes_as_well_where_the_places_are_hidden_is_brought_by_nothing(tmp_path: Path) -> None:
    model = served(Corner())
    found = open_audit(str(audit(tmp_path / "a", model)), [model])
    # Dark in the corner alone, so that the mean colour there is bright enough.
    pixels = np.full((64, 64, 3), 180, np.uint8)
    pixels[:16, :16] = 0
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    pasted = found.pasted(0, Uploads().add(file.getvalue(), "a.png"))
    assert [(each.came, each.hidden_came) for each in pasted.pastes] == [(True, True)] * MEMBERS
    assert not pasted.brings
