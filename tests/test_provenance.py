"""What a row says of the code that made it."""

from __future__ import annotations

from pathlib import Path

import pytest

from suffice import provenance


@pytest.mark.parametrize(
    ("changed", "is_noticed"),
    [
        ("classifier.py", True),
        ("verdicts.py", True),
        ("faster/fold.py", True),
        ("metrics/area.py", True),
        ("report/page.py", False),
        ("benchmark/measure.py", False),
    ],
)
def test_code_that_could_change_a_result_is_told_apart(
    changed: str, is_noticed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("benchmark/measure.py", changed):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("before")
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / "provenance.py"))
    before = provenance.code_digest.__wrapped__()
    (tmp_path / changed).write_text("after")
    assert (provenance.code_digest.__wrapped__() != before) == is_noticed
