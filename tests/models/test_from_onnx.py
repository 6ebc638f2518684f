"""ONNX files against the PyTorch networks that they were exported from."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from suffice.errors import InputError
from suffice.models import load_classifier

onnx = pytest.importorskip("onnx")
pytest.importorskip("onnxruntime")
pytest.importorskip("onnxscript")


def network(channels: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(channels, 4, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, 6)
    ).eval()


def export(module: nn.Module, path: Path, *inputs: Tensor, dynamic: bool = False) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of the exporter's own insides
        torch.onnx.export(
            module, inputs, path, dynamo=True, verbose=False, external_data=False,
            dynamic_shapes=({0: torch.export.Dim("batch")},) * len(inputs) if dynamic else None,
        )  # fmt: skip
    return path


def expected(module: nn.Module, images: Tensor) -> Tensor:
    mean, std = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1), torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)
    with torch.no_grad():
        return module((images - mean) / std)


@pytest.mark.parametrize("batch", ["dynamic", 1, 4])
def test_logits_are_those_of_the_network(batch: Any, tmp_path: Path) -> None:
    module = network()
    example = torch.rand(2 if batch == "dynamic" else batch, 3, 20, 30)
    path = export(module, tmp_path / "net.onnx", example, dynamic=batch == "dynamic")
    for classifier in (load_classifier(str(path)), load_classifier(str(path), batch_size=3)):
        assert classifier.black_box
        assert classifier.preprocessing.input_size == (20, 30)
        for count in (1, 3, 4, 7, 8):
            images = torch.rand(count, 3, 20, 30)
            classifier.forward_passes = 0
            torch.testing.assert_close(classifier.logits(images), expected(module, images), rtol=0, atol=1e-5)
            assert classifier.forward_passes == count, "images that only fill a batch up were counted"


def test_masks_of_an_onnx_model_are_filled_but_not_deactivated(tmp_path: Path) -> None:
    from suffice.occlusion import masked_logits

    module = network()
    classifier = load_classifier(str(export(module, tmp_path / "net.onnx", torch.rand(4, 3, 20, 30))))
    images, masks = torch.rand(5, 3, 20, 30), torch.rand(5, 20, 30) > 0.5
    logits = masked_logits(classifier, images, masks, occlusion="max")
    torch.testing.assert_close(logits, expected(module, images.masked_fill(~masks[:, None], 1.0)), rtol=0, atol=1e-5)
    with pytest.raises(InputError, match="black box"):
        masked_logits(classifier, images, masks, occlusion="deactivate")


def test_one_channel(tmp_path: Path) -> None:
    module = network(channels=1)
    classifier = load_classifier(str(export(module, tmp_path / "grey.onnx", torch.rand(1, 1, 12, 12))))
    images = torch.rand(2, 1, 12, 12)
    with torch.no_grad():
        torch.testing.assert_close(classifier.logits(images), module((images - 0.5) / 0.5), rtol=0, atol=1e-5)


def _graph(path: Path, inputs: list[Any], outputs: list[Any], nodes: list[Any], **more: Any) -> Path:
    from onnx import helper

    model = helper.make_model(helper.make_graph(nodes, "toy", inputs, outputs, **more), ir_version=9)
    model.opset_import[0].version = 17
    onnx.save(model, path)
    return path


def _value(name: str, shape: list[Any], kind: int | None = None) -> Any:
    from onnx import TensorProto, helper

    return helper.make_tensor_value_info(name, kind or TensorProto.FLOAT, shape)


@pytest.mark.parametrize("kind", ["FLOAT", "FLOAT16", "DOUBLE"])
def test_inputs_of_any_float_type(kind: str, tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    number = getattr(TensorProto, kind)
    nodes = [helper.make_node("ReduceMean", ["x"], ["y"], axes=[2, 3], keepdims=0)]
    inputs, outputs = [_value("x", ["n", 3, "h", "w"], number)], [_value("y", ["n", 3], number)]
    path = _graph(tmp_path / "mean.onnx", inputs, outputs, nodes)
    classifier = load_classifier(str(path), input_size=(5, 7), mean=(0, 0, 0), std=(1, 1, 1))
    images = torch.rand(2, 3, 5, 7)
    logits = classifier.logits(images)
    assert logits.dtype == torch.float32
    torch.testing.assert_close(logits, images.mean((2, 3)), rtol=0, atol=2e-3 if kind == "FLOAT16" else 1e-6)


def _pooled(
    path: Path, batch: Any, outputs: list[tuple[str, list[Any]]], metadata: dict[str, str] | None = None
) -> Path:
    """A graph of the channels' means: `m` (N, 3, 1, 1), `f` (N, 3), `g` (N, 6) twice, and `maps`, the input itself."""
    from onnx import helper

    nodes = [
        helper.make_node("ReduceMean", ["x"], ["m"], axes=[2, 3], keepdims=1),
        helper.make_node("Flatten", ["m"], ["f"]),
        helper.make_node("Concat", ["f", "f"], ["g"], axis=1),
        helper.make_node("Identity", ["x"], ["maps"]),
    ]
    made = {"m": "m", "f": "f", "g": "g", "maps": "maps"}
    values = []
    for name, shape in outputs:
        inner, _, outer = name.partition(" as ")
        if outer:
            nodes.append(helper.make_node("Identity", [made[inner]], [outer]))
        values.append(_value(outer or inner, shape))
    _graph(path, [_value("x", [batch, 3, 8, 8])], values, nodes)
    model = onnx.load(path)
    helper.set_model_props(model, metadata or {})
    onnx.save(model, path)
    return path


