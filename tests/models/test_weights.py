"""Weights files: what is a set of tensors loads, whatever its wrapping; what is not is refused, and never run."""

from __future__ import annotations

import argparse
import io
import os
import pickle
import random
import re
import warnings
from collections import OrderedDict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from suffice.errors import InputError
from suffice.models.weights import load_weights, read_weights


def network() -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, 2, 3), nn.BatchNorm2d(2), nn.Flatten(), nn.Linear(2, 4))


def assert_loads(path: Path, expected: nn.Module) -> None:
    module = network()
    load_weights(module, path, "the network")
    for name, tensor in expected.state_dict().items():
        assert torch.equal(module.state_dict()[name], tensor), name


def prefixed(state: dict[str, Tensor], prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


@pytest.mark.parametrize(
    "content",
    [
        lambda state: state,
        lambda state: dict(state),
        lambda state: {"state_dict": state, "epoch": 3, "optimizer": {"lr": 0.1}},
        lambda state: {"model": state},
        lambda state: {"model": {"state_dict": dict(state)}},
        lambda state: {"state_dict": prefixed(state, "module."), "epoch": 3},
        lambda state: prefixed(state, "_orig_mod.module."),
        lambda state: prefixed(state, "module._orig_mod.model."),
        lambda state: {name: tensor for name, tensor in state.items() if "num_batches" not in name},
        lambda state: {
            name: tensor.clone().requires_grad_(tensor.is_floating_point()) for name, tensor in state.items()
        },
        lambda state: {"state_dict": state, "args": argparse.Namespace(model="resnet50", lr=0.1)},  # timm's own script
    ],
    ids=["as-is", "dict", "nested", "model", "twice", "module.", "compiled", "three", "old", "parameters", "timm"],
)
@pytest.mark.parametrize("suffix", [".pth", ".pt", ".PTH", ".bin", ".ckpt"])
def test_weights_load_however_they_are_wrapped(content: Any, suffix: str, tmp_path: Path) -> None:
    expected, path = network(), tmp_path / f"weights{suffix}"
    torch.save(content(expected.state_dict()), path)
    assert_loads(path, expected)


@pytest.mark.parametrize("prefix", ["", "module.", "model."])
def test_safetensors_load(prefix: str, tmp_path: Path) -> None:
    expected, path = network(), tmp_path / "weights.safetensors"
    save_file(prefixed(expected.state_dict(), prefix), path)
    assert_loads(path, expected)


def test_torchs_old_format_loads(tmp_path: Path) -> None:
    expected, path = network(), tmp_path / "weights.pth"
    torch.save(expected.state_dict(), path, _use_new_zipfile_serialization=False)
    assert_loads(path, expected)


def test_half_precision_weights_become_float32(tmp_path: Path) -> None:
    expected, path = network(), tmp_path / "weights.safetensors"
    save_file({k: v.half() if v.is_floating_point() else v for k, v in expected.state_dict().items()}, path)
    module = network()
    load_weights(module, path, "the network")
    assert module[0].weight.dtype == torch.float32
    assert torch.equal(module[0].weight, expected[0].weight.half().float())


# Layers that translate the names of their own older versions


class Renamed(nn.Module):
    """Called its weight `kernel` in version 1, as torchvision's ViT, MNASNet and Swin changed theirs."""

    _version = 2

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(3))

    def _load_from_state_dict(self, state: Any, prefix: str, metadata: Any, *rest: Any) -> None:
        version = metadata.get("version")
        if version not in (1, 2):
            raise ValueError(f"version should be 1 or 2, got {version}")
        if version == 1:
            state[f"{prefix}weight"] = state.pop(f"{prefix}kernel")
        super()._load_from_state_dict(state, prefix, metadata, *rest)


@pytest.mark.parametrize("prefix", ["", "module."])
def test_old_names_are_translated_by_the_layers_themselves(prefix: str, tmp_path: Path) -> None:
    state = OrderedDict({f"{prefix}layer.kernel": torch.arange(3.0)})
    state._metadata = {prefix.rstrip("."): {"version": 1}, f"{prefix}layer": {"version": 1}}  # type: ignore[attr-defined]
    torch.save(state, tmp_path / "old.pth")
    module = nn.ModuleDict({"layer": Renamed()})
    load_weights(module, tmp_path / "old.pth", "it")
    assert module["layer"].weight.tolist() == [0.0, 1.0, 2.0]


def test_a_file_without_versions_counts_as_new(tmp_path: Path) -> None:
    save_file({"layer.weight": torch.arange(3.0)}, tmp_path / "new.safetensors")
    module = nn.ModuleDict({"layer": Renamed()})
    load_weights(module, tmp_path / "new.safetensors", "it")
    assert module["layer"].weight.tolist() == [0.0, 1.0, 2.0]


