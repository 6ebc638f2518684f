"""An audit's evidence on a visitor's image: what the page at /audit asks."""

from __future__ import annotations

import hashlib
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from toys import BASE, Corner, photo, served

from suffice.errors import InputError
from suffice.web.app import make_app
from suffice.web.audited import open_audit
from suffice.web.uploads import Uploads


def audit(folder: Path, weights: Any) -> Path:
    """Clusters of class 1: a bright corner, a bright patch elsewhere, and surroundings."""
    facts = {"target": 1, "target_name": "one", "where": "there", "verdict": "evidence", "why": "because"}
    evidence = [{"name": name, **facts, "cut_outs": []} for name in ("one 1", "one 2", "one 3")]
    (folder / "cut-outs").mkdir(parents=True)
    for cluster, place in enumerate((slice(0, 16), slice(40, 56))):
        for member in range(2):
            pixels = np.zeros((64, 64, 4), np.uint8)
            pixels[place, place] = (255, 255, 250 + member, 255)
            add(folder, evidence[cluster], f"{cluster}-{member}.png", pixels)
    content = {"model": "corner", "provenance": {"weights": weights}, "evidence": evidence}
    (folder / "audit.json").write_text(json.dumps(content))
    return folder


def add(folder: Path, evidence: dict[str, Any], name: str, pixels: np.ndarray[Any, Any]) -> None:
    """A cut-out, and that it is the cluster's."""
    Image.fromarray(pixels).save(folder / "cut-outs" / name)
    digest = hashlib.sha256((folder / "cut-outs" / name).read_bytes()).hexdigest()
    evidence["cut_outs"].append({"file": name, "sha256": digest})


def test_members_are_pasted_on_the_visitors_image_alone(tmp_path: Path) -> None:
    model = served(Corner())
    found = open_audit(str(audit(tmp_path / "a", model.classifier.weights_digest)), [model])
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
        assert (corner["before"], [each["came"] for each in corner["pastes"]]) == ("dark", [True, True])
        assert corner["came"].endswith("2 of 2")
        assert corner["hidden_came"] == 0
        assert [each["came"] for each in patch["pastes"]] == [False, False]
        assert corner["pastes"][0]["picture"].startswith("data:image/png;base64,")
        assert client.post(f"/api/audit/2/images/{image}").json()["detail"] == "expected a cluster from 0 to 1; got 2"
        assert client.post("/api/audit/0/images/none").status_code == 404


def test_an_audit_of_other_weights_or_none_is_told(tmp_path: Path) -> None:
    model = served(Corner())
    with pytest.raises(InputError, match="expected a --model with the weights that were audited"):
        open_audit(str(audit(tmp_path / "a", {"sha256": "0"})), [model])
    (tmp_path / "a" / "audit.json").write_text("[]")
    with pytest.raises(InputError, match=r"expected what suffice audit found in .*; audit.json is none"):
        open_audit(str(tmp_path / "a"), [model])
    with TestClient(make_app([model]), base_url=BASE) as client:
        assert client.get("/api/audit").status_code == 404
        assert not client.get("/api/models").json()["audit"]


def test_only_the_members_that_the_audit_lists_are_pasted_and_as_it_wrote_them(tmp_path: Path) -> None:
    model = served(Corner())
    folder = audit(tmp_path / "a", model.classifier.weights_digest)
    cutouts = folder / "cut-outs"
    shutil.copy(cutouts / "1-0.png", cutouts / "0-2.png")  # of an earlier audit, of another cluster
    upload = Uploads().add(photo(), "a.png")
    found = open_audit(str(folder), [model])
    assert len(found.pasted(0, upload).pastes) == 2
    shutil.copy(cutouts / "1-0.png", cutouts / "0-1.png")
    with pytest.raises(InputError, match=r"expected .*0-1.png as the audit wrote it; got one that was changed since"):
        found.pasted(0, upload)
    (cutouts / "0-0.png").unlink()
    (cutouts / "0-0.png").symlink_to(cutouts / "0-1.png")
    with pytest.raises(InputError, match=r"expected a cut-out .*; .*0-0.png is a link"):
        found.pasted(0, upload)
