"""Rules that packages from outside add: imported when an operator has none, for masks and for channels."""

from __future__ import annotations

import sys
import threading

import pytest
import torch
from torch import Tensor, nn

from suffice.circuits.connectivity import connect
from suffice.errors import InputError
from suffice.occlusion.deactivation import deactivated_forward
from suffice.recording import record_operators

RULES = """
import torch
from suffice.circuits.rules import circuit_rule
from suffice.occlusion.rules import deactivation_rule

twice = torch.ops.suffice_test.twice
OPERATORS = (twice, twice.default)


def add():
    @deactivation_rule(*OPERATORS)
    def doubled(func, x):
        return x.derive(func(x.value), x.mask)

    @circuit_rule(*OPERATORS)
    def doubled_channels(op, flows):
        return flows[op.args[0]]
"""


@torch.library.custom_op("suffice_test::twice", mutates_args=())
def twice(x: Tensor) -> Tensor:
    return x * 2


class Network(nn.Module):
    """An operator of a library from outside, between two convolutions."""

    def __init__(self, function) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 3), nn.Conv2d(4, 5, 3), nn.Linear(5, 2)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.function(self.first(x))).relu().mean((2, 3)))


def example() -> tuple[Tensor, Tensor]:
    masks = torch.zeros(1, 12, 12, dtype=torch.bool)
    masks[0, 2:6, 3:8] = True
    return torch.randn(1, 3, 12, 12), masks


CALLS = {"packet": torch.ops.suffice_test.twice, "overload": torch.ops.suffice_test.twice.default, "decorated": twice}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("fast", [True, False])
def test_an_operator_of_a_library_from_outside(call: str, fast: bool, installed) -> None:
    network = Network(CALLS[call]).eval()
    images, masks = example()
    installed({"my-operators": "outside_rules:add"}, {"outside_rules.py": RULES})
    plain = Network(lambda x: x * 2).eval()
    plain.load_state_dict(network.state_dict())
    expected = deactivated_forward(plain, images, masks, fast=fast)
    assert "outside_rules" not in sys.modules  # nothing was missing yet
    torch.testing.assert_close(deactivated_forward(network, images, masks, fast=fast), expected)
    assert "outside_rules" in sys.modules
    (connection,) = connect(network, record_operators(network, images), "all").connections
    torch.testing.assert_close(connection.matrix, network.second.weight.detach().abs().sum((2, 3)))


def test_circuits_look_for_the_rule_before_they_look_for_layers(installed) -> None:
    installed({"my-operators": "outside_rules:add"}, {"outside_rules.py": RULES})
    network = Network(twice).eval()
    assert [layer.name for layer in connect(network, record_operators(network, example()[0]), "all").layers] == [
        "first", "second",
    ]  # fmt: skip


def test_who_has_no_rule_either_is_not_asked_again(installed) -> None:
    text = "import sys\n\ndef add():\n    sys.outside_rules_calls = getattr(sys, 'outside_rules_calls', 0) + 1\n"
    installed({"my-operators": "outside_rules:add"}, {"outside_rules.py": text})
    images, masks = example()
    try:
        for _ in range(2):
            with pytest.raises(InputError, match=r"got twice\.default in the model itself \(Network\)"):
                deactivated_forward(Network(twice).eval(), images, masks)
        assert sys.outside_rules_calls == 1
    finally:
        del sys.outside_rules_calls


@pytest.mark.parametrize(
    ("place", "text", "message"),
    [
        ("outside_rules", "import no_such_module", r"outside 1\.0 \(outside_rules\): ModuleNotFoundError: No module"),
        ("outside_rules:add", "def add():\n    raise KeyError('gone')", r"'my-operators': KeyError: 'gone'"),
        (
            "outside_rules",
            "import torch\nfrom suffice.occlusion.rules import deactivation_rule\n"
            "@deactivation_rule(torch.relu)\ndef mine(func, x): ...",
            r"InputError: expected operators without a deactivation rule; relu has that of suffice",
        ),
    ],
)
def test_a_package_that_cannot_be_used_is_named(place: str, text: str, message: str, installed) -> None:
    installed({"my-operators": place}, {"outside_rules.py": text})
    images, masks = example()
    for _ in range(2):
        with pytest.raises(InputError, match=message):
            deactivated_forward(Network(twice).eval(), images, masks)


def test_threads_that_meet_a_new_operator_at_the_same_time(installed) -> None:
    slow = "import time\ntime.sleep(0.2)\n" + RULES
    installed({"my-operators": "outside_rules:add"}, {"outside_rules.py": slow})
    network, (images, masks) = Network(twice).eval(), example()
    start, found, errors = threading.Barrier(4), [], []

    def ask() -> None:
        start.wait()
        try:
            found.append(deactivated_forward(network, images, masks))
        except BaseException as error:
            errors.append(error)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert errors == []
    assert all(torch.equal(f, found[0]) for f in found)
    assert len(found) == 4