N, F, G, M, MAPS = "n", ["n", 3], ["n", 6], ["n", 3, 1, 1], ["n", 3, 8, 8]


@pytest.mark.parametrize(
    ("outputs", "names", "classes"),
    [
        ([("m", M)], None, 3),  # microsoft/onnxruntime#20332: SqueezeNet of the ONNX zoo ends in a global pooling
        ([("g as features", G), ("f as logits", F)], None, 3),  # ReX-XAI/ReX#9
        ([("g as features", G), ("f as Output", F)], "abc", 3),
        ([("f as output", F), ("g as logits", G)], None, 6),
        ([("maps", MAPS), ("f as scores", F)], None, 3),
        ([("g as features", G), ("f as scores", F)], "abc", 3),
        ([("g as features", G), ("m as scores", M)], "abc", 3),
        ([("g as scores", G), ("f as features", F)], "abcdef", 6),
        ([("g as features", G), ("f as scores", ["n", "k"])], "abc", 3),
    ],
)
@pytest.mark.parametrize("batch", ["n", 1, 4])
def test_of_several_outputs_the_logits_are_taken(
    outputs: list[tuple[str, list[Any]]], names: str | None, classes: int, batch: Any, tmp_path: Path
) -> None:
    fixed = [(name, [batch, *shape[1:]]) for name, shape in outputs]
    path = _pooled(tmp_path / "net.onnx", batch, fixed)
    classifier = load_classifier(str(path), mean=0, std=1, class_names=None if names is None else list(names))
    images = torch.rand(5, 3, 8, 8)
    means = images.mean((2, 3))
    expected = means if classes == 3 else torch.cat([means, means], 1)
    torch.testing.assert_close(classifier.logits(images), expected, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    ("outputs", "names", "wanted"),
    [
        ([("g as a", G), ("f as b", F)], None, "logits (N, K) in"),
        ([("g as a", G), ("f as b", F)], "wxyz", "with K = 4 in"),
        ([("m as a", M), ("f as b", F)], "abc", "with K = 3 in"),
        ([("maps as a", MAPS), ("maps as b", MAPS)], None, "logits (N, K) in"),
    ],
)
def test_outputs_of_which_none_is_the_logits_are_all_named(
    outputs: list[tuple[str, list[Any]]], names: str | None, wanted: str, tmp_path: Path
) -> None:
    path = _pooled(tmp_path / "net.onnx", "n", outputs)
    with pytest.raises(InputError) as caught:
        load_classifier(str(path), class_names=None if names is None else list(names))
    message = str(caught.value)
    assert wanted in message
    assert "a tensor(float)" in message
    assert "b tensor(float)" in message