def test_the_published_names_of_torchvisions_vit_load(tmp_path: Path) -> None:
    """`mlp.linear_1` in the files that torchvision publishes, `mlp.0` in its code."""
    from torchvision.models import VisionTransformer

    size = {"image_size": 8, "patch_size": 4, "num_layers": 1, "num_heads": 1, "hidden_dim": 4, "mlp_dim": 8}
    expected, module = VisionTransformer(**size, num_classes=3), VisionTransformer(**size, num_classes=3)
    nn.init.normal_(expected.heads.head.weight)
    published = OrderedDict(
        (name.replace("mlp.0.", "mlp.linear_1.").replace("mlp.3.", "mlp.linear_2."), tensor)
        for name, tensor in expected.state_dict().items()
    )
    assert any("linear_1" in name for name in published)
    published._metadata = OrderedDict()  # type: ignore[attr-defined]
    torch.save(published, tmp_path / "vit.pth")
    load_weights(module, tmp_path / "vit.pth", "vit")
    x = torch.rand(1, 3, 8, 8)
    assert torch.equal(module.eval()(x), expected.eval()(x))


# What does not fit, or is no set of tensors


def refused(path: Path, module: nn.Module | None = None) -> str:
    """The one line that a file is refused with; no warning, and no other exception, is allowed."""
    with pytest.raises(InputError) as caught:
        load_weights(network() if module is None else module, path, "the network")
    message = str(caught.value)
    assert "\n" not in message
    assert path.name in message
    return message


def test_weights_of_another_architecture_say_what_differs(tmp_path: Path) -> None:
    path = tmp_path / "other.pth"
    torch.save(nn.Sequential(nn.Conv2d(3, 2, 3), nn.Linear(9, 9)).state_dict(), path)
    assert refused(path).endswith(
        "other.pth does not hold weights of the network: of its 9 tensors 4 missing (first: 1.running_mean), "
        "2 of another shape (first: 1.weight)"
    )


