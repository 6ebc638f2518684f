"""An audit's evidence on a visitor's image: what the page at /audit asks."""

from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from starlette.testclient import TestClient
from toys import BASE, Corner, served

from suffice.errors import InputError
from suffice.web.app import make_app
from suffice.web.audited import open_audit


def audit(folder: Path, weights: Any) -> Path:
    """Two clusters of class 1: the first a bright corner, the second a bright patch elsewhere."""
    facts = {"target": 1, "target_name": "one", "where": "there", "verdict": "evidence", "why": "because"}
    evidence = [{"name": name, **facts} for name in ("one 1", "one 2")]
    content = {"model": "corner", "provenance": {"weights": weights}, "evidence": evidence}
    (folder / "cut-outs").mkdir(parents=True)
    (folder / "audit.json").write_text(json.dumps(content))
    for cluster, place in enumerate((slice(0, 16), slice(40, 56))):
        for member in range(2):
            pixels = np.zeros((64, 64, 4), np.uint8)
            pixels[place, place] = (255, 255, 250 + member, 255)
            Image.fromarray(pixels).save(folder / "cut-outs" / f"{cluster}-{member}.png")
    return folder


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
