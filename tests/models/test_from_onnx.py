"""ONNX files against the PyTorch networks that they were exported from."""

from __future__ import annotations

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