def test_one_tensor_more_or_less_is_refused(tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save(state | {"extra.weight": torch.ones(1)}, tmp_path / "more.pth")
    assert "1 unknown (first: extra.weight)" in refused(tmp_path / "more.pth")
    torch.save({k: v for k, v in state.items() if k != "3.bias"}, tmp_path / "less.pth")
    assert "1 missing (first: 3.bias)" in refused(tmp_path / "less.pth")
    torch.save(state | {"3.bias": torch.ones(5)}, tmp_path / "shape.pth")
    assert "1 of another shape (first: 3.bias)" in refused(tmp_path / "shape.pth")


def test_a_prefix_that_only_some_names_have_is_not_stripped(tmp_path: Path) -> None:
    state = dict(network().state_dict())
    state["module.3.bias"] = state.pop("3.bias")
    torch.save(state, tmp_path / "mixed.pth")
    assert "1 unknown (first: module.3.bias)" in refused(tmp_path / "mixed.pth")


class Code:
    """A pickle of this creates a file when it is loaded as Python would load it."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self) -> Any:
        return os.system, (f"touch '{self.target}'",)


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".bin", ".ckpt"])
@pytest.mark.parametrize("form", ["zip", "legacy", "bare pickle"])
def test_code_in_a_file_is_never_run(form: str, suffix: str, tmp_path: Path) -> None:
    path, target = tmp_path / f"evil{suffix}", tmp_path / "ran"
    content = {"weight": torch.ones(2), "hook": Code(target)}
    if form == "bare pickle":
        path.write_bytes(pickle.dumps(content["hook"]))
    else:
        torch.save(content, path, _use_new_zipfile_serialization=form != "legacy")
    assert "not" in refused(path)
    assert not target.exists()
    if form == "bare pickle":  # the same file does harm where it is read without care: the test can fail
        pickle.loads(path.read_bytes())
        assert target.exists()


def test_a_whole_pickled_model_is_refused(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "whole.pth")
    assert "holds more than tensors (code or Python objects)" in refused(tmp_path / "whole.pth")


def test_torchscript_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "script.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch calls TorchScript deprecated
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), path)
    assert "got TorchScript, which is code" in refused(path)


@pytest.mark.parametrize(
    ("content", "received"),
    [
        (torch.ones(3), "got Tensor"),
        ([torch.ones(3)], "got list"),
        ({"epoch": 3, "loss": 0.1}, "got none among its 2 entries"),
        ({}, "got none among its 0 entries"),
        ({"state_dict": {}}, "got none among its 0 entries"),
    ],
)
def test_a_file_without_tensors_by_name_is_refused(content: Any, received: str, tmp_path: Path) -> None:
    torch.save(content, tmp_path / "content.pth")
    assert received in refused(tmp_path / "content.pth")


@pytest.mark.parametrize("suffix", [".pth", ".pt", ".safetensors"])
@pytest.mark.parametrize(
    "content", [b"", b"\n", b"these are not the weights\nthat you look for\n", b"PK\x03\x04", b"\0" * 99]
)
def test_what_is_no_weights_file_is_refused(content: bytes, suffix: str, tmp_path: Path) -> None:
    path = tmp_path / f"text{suffix}"
    path.write_bytes(content)
    refused(path)


def test_a_path_that_is_no_file_is_refused(tmp_path: Path) -> None:
    assert "there is none at" in refused(tmp_path / "missing.pth")
    (tmp_path / "folder.pth").mkdir()
    assert "is a directory" in refused(tmp_path / "folder.pth")
    (tmp_path / "weights.h5").write_bytes(b"")
    assert "got weights.h5" in refused(tmp_path / "weights.h5")
    (tmp_path / "two\nlines.pth").write_bytes(b"")
    with pytest.raises(InputError, match=r"two lines\.pth is not a readable"):
        read_weights(tmp_path / "two\nlines.pth")


def _saved(form: str) -> bytes:
    buffer, state = io.BytesIO(), nn.Linear(2, 2).state_dict()
    if form == "safetensors":
        from safetensors.torch import save

        return save(state)
    torch.save(state, buffer, _use_new_zipfile_serialization=form == "zip")
    return buffer.getvalue()


@pytest.mark.parametrize("form", ["zip", "legacy", "safetensors"])
def test_a_damaged_file_is_refused_or_read_and_nothing_else(form: str, tmp_path: Path) -> None:
    """Cut anywhere, or with random bytes: InputError, or tensors; no other exception, no warning."""
    whole, draw = _saved(form), random.Random(0)
    path = tmp_path / ("damaged.safetensors" if form == "safetensors" else "damaged.pth")
    refusals = 0
    for _ in range(600):
        damaged = bytearray(whole)
        if draw.random() < 0.4:
            del damaged[draw.randrange(len(damaged)) :]
        else:
            for _ in range(draw.choice((1, 3, 10))):
                damaged[draw.randrange(len(damaged))] = draw.randrange(256)
        path.write_bytes(damaged)
        try:
            tensors = read_weights(path)
        except InputError:
            refusals += 1
        else:
            assert all(isinstance(tensor, Tensor) for tensor in tensors.values())
    assert refusals > 200


def test_a_changed_bit_is_seen_by_the_checksum_where_there_is_one(tmp_path: Path) -> None:
    state, path = nn.Linear(50, 50).state_dict(), tmp_path / "weights.pth"
    torch.save(state, path)
    data = bytearray(path.read_bytes())
    data[data.find(state["weight"].numpy().tobytes()) + 1000] ^= 64
    path.write_bytes(data)
    assert "weights.pth the checksum of weights/data/0 differs" in refused(path)
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(state, path)
    finally:
        torch.serialization.set_crc32_options(True)
    assert torch.equal(read_weights(path)["weight"], state["weight"])


def test_complex_weights_of_a_real_network_are_refused(tmp_path: Path) -> None:
    state = network().state_dict()
    torch.save(state | {"0.weight": state["0.weight"] * 1j}, tmp_path / "weights.pth")
    with pytest.raises(InputError, match=r"does not hold weights of the network: 0\.weight is a complex tensor"):
        load_weights(network(), tmp_path / "weights.pth", "the network")


def test_the_messages_name_a_way_out(tmp_path: Path) -> None:
    torch.save(network(), tmp_path / "whole.pth")
    assert re.search(r"safetensors, or with torch\.save\(model\.state_dict\(\)", refused(tmp_path / "whole.pth"))


def test_a_file_whose_checksum_is_wrong_is_refused(tmp_path: Path) -> None:
    path, state = tmp_path / "flipped.pth", network().state_dict()
    torch.save(state, path)
    data = bytearray(path.read_bytes())
    values = next(iter(state.values())).numpy().tobytes()
    data[data.find(values) + 1] ^= 1
    path.write_bytes(data)
    assert isinstance(torch.load(path, weights_only=True), dict)  # torch does not look
    assert "the checksum of" in refused(path)


def test_a_small_file_that_unpacks_to_more_than_it_may(tmp_path: Path) -> None:
    path = tmp_path / "bomb.pth"
    torch.save(network().state_dict(), path)
    data = bytearray(path.read_bytes())
    place = data.find(b"PK\x01\x02")
    data[place + 24 : place + 28] = (2**32 - 2).to_bytes(4, "little")
    path.write_bytes(data)
    assert "unpacks to" in refused(path)


ODD: dict[str, tuple[Callable[[Tensor], Tensor], str]] = {
    "complex": (lambda tensor: tensor + 1j, "is a complex tensor of torch.complex64 where torch.float32 is expected"),
    "quantised": (lambda tensor: torch.quantize_per_tensor(tensor, 0.1, 0, torch.qint8), "is a quantised tensor"),
    "sparse": (lambda tensor: tensor.to_sparse(), "is a sparse one"),
    "meta": (lambda tensor: tensor.to("meta"), "is a meta one"),
    "nested": (lambda tensor: torch.nested.nested_tensor([tensor, tensor[:1]]), "is a nested one"),
}


@pytest.mark.parametrize("kind", ODD)
@pytest.mark.filterwarnings("ignore")
def test_tensors_of_another_kind_are_refused(kind: str, tmp_path: Path) -> None:
    change, said = ODD[kind]
    state = network().state_dict()
    name = next(iter(state))
    path = tmp_path / "odd.pth"
    torch.save({**state, name: change(state[name])}, path)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        message = refused(path)
    assert name in message
    assert said in message