def test_metadata_of_ultralytics(tmp_path: Path) -> None:
    """ultralytics/ultralytics#14145: its exporter writes names and sizes; its classifiers take pixels in [0, 1]."""
    metadata = {
        "author": "Ultralytics", "task": "classify", "imgsz": "[8, 8]", "names": "{0: 'cat', 1: 'dog', 2: 'owl'}",
        "stride": "1", "date": "2024-03-29T00:00:00",
    }  # fmt: skip
    classifier = load_classifier(str(_pooled(tmp_path / "net.onnx", "n", [("f", F)], metadata)))
    assert classifier.class_names == ("cat", "dog", "owl")
    assert (classifier.preprocessing.mean, classifier.preprocessing.std) == ((0.0,) * 3, (1.0,) * 3)
    assert set(classifier.assumed) == {"resize"}


@pytest.mark.parametrize(
    "metadata",
    [
        {"mean": "[0.1, 0.2, 0.3]", "std": "[0.4, 0.5, 0.6]", "class_names": '["a", "b", "c"]'},
        {"Mean": "0.1, 0.2, 0.3", "Std": "0.4, 0.5, 0.6", "id2label": '{"0": "a", "1": "b", "2": "c"}'},
        {
            "pretrained_cfg": '{"mean": [0.1, 0.2, 0.3], "std": [0.4, 0.5, 0.6], "crop_pct": null}',
            "class_to_idx": '{"c": 2, "b": 1, "a": 0}',
        },
        # PUTvision/qgis-plugin-deepness#27
        {
            "image_mean": "[25.5, 51, 76.5]",
            "image_std": "(102, 127.5, 153)",
            "class_names": '{"0": "a", "1": "b", "2": "c"}',
        },
    ],
)  # fmt: skip
def test_metadata_of_ones_own(metadata: dict[str, str], tmp_path: Path) -> None:
    classifier = load_classifier(str(_pooled(tmp_path / "net.onnx", "n", [("f", F)], metadata)))
    assert classifier.preprocessing.mean == pytest.approx((0.1, 0.2, 0.3))
    assert classifier.preprocessing.std == pytest.approx((0.4, 0.5, 0.6))
    assert classifier.class_names == ("a", "b", "c")
    assert load_classifier(str(tmp_path / "net.onnx"), class_names=list("xyz")).class_names == ("x", "y", "z")


@pytest.mark.parametrize(
    "metadata", [{"names": "[" * 10_000}, {"names": "{0: __import__('os').abort()}"}, {"names": "cat"}]
)
def test_metadata_that_are_no_names_are_passed_over(metadata: dict[str, str], tmp_path: Path) -> None:
    classifier = load_classifier(str(_pooled(tmp_path / "net.onnx", "n", [("f", F)], metadata)))
    assert classifier.class_names is None
    assert set(classifier.assumed) == {"normalisation", "resize", "names"}


def test_metadata_that_cannot_be_read_are_one_line(tmp_path: Path) -> None:
    path = _pooled(tmp_path / "net.onnx", "n", [("f", F)], {"mean": "grey"})
    with pytest.raises(
        InputError, match=r"net\.onnx: its metadata say expected mean as one number a channel; got 'grey'"
    ):
        load_classifier(str(path))


