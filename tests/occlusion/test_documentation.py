"""The code in docs/deactivation.md is run as it stands there."""

import re
import tomllib
from pathlib import Path

import pytest
import torch
from torch import nn

from suffice.circuits.connectivity import connect
from suffice.errors import InputError
from suffice.occlusion.deactivation import deactivated_forward
from suffice.recording import record_operators

PAGE = Path(__file__).parents[2] / "docs" / "deactivation.md"


def block(language: str, contains: str) -> str:
    blocks = re.findall(rf"```{language}\n(.*?)```", PAGE.read_text(encoding="utf-8"), re.DOTALL)
    return next(b for b in blocks if contains in b)


class RunningSum(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return (x + 1.0).cumsum(-1)


def test_the_call() -> None:
    names = {"model": nn.Conv2d(3, 2, 3), "inputs": torch.zeros(1, 3, 8, 8)}
    names["masks"] = torch.ones(1, 8, 8, dtype=torch.bool)
    exec(block("python", "deactivated_forward(model"), names)
    assert names["logits"].shape == (1, 2, 6, 6)


@pytest.mark.parametrize("fast", [True, False])
def test_the_package_with_a_rule(fast: bool, installed) -> None:
    """Written to disk as the page has it, with the metadata of an installed package."""
    group, points = "suffice.operators", tomllib.loads(block("toml", "entry-points"))["project"]["entry-points"]
    images = torch.ones(1, 1, 2, 4)
    masks = torch.tensor([[[0, 1, 0, 1], [0, 0, 0, 0]]], dtype=torch.bool)
    with pytest.raises(InputError, match="cumsum"):
        deactivated_forward(RunningSum(), images, masks, fast=fast)
    installed(points[group], {"my_package/rules.py": block("python", "@deactivation_rule")})
    # 1 + 1 where it is on, 0 where it is off; the sum is on from the first kept position on
    summed = deactivated_forward(RunningSum(), images, masks, fast=fast)
    assert summed.tolist() == [[[[0.0, 2.0, 2.0, 4.0], [0.0] * 4]]]
    kept = torch.ones(1, 2, 4, dtype=torch.bool)
    assert deactivated_forward(RunningSum(), images, kept)[0, 0, 0].tolist() == [2.0, 4.0, 6.0, 8.0]


def test_the_package_with_a_rule_for_circuits(installed) -> None:
    class Network(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(4, 5, 1), nn.Linear(5, 2)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return self.head(self.second(self.first(x).relu().cumsum(-1)).relu().mean((2, 3)))

    network = Network().eval()
    recording = record_operators(network, torch.rand(1, 3, 4, 4))
    with pytest.raises(InputError, match="cumsum"):
        connect(network, recording, "all")
    points = tomllib.loads(block("toml", "entry-points"))["project"]["entry-points"]["suffice.operators"]
    installed(points, {"my_package/rules.py": block("python", "@deactivation_rule")})
    (connection,) = connect(network, recording, "all").connections
    assert torch.equal(connection.matrix, network.second.weight.detach().abs().sum((2, 3)))
