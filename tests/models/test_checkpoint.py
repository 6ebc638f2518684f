"""Checkpoints of training scripts: which of their tensors are the model's, and what is refused in one line.

The network is worked out by hand: `good` is what has to come out, `raw` is what must not.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from suffice.errors import InputError
from suffice.models.checkpoint import mappings_in
from suffice.models.weights import Loaded, load_weights


def network(width: int = 2) -> nn.Sequential:
    return nn.Sequential(nn.Conv2d(3, width, 3), nn.BatchNorm2d(width), nn.Flatten(), nn.Linear(width, 4))


class Net(nn.Module):
    """With parts that have names."""

    def __init__(self) -> None:
        super().__init__()
        self.features, self.head = network(), nn.Linear(4, 4)


GOOD, RAW = (
    {name: torch.full_like(tensor, value) for name, tensor in network().state_dict().items()} for value in (1, 2)
)


def under(prefix: str, state: dict[str, Tensor] = GOOD) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state.items()}


def loaded(content: Any, tmp_path: Path, module: nn.Module | None = None) -> Loaded:
    """What is said of a checkpoint, after a check that the right weights came out of it."""
    torch.save(content, tmp_path / "w.pth")
    module = network() if module is None else module
    result = load_weights(module, tmp_path / "w.pth", "the network")
    for name, tensor in module.state_dict().items():
        assert bool((tensor == 1).all()), name
    return result


SIDE_BY_SIDE = {
    # huggingface/pytorch-image-models: load_state_dict(use_ema=True), and its training script
    "timm": {"state_dict": RAW, "state_dict_ema": GOOD, "epoch": 3},
    # torchvision's references, facebookresearch/ConvNeXt; zhuyu-cs/MeanFlow#12 asks which of the two is meant
    "torchvision": {"model": RAW, "model_ema": GOOD},
    "swa_utils": {"model": RAW, "model_ema": {"n_averaged": torch.tensor(3), **under("module.")}},
    "swa without a word": {"net": RAW, "other": {"n_averaged": torch.tensor(3), **under("module.")}},
    # sming256/OpenTAD#44
    "DDP": {"state_dict": under("module.", RAW), "state_dict_ema": under("module.")},
    "Lightning": {"state_dict": {**under("net.", RAW), **under("ema_net.module.")}},
    "callback": {"state_dict": under("net.", RAW), "callbacks": {"EMA": {"ema_state_dict": under("net.")}}},
    "beside": {"state_dict": {**RAW, **under("ema.")}},
    # OpenMMLab's EMAHook: open-mmlab/mmpretrain#742, open-mmlab/mmdetection#8654
    "underscores": {
        "meta": {"epoch": 3},
        "state_dict": {**RAW, **{f"ema_{name.replace('.', '_')}": tensor for name, tensor in GOOD.items()}},
    },
    "camel case": {"model": RAW, "modelEMA": GOOD},
}


@pytest.mark.parametrize("case", SIDE_BY_SIDE)
def test_of_raw_and_averaged_weights_the_averaged_are_taken_and_that_is_said(case: str, tmp_path: Path) -> None:
    said = loaded(SIDE_BY_SIDE[case], tmp_path).assumed["averaged"]
    assert said.startswith("the averaged weights of w.pth are taken (")
    assert "as timm does, and not the raw ones (" in said
    assert said.partition("not the raw ones (")[2].count(",") == 0  # each is named once


def test_timm_takes_the_same(tmp_path: Path) -> None:
    from timm.models import load_state_dict

    for case in ("timm", "torchvision"):
        torch.save(SIDE_BY_SIDE[case], tmp_path / "w.pth")
        assert all(torch.equal(tensor, GOOD[name]) for name, tensor in load_state_dict(tmp_path / "w.pth").items())


ALONE = {
    "AveragedModel": {"n_averaged": torch.tensor(3), **under("module.")},
    "AveragedModel below": {"model_ema": {"n_averaged": torch.tensor(3), **under("module.")}},
    "Lightning, self.net": {"state_dict": under("net."), "epoch": 1},
    "Lightning, self.a.b": {"state_dict": under("a.b.")},
    "compiled": under("_orig_mod."),
    "compiled DDP": under("_orig_mod.module."),
    "Lightning, compiled": {"state_dict": under("model._orig_mod.")},
    "any key": {"run 7": {"the weights": {"best": under("classifier.")}}},
    "a list": {"parts": [{"epoch": 1}, {"params": GOOD}]},
    "optimizer": {"model": GOOD, "optimizer": {"exp_avg": RAW, "state": {0: {"exp_avg": torch.ones(2)}}}},
    "optim": {"net": GOOD, "optim_state_dict": {"momentum": RAW}},
    "the same twice": {"model": GOOD, "best_model": dict(GOOD)},
    # Counters of the profiler thop, which Lyken17/pytorch-OpCounter leaves in a model
    "thop": {**GOOD, "total_ops": torch.zeros(1), "0.total_ops": torch.zeros(1), "0.total_params": torch.zeros(1)},
    # RobustBench and the code of robustness put a normalising layer before the network
    "normaliser": {"normalize.mean": torch.ones(3), "normalize.std": torch.ones(3), **under("model.")},
}


@pytest.mark.parametrize("case", ALONE)
def test_weights_are_found_under_any_key_and_prefix(case: str, tmp_path: Path) -> None:
    assumed = loaded(ALONE[case], tmp_path).assumed
    assert set(assumed) == ({"beside"} if case == "normaliser" else set())


def test_what_is_not_of_the_model_is_left_out_and_said(tmp_path: Path) -> None:
    content = {"state_dict": {**under("model."), "criterion.weight": torch.ones(3), "criterion.bias": torch.ones(3)}}
    assert loaded(content, tmp_path).assumed == {
        "beside": "tensors of w.pth that are not of the model (state_dict.model) are left out: criterion.weight and 1 "
        "more"
    }


def test_safetensors_have_prefixes_and_names_too(tmp_path: Path) -> None:
    save_file(
        {**under("module."), **under("ema.module.", RAW)} | {"criterion.weight": torch.ones(3)},
        tmp_path / "w.safetensors",
        {"class_names": '["a", "b", "c", "d"]'},
    )
    module = network()
    result = load_weights(module, tmp_path / "w.safetensors", "the network")
    assert bool((module[3].weight == 2).all())
    assert result.class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    "wrap",
    [nn.Sequential, nn.DataParallel, lambda net: nn.Sequential(nn.Sequential(net)), torch.compile],
    ids=["sequential", "parallel", "twice", "compiled"],
)
@pytest.mark.parametrize("prefix", ["", "module.", "net.model."])
def test_a_model_that_is_wrapped_takes_weights_of_the_bare_one(wrap: Any, prefix: str, tmp_path: Path) -> None:
    loaded(under(prefix), tmp_path, wrap(network()))
    loaded({"state_dict": under(prefix, RAW), "state_dict_ema": under(prefix)}, tmp_path, wrap(network()))


@pytest.mark.parametrize("word", ["module", "_orig_mod"])
def test_a_part_that_was_wrapped(word: str, tmp_path: Path) -> None:
    """The ImageNet example of PyTorch wraps `features` of AlexNet alone: features.module.0.weight."""
    state = {name: torch.ones_like(tensor) for name, tensor in Net().state_dict().items()}
    parallel = {name.replace("features.", f"features.{word}."): tensor for name, tensor in state.items()}
    loaded({"state_dict": parallel}, tmp_path, Net())
    loaded({"state_dict": {f"net.{name}": tensor for name, tensor in parallel.items()}}, tmp_path, Net())


def test_parts_that_were_saved_one_by_one(tmp_path: Path) -> None:
    head = {name: torch.ones_like(tensor) for name, tensor in nn.Linear(4, 4).state_dict().items()}
    loaded({"features": GOOD, "head": head, "epoch": 3}, tmp_path, Net())


# What is refused


def refused(content: Any, tmp_path: Path, module: nn.Module | None = None) -> str:
    torch.save(content, tmp_path / "w.pth")
    with pytest.raises(InputError) as caught:
        load_weights(network() if module is None else module, tmp_path / "w.pth", "the network")
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize(
    ("content", "first", "second"),
    [
        ({"student": GOOD, "teacher": RAW}, "student", "teacher"),
        ({"model": GOOD, "best_model": RAW}, "model", "best_model"),
        ({"state_dict": {**under("encoder_q.", RAW), **under("encoder_k.")}}, "encoder_q", "encoder_k"),
        ({"ema_0.99": GOOD, "ema_0.9999": RAW, "model": RAW}, "ema_0.99", "ema_0.9999"),
        ({"state_dict": {**RAW, **under("teacher.")}}, "state_dict", "state_dict.teacher"),
    ],
)
def test_two_different_sets_that_fit_are_an_error_that_names_both(
    content: Any, first: str, second: str, tmp_path: Path
) -> None:
    message = refused(content, tmp_path)
    assert "expected one set of weights of the network in" in message
    assert first in message
    assert second in message


def test_averaged_weights_that_are_not_whole_are_not_taken_and_that_is_said(tmp_path: Path) -> None:
    """An average of the parameters alone lacks the statistics of the batch norms."""
    shadow = {name: tensor for name, tensor in RAW.items() if "running" not in name}
    said = loaded({"model": GOOD, "ema": shadow}, tmp_path).assumed["averaged"]
    assert said == "the weights of model in w.pth are taken: the averaged ones (ema) lack 2 of the model's tensors"


def test_both_shapes_and_a_way_out_are_told(tmp_path: Path) -> None:
    message = refused(GOOD | {"3.weight": torch.ones(9, 2), "3.bias": torch.ones(9)}, tmp_path)
    assert message.endswith(
        "of its 9 tensors 2 of another shape (first: 3.weight); 3.weight is (9, 2) in the file and (4, 2) in the "
        "model: the file is of 9 classes and the model of 4: build the model with as many"
    )
    message = refused(GOOD | {"0.weight": torch.ones(2, 1, 3, 3)}, tmp_path)
    assert "0.weight is (2, 1, 3, 3) in the file and (2, 3, 3, 3) in the model" in message
    assert message.endswith("the file is for images of 1 channels and the model for 3")
    # Raw and averaged weights of another head are told likewise, and not as two sets that fit.
    head = {"3.weight": torch.ones(9, 2), "3.bias": torch.ones(9)}
    assert "is of 9 classes" in refused({"model": GOOD | head, "best": RAW | head}, tmp_path)


def test_another_network_with_the_same_names_is_refused(tmp_path: Path) -> None:
    message = refused(network(width=5).state_dict(), tmp_path)
    assert "of another shape (first: 0.weight); 0.weight is (5, 3, 3, 3) in the file and (2, 3, 3, 3)" in message


@pytest.mark.parametrize("build", [lambda c: c.update(model=c), lambda c: c.update(model=[c, c])])
def test_a_checkpoint_that_holds_itself_ends_in_one_line(build: Any, tmp_path: Path) -> None:
    content: dict[str, Any] = {"epoch": 3}
    build(content)
    assert "got none among its 1 entries" in refused(content, tmp_path)
    content["weights"] = GOOD
    loaded(content, tmp_path)


def test_nesting_and_entries_are_bounded(tmp_path: Path) -> None:
    deep: dict[str, Any] = dict(GOOD)
    for _ in range(100):
        deep = {"model": deep}
    assert "at most 32 levels" in refused(deep, tmp_path)
    shared: list[Any] = [GOOD]
    for _ in range(20):
        shared = [shared] * 10  # a hundred quintillion paths, 20 lists
    assert len(list(mappings_in({"a": shared}, "w.pth"))) == 2
    with pytest.raises(InputError, match=r"10,000,000 entries; w\.pth has more"):
        list(mappings_in({"a": [None] * 10_000_001}, "w.pth"))


def test_keys_that_are_no_names_are_passed_over(tmp_path: Path) -> None:
    loaded({"model": GOOD, 3: torch.ones(1), (1, 2): torch.ones(1), None: {"x": 1}}, tmp_path)


# Class names


@pytest.mark.parametrize(
    "carried",
    [
        {"class_to_idx": {"d": 3, "c": 2, "b": 1, "a": 0}},
        {"classes": ["a", "b", "c", "d"]},
        {"hyper_parameters": {"id2label": {"0": "a", "1": "b", "2": "c", "3": "d"}}},
        {"names": {0: "a", 1: "b", 2: "c", 3: "d"}},
        {"classes": ["a", "b", "c", "d"], "class_to_idx": {"a": 0, "b": 1, "c": 2, "d": 3}},
    ],
)
def test_class_names_that_a_checkpoint_carries(carried: dict[str, Any], tmp_path: Path) -> None:
    assert loaded({"state_dict": GOOD, **carried}, tmp_path).class_names == ("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("carried", "said"),
    [
        ({"classes": ["a", "b"]}, "classes with 2): the last layer has 4 rows"),
        ({"classes": list("abcd"), "class_names": list("efgh")}, "class_names with 4, classes with 4): they differ"),
        ({"classes": 4}, None),
        ({"labels": [0, 1, 2, 3]}, None),
        ({"names": {"a": "x", "b": "y"}}, None),
    ],
)
def test_names_that_do_not_fit_are_left_out(carried: dict[str, Any], said: str | None, tmp_path: Path) -> None:
    result = loaded({"state_dict": GOOD, **carried}, tmp_path)
    assert result.class_names is None
    assert (said is None) == (result.assumed == {})
    assert said is None or said in result.assumed["names of the file"]
