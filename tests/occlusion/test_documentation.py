"""The code in docs/deactivation.md is run as it stands there."""

import re
from pathlib import Path

import pytest
import torch
from torch import nn

from suffice.errors import InputError
from suffice.occlusion.deactivation import deactivated_forward
from suffice.occlusion.rules.activation import RULES

PAGE = Path(__file__).parents[2] / "docs" / "deactivation.md"


def blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)


class RunningSum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + 1.0).cumsum(-1)


def test_the_call(tmp_path) -> None:
    call = next(b for b in blocks() if "deactivated_forward(model" in b)
    names = {"model": nn.Conv2d(3, 2, 3), "inputs": torch.zeros(1, 3, 8, 8)}
    names["masks"] = torch.ones(1, 8, 8, dtype=torch.bool)
    exec(call, names)
    assert names["logits"].shape == (1, 2, 6, 6)


def test_the_example_of_a_rule(monkeypatch) -> None:
    example = next(b for b in blocks() if "@rule(" in b)
    images = torch.ones(1, 1, 2, 4)
    masks = torch.tensor([[[0, 1, 0, 1], [0, 0, 0, 0]]], dtype=torch.bool)
    with pytest.raises(InputError, match="cumsum"):
        deactivated_forward(RunningSum(), images, masks)
    for operator, known in list(RULES.items()):  # to be as they were after the test
        monkeypatch.setitem(RULES, operator, known)
    exec(example, {})
    # 1 + 1 where it is on, 0 where it is off; the sum is on from the first kept position on
    assert deactivated_forward(RunningSum(), images, masks).tolist() == [[[[0.0, 2.0, 2.0, 4.0], [0.0] * 4]]]
    kept = torch.ones(1, 2, 4, dtype=torch.bool)
    assert deactivated_forward(RunningSum(), images, kept)[0, 0, 0].tolist() == [2.0, 4.0, 6.0, 8.0]
