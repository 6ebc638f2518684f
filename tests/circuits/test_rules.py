"""Rules for channels between two kernels whose weights are known; and the recording, in threads."""

from __future__ import annotations

import threading

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suffice.circuits.connectivity import connect
from suffice.recording import record_operators


class Between(nn.Module):
    """A function of four channels between two kernels."""

    def __init__(self, function, channels: int = 4) -> None:
        super().__init__()
        self.first, self.second, self.head = nn.Conv2d(3, 4, 1), nn.Conv2d(channels, 5, 1), nn.Linear(5, 2)
        self.function = function

    def forward(self, x: Tensor) -> Tensor:
        return self.head(self.second(self.function(self.first(x))).relu().mean((2, 3)))


def matrix_between(net: Between, names: list[str]) -> Tensor:
    """The connection from the first kernel's channels to the second's."""
    with torch.no_grad():
        network = connect(net.eval(), record_operators(net, torch.rand(1, 3, 6, 6)), names)
    (matrix,) = (c.matrix for c in network.connections)
    return matrix


EACH_FOR_ITSELF = {
    "threshold": lambda x: F.threshold(x, 0.1, 0.0),
    "special function": lambda x: torch.special.expm1(x),
    "sinh": lambda x: x.sinh(),
    "fmax with a number": lambda x: torch.fmax(x, torch.zeros(())),
    "extreme over positions": lambda x: x.amax((2, 3), keepdim=True),
    "log of a sum over positions": lambda x: x.logsumexp((2, 3), keepdim=True),
    "two statistics": lambda x: torch.var_mean(x, (2, 3), keepdim=True)[1],
    "norm over positions": lambda x: torch.linalg.vector_norm(x, 2, (2, 3), keepdim=True),
    "mean without NaN": lambda x: x.nanmean((2, 3), keepdim=True),
    "windows and back": lambda x: F.fold(F.unfold(x, 3, padding=1), (6, 6), 3, padding=1),
    "turned": lambda x: x.rot90(1, (2, 3)),
    "view": lambda x: x.view(1, -1).view(x.shape),
    "split by sizes": lambda x: x.split_with_sizes([2, 4], 2)[0],
    "broadcast": lambda x: torch.broadcast_tensors(x.mean((2, 3), keepdim=True), torch.zeros(1, 4, 6, 6))[0],
    "rest of a division": lambda x: torch.fmod(x, 0.5),
}


@pytest.mark.parametrize("name", EACH_FOR_ITSELF)
def test_each_channel_for_itself(name: str) -> None:
    net = Between(EACH_FOR_ITSELF[name])
    expected = net.second.weight.detach().abs().sum((2, 3))
    torch.testing.assert_close(matrix_between(net, ["first", "second"]), expected)


def test_two_channels_that_meet() -> None:
    """Sums of all that is joined: the kernel's weights of the place where each channel goes."""
    order = [1, 2, 3, 0]
    net = Between(lambda x: torch.lerp(x, x[:, order], 0.5))
    weight = net.second.weight.detach().abs().sum((2, 3))
    expected = weight.clone()
    expected[:, order] += weight
    torch.testing.assert_close(matrix_between(net, ["first", "second"]), expected)


def test_a_product_with_a_parameter_and_a_sum() -> None:
    mix, bias = torch.randn(4, 3), torch.randn(3)

    def mixed(x: Tensor) -> Tensor:
        rows = torch.addmm(bias, x.mean((2, 3)), mix)
        return rows[:, :, None, None]

    net = Between(mixed, 3)
    weight = net.second.weight.detach().abs().sum((2, 3))
    torch.testing.assert_close(matrix_between(net, ["first", "second"]), weight @ mix.T.abs())


def test_recordings_of_one_model_in_several_threads() -> None:
    net = Between(torch.relu).eval()
    image = torch.rand(1, 3, 6, 6)
    expected = [(op.name, op.module) for op in record_operators(net, image).ops]
    start, found = threading.Barrier(4), []

    def work(record: bool) -> None:
        start.wait()
        for _ in range(60):
            if record:
                found.append([(op.name, op.module) for op in record_operators(net, image).ops])
            else:
                net(image)

    threads = [threading.Thread(target=work, args=[record]) for record in (True, True, False, False)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(found) == 120
    assert all(each == expected for each in found)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in net.modules())