def test_models_that_do_not_take_one_image_are_refused(tmp_path: Path) -> None:
    from onnx import TensorProto, helper

    def refused(name: str, inputs: list[Any], node: Any, output: Any, received: str) -> None:
        path = _graph(tmp_path / f"{name}.onnx", inputs, [output], [node])
        with pytest.raises(InputError, match=received) as caught:
            load_classifier(str(path))
        assert f"{name}.onnx" in str(caught.value)

    shape, out = ["n", 3, 8, 8], _value("y", None)  # type: ignore[arg-type]
    add = helper.make_node("Add", ["a", "b"], ["y"])
    same = helper.make_node("Identity", ["a"], ["y"])
    refused("two", [_value("a", shape), _value("b", shape)], add, out, r"got a tensor\(float\).*, b tensor\(float\)")
    refused("flat", [_value("a", ["n", 192])], same, out, r"got a tensor\(float\) \['n', 192\]")
    refused("last", [_value("a", ["n", 8, 8, 3])], same, out, r"with 1 or 3 channels.*\['n', 8, 8, 3\]")
    integers = _value("y", shape, TensorProto.UINT8)
    refused("bytes", [_value("a", shape, TensorProto.UINT8)], same, integers, r"of floats.*tensor\(uint8\)")
    constant = helper.make_node("Constant", [], ["y"], value_floats=[1.0, 2.0])
    refused("constant", [], constant, _value("y", [2]), "got no input")


@pytest.mark.parametrize("content", [b"", b"this is not ONNX\nat all\n", b"\x08\x07\x12\xff\xff"])
def test_what_is_no_onnx_file_is_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "text.onnx"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"text\.onnx is not a readable ONNX model: .") as caught:
        load_classifier(str(path))
    assert "\n" not in str(caught.value)


def test_a_truncated_file_is_refused(tmp_path: Path) -> None:
    path = export(network(), tmp_path / "net.onnx", torch.rand(1, 3, 20, 30))
    path.write_bytes(path.read_bytes()[:-200])
    with pytest.raises(InputError, match=r"net\.onnx is not a readable ONNX model"):
        load_classifier(str(path))


def test_paths_and_weights_that_make_no_sense_are_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="there is none at"):
        load_classifier(str(tmp_path / "missing.onnx"))
    (tmp_path / "folder.onnx").mkdir()
    with pytest.raises(InputError, match="there is none at"):
        load_classifier(str(tmp_path / "folder.onnx"))
    with pytest.raises(InputError, match="an ONNX file holds its own weights"):
        load_classifier(str(tmp_path / "missing.onnx"), weights="weights.pth")


def test_nothing_is_noted_for_the_makers_of_onnxruntime(tmp_path: Path) -> None:
    export(network(), tmp_path / "model.onnx", torch.rand(1, 3, 8, 8))
    for place in ("home", "tmp"):
        (tmp_path / place).mkdir()
    environment = {name: value for name, value in os.environ.items() if name != "ORT_DISABLE_TELEMETRY"}
    environment |= {"HOME": str(tmp_path / "home"), "TMPDIR": str(tmp_path / "tmp")}
    environment |= {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    program = (
        "import os, sys, suffice\n"
        "suffice.load_classifier(sys.argv[1], mean=0, std=1, outputs='logits')\n"
        "assert 'ORT_DISABLE_TELEMETRY' not in os.environ\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "model.onnx")], env=environment, check=True)
    left = [path for place in ("home", "tmp") for path in (tmp_path / place).rglob("*") if "onnx" in path.name.lower()]
    assert not left


def test_what_onnxruntime_raises_it_does_not_print(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    import onnx

    path = export(network(), tmp_path / "model.onnx", torch.rand(1, 3, 8, 8))
    model = onnx.load(path)
    for tensor in model.graph.initializer:
        tensor.raw_data = tensor.raw_data[:-4]
    onnx.save(model, path)
    with pytest.raises(InputError, match="is not a readable ONNX model"):
        load_classifier(str(path))
    assert capfd.readouterr() == ("", "")
