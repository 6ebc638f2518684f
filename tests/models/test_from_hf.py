"""Models of transformers from a folder: the pipeline's answers, by the command line and by hand; what is refused."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

import suffice
from suffice.cli import main
from suffice.errors import InputError
from suffice.explainers import saliency_maps
from suffice.features import last_stage, reads_class_token, spatial_stages
from suffice.images import SAMPLES, read_photo

transformers = pytest.importorskip("transformers")
hf_networks = pytest.importorskip("hf_networks")
CLASSIFIERS, SIZE, NAMES, PROMPTS = (
    hf_networks.CLASSIFIERS,
    hf_networks.SIZE,
    hf_networks.NAMES,
    hf_networks.PROMPTS,
)
Folder = Callable[[str], str]


@pytest.fixture(autouse=True)
def _as_it_was() -> Iterator[None]:
    """Loading leaves the log of transformers as it was."""
    logging = transformers.utils.logging
    before = logging.get_verbosity(), logging.is_progress_bar_enabled()
    yield
    assert (logging.get_verbosity(), logging.is_progress_bar_enabled()) == before


def loaded(folder: str, **options: Any) -> suffice.Classifier:
    return suffice.load_classifier(f"hf:{folder}", device="cpu", **options)


def pipeline(folder: str) -> Any:
    before = transformers.utils.logging.is_progress_bar_enabled()
    transformers.utils.logging.disable_progress_bar()
    made = transformers.pipeline("image-classification", model=folder, device="cpu")
    if before:
        transformers.utils.logging.enable_progress_bar()
    return made


def logits_of(made: Any, photo: Image.Image) -> Tensor:
    """What a pipeline's own model says of what its own processor makes of a photo."""
    with torch.no_grad():
        return made.model(**made.preprocess(photo)).logits


# --- the same numbers ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_logits_are_those_of_the_pipeline(name: str, hf_folder: Folder) -> None:
    classifier, made = loaded(hf_folder(name)), pipeline(hf_folder(name))
    assert classifier.class_names == NAMES
    for sample in SAMPLES:
        photo = read_photo(f"sample:{sample}")
        found = classifier.logits(suffice.load_image(f"sample:{sample}", classifier)[None])
        expected = logits_of(made, photo.pixels)
        assert float(expected.std()) > 1e-2
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_the_command_line_loads_it(
    name: str, hf_folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["explain", "sample:coffee", "--model", f"hf:{hf_folder(name)}", "--occlusion", "zero", "--method", "lime"]
    words += ["--set", "samples=20", "--keep-confidence", "0", "--device", "cpu", "--json"]
    monkeypatch.setattr(sys, "argv", ["suffice", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.err) == (0, "")
    result = json.loads(said.out)
    best = pipeline(hf_folder(name))(read_photo("sample:coffee").pixels)[0]
    assert result["target_name"] == best["label"]
    assert result["confidence"] == pytest.approx(best["score"], abs=1e-5)
    assert result["model"] == f"hf:{hf_folder(name)}"


@pytest.mark.parametrize("name", ["vit", "deit", "mobilenet_v2", "convnext", "efficientnet"])
def test_a_pipeline_is_a_classifier(name: str, hf_folder: Folder) -> None:
    made = pipeline(hf_folder(name))
    classifier = suffice.Classifier(made)
    assert classifier.module is made.model
    assert classifier.class_names == NAMES
    assert classifier.preprocessing == loaded(hf_folder(name)).preprocessing
    assert set(classifier.assumed) <= {"outputs"}
    found = classifier.logits(suffice.load_image("sample:rocket", classifier)[None])
    torch.testing.assert_close(found, logits_of(made, read_photo("sample:rocket").pixels), atol=1e-5, rtol=1e-5)


def test_a_pipeline_that_reverses_the_channels_is_asked_so(hf_folder: Folder) -> None:
    made = pipeline(hf_folder("resnet"))
    made.image_processor = transformers.MobileViTImageProcessor(
        size={"shortest_edge": 72}, crop_size={"height": SIZE, "width": SIZE}
    )
    classifier = suffice.Classifier(made)
    found = classifier.logits(suffice.load_image("sample:rocket", classifier)[None])
    torch.testing.assert_close(found, logits_of(made, read_photo("sample:rocket").pixels), atol=1e-5, rtol=1e-5)


RETURNED = """
import transformers

transformers.utils.logging.disable_progress_bar()
FOLDER = {folder!r}

def pipeline():
    return transformers.pipeline("image-classification", model=FOLDER, device="cpu")

def model():
    return transformers.AutoModelForImageClassification.from_pretrained(FOLDER)

def with_processor():
    return model(), transformers.AutoImageProcessor.from_pretrained(FOLDER)

def mapping():
    return {{"model": model(), "processor": transformers.AutoImageProcessor.from_pretrained(FOLDER, backend="pil")}}

def reversing():
    size = {{"height": 64, "width": 64}}
    return model(), transformers.MobileViTImageProcessor(size={{"shortest_edge": 72}}, crop_size=size)
"""


@pytest.fixture
def returned(hf_folder: Folder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """A module of the user's that returns models of transformers."""
    (tmp_path / "my_hf.py").write_text(RETURNED.format(folder=hf_folder("deit")))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    bars = transformers.utils.logging.is_progress_bar_enabled()
    yield "my_hf"
    sys.modules.pop("my_hf", None)
    if bars:
        transformers.utils.logging.enable_progress_bar()


@pytest.mark.parametrize("function", ["pipeline", "with_processor", "mapping", "model"])
def test_functions_return_models_of_transformers(function: str, returned: str, hf_folder: Folder) -> None:
    classifier = suffice.load_classifier(f"{returned}:{function}", device="cpu")
    assert classifier.class_names == NAMES
    assert classifier.preprocessing.input_size == (SIZE, SIZE)
    assert classifier.preprocessing.crop_pct == pytest.approx(SIZE / 72)
    if function == "model":
        return
    backend = "pil" if function == "mapping" else "torchvision"
    made = pipeline(hf_folder("deit"))
    made.image_processor = transformers.AutoImageProcessor.from_pretrained(hf_folder("deit"), backend=backend)
    found = classifier.logits(suffice.load_image("sample:cat", classifier)[None])
    torch.testing.assert_close(found, logits_of(made, read_photo("sample:cat").pixels), atol=1e-5, rtol=1e-5)


def test_a_processor_that_reverses_the_channels_cannot_stand_beside_a_model(returned: str) -> None:
    with pytest.raises(InputError, match="MobileViTImageProcessor makes BGR of RGB: return a pipeline"):
        suffice.load_classifier(f"{returned}:reversing")


PROCESSORS: dict[str, tuple[str, dict[str, Any]]] = {
    "crop": ("CLIP", {"size": {"shortest_edge": 50}, "crop_size": {"height": 41, "width": 41}}),
    "squashed": ("ViT", {"size": {"height": 40, "width": 40}, "resample": 3}),
    "squashed and not square": ("ViT", {"size": {"height": 40, "width": 56}}),
    "lanczos": ("ViT", {"size": {"height": 40, "width": 40}, "resample": 1}),
    "nearest": ("ViT", {"size": {"height": 40, "width": 40}, "resample": 0}),
    "convnext below 384": ("ConvNext", {"size": {"shortest_edge": 40}, "crop_pct": 0.9}),
    "convnext from 384 on": ("ConvNext", {"size": {"shortest_edge": 384}}),
    "levit": ("Levit", {"size": {"shortest_edge": 56}, "crop_size": {"height": 56, "width": 56}}),
    "efficientnet": ("EfficientNet", {"size": {"height": 40, "width": 40}, "rescale_offset": True}),
    "poolformer": ("PoolFormer", {"size": {"shortest_edge": 40}, "crop_size": {"height": 40, "width": 40}}),
    "without normalisation": ("ViT", {"size": {"height": 40, "width": 40}, "do_normalize": False}),
    "pixels up to 255": ("ViT", {"size": {"height": 40, "width": 40}, "do_rescale": False, "image_mean": [120.0] * 3}),
}


@pytest.mark.parametrize("backend", ["", "Pil"])
@pytest.mark.parametrize("name", PROCESSORS)
def test_what_a_processor_makes_of_a_photo_is_made_here(name: str, backend: str) -> None:
    from suffice.models.hf_processor import read_processor

    family, settings = PROCESSORS[name]
    processor = getattr(transformers, f"{family}ImageProcessor{backend}")(**settings)
    read = read_processor(processor)
    assert read.difference == 0
    assert not read.reverses
    classifier = suffice.Classifier(lambda x: x.flatten(1)[:, :2], **read.fields)
    for sample in ("cat", "rocket"):
        photo = read_photo(f"sample:{sample}")
        expected = processor(images=photo.pixels, return_tensors="pt")["pixel_values"]
        found = classifier.normalise(suffice.load_image(f"sample:{sample}", classifier)[None])
        assert found.shape == expected.shape
        torch.testing.assert_close(found, expected.float(), atol=1e-6 * float(expected.abs().max()), rtol=1e-5)


def test_what_cannot_be_done_in_the_same_way_is_said(hf_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(hf_folder("vit"), folder)
    processor = transformers.PerceiverImageProcessor(
        size={"height": SIZE, "width": SIZE}, crop_size={"height": 72, "width": 72}
    )
    processor.save_pretrained(folder)
    from suffice.models.from_hf import load

    (sentence,) = load(str(folder)).assumed.values()
    assert sentence.startswith("PerceiverImageProcessor does what is not done here in the same way")
    assert "of 255" in sentence


def test_a_processor_that_reverses_the_channels_has_the_network_see_them_so(hf_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "bgr"
    shutil.copytree(hf_folder("resnet"), folder)
    processor = transformers.MobileViTImageProcessor(
        size={"shortest_edge": 72}, crop_size={"height": SIZE, "width": SIZE}
    )
    processor.save_pretrained(folder)
    classifier, made = loaded(str(folder)), pipeline(str(folder))
    found = classifier.logits(suffice.load_image("sample:rocket", classifier)[None])
    expected = logits_of(made, read_photo("sample:rocket").pixels)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)
    assert last_stage(classifier).name == "network.resnet.encoder"
    assert "order" not in classifier.assumed
    # Of the model alone that cannot be done, and is said.
    alone = suffice.Classifier(transformers.AutoModelForImageClassification.from_pretrained(folder))
    assert alone.assumed["order"].startswith("the channels are taken to be RGB, though the processor of ResNetFor")
    assert (alone.preprocessing.mean, alone.preprocessing.std) == ((0.0,) * 3, (1.0,) * 3)


def test_a_model_of_timm_in_a_folder_of_transformers_has_the_pipelines_logits(tmp_path: Path) -> None:
    import timm

    config = transformers.TimmWrapperConfig(
        architecture="resnet18",
        num_labels=len(NAMES),
        id2label=dict(enumerate(NAMES)),
        label2id={name: index for index, name in enumerate(NAMES)},
        pretrained_cfg=timm.create_model("resnet18").pretrained_cfg,
    )
    transformers.TimmWrapperForImageClassification(config).save_pretrained(tmp_path)
    classifier, made = loaded(str(tmp_path)), pipeline(str(tmp_path))
    assert (classifier.preprocessing.crop_pct, classifier.assumptions) == (0.95, ())
    assert last_stage(classifier).name == "timm_model.layer4"
    found = classifier.logits(suffice.load_image("sample:cat", classifier)[None])
    torch.testing.assert_close(found, logits_of(made, read_photo("sample:cat").pixels), atol=1e-5, rtol=1e-5)


def test_sizes_that_vary_are_refused() -> None:
    from suffice.models.hf_processor import read_processor

    with pytest.raises(InputError, match="brings every image to one size; BitImageProcessor makes"):
        read_processor(transformers.BitImageProcessor(size={"shortest_edge": 40}, do_center_crop=False))


def test_images_in_grey_are_asked_in_grey() -> None:
    from suffice.models.hf_processor import read_processor

    class Grey:
        size, resample, backend = {"height": 28, "width": 28}, 2, "pil"

        def __call__(self, images: Image.Image, return_tensors: str) -> dict[str, Tensor]:
            assert images.mode == "L"
            array = np.asarray(images.resize((28, 28), Image.Resampling.BILINEAR), dtype=np.float32) / 255
            return {"pixel_values": torch.from_numpy((array - 0.1307) / 0.3081)[None, None]}

    read = read_processor(Grey(), channels=1)
    assert read.fields["mean"] == pytest.approx((0.1307,), abs=1e-5)
    assert read.fields["std"] == pytest.approx((0.3081,), abs=1e-5)
    assert (read.difference, read.fields["crop_mode"]) == (0.0, "squash")


# --- inside ----------------------------------------------------------------------------------------------------------


def tokens_after(prefix: int, side: int) -> Callable[[Tensor], Tensor]:
    return lambda x: x[:, prefix:].reshape(len(x), side, side, -1).permute(0, 3, 1, 2)


def as_they_are(x: Tensor) -> Tensor:
    return x


# The stages that a person would name; the module where a class activation map is read by hand, and as what.
INSIDE: dict[str, tuple[list[str], str, Callable[[Tensor], Tensor], bool]] = {
    "vit": ([f"vit.layers.{i}" for i in range(3)], "vit.layers.2.layernorm_before", tokens_after(1, 4), True),
    "deit": ([f"deit.layers.{i}" for i in range(3)], "deit.layers.2.layernorm_before", tokens_after(2, 4), True),
    "swin": (
        ["swin.encoder.layers.0.blocks.0", "swin.encoder.layers.1.blocks.0", "swin.layernorm"],
        "swin.layernorm", tokens_after(0, 4), False,
    ),
    "convnext": (
        [*(f"convnext.encoder.stages.{i}" for i in range(3)), "convnext.encoder"],
        "convnext.encoder.stages.3", as_they_are, False,
    ),
    "resnet": (
        ["resnet.embedder.embedder", *(f"resnet.encoder.stages.{i}" for i in range(3)), "resnet.encoder"],
        "resnet.encoder.stages.3", as_they_are, False,
    ),
    "mobilenet_v2": (
        ["mobilenet_v2.conv_stem", *(f"mobilenet_v2.layer.{i}" for i in (1, 4, 11)), "mobilenet_v2.conv_1x1"],
        "mobilenet_v2.conv_1x1", as_they_are, False,
    ),
    "beit": ([f"beit.layers.{i}" for i in range(3)], "beit.layers.2", tokens_after(1, 4), False),
    "efficientnet": (
        [*(f"efficientnet.encoder.blocks.{i}" for i in (0, 1, 2, 4)), "efficientnet.encoder"],
        "efficientnet.encoder.top_activation", as_they_are, False,
    ),
    "pvt": (
        [*(f"pvt.encoder.block.{i}.0" for i in range(3)), "pvt"],
        "pvt.encoder.block.3.1.layer_norm_1", tokens_after(1, 2), True,
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_stages_are_those_that_a_person_would_name(name: str, hf_folder: Folder) -> None:
    classifier = loaded(hf_folder(name))
    stages, _, _, class_token = INSIDE[name]
    assert [stage.name for stage in spatial_stages(classifier)] == stages
    assert reads_class_token(classifier) == class_token


def grad_cam_by_hand(
    module: nn.Module, layer: str, as_maps: Callable[[Tensor], Tensor], images: Tensor, target: int
) -> Tensor:
    """Σ_c mean(g_c) A_c, from hooks on a layer, brought to the image's size; Selvaraju et al. 2017."""
    kept: list[Tensor] = []

    def keep(submodule: nn.Module, args: Any, output: Any) -> None:
        tensor = output if isinstance(output, Tensor) else output[0]
        tensor.retain_grad()
        kept.append(tensor)

    handle = module.get_submodule(layer).register_forward_hook(keep)
    output = module(images)
    handle.remove()
    module.zero_grad()
    (output if isinstance(output, Tensor) else output.logits)[0, target].backward()
    assert kept[0].grad is not None
    maps, gradients = as_maps(kept[0].detach()), as_maps(kept[0].grad)
    module.zero_grad()
    raw = (gradients.mean((2, 3), keepdim=True) * maps).sum(1, keepdim=True)
    return nn.functional.interpolate(raw, tuple(images.shape[2:]), mode="bilinear")[:, 0]


@pytest.mark.parametrize("name", CLASSIFIERS)
def test_grad_cam_is_that_by_hand(name: str, hf_folder: Folder) -> None:
    classifier = loaded(hf_folder(name))
    _, layer, as_maps, _ = INSIDE[name]
    image = suffice.load_image("sample:cat", classifier)
    for target in (0, 3):
        expected = grad_cam_by_hand(classifier.module, layer, as_maps, classifier.normalise(image[None]), target)
        found = saliency_maps(classifier, image[None], torch.tensor([target]), method="grad-cam").raw
        assert float(expected.std()) > 0
        torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-5 * float(expected.abs().max()))


CAMS = ("grad-cam", "grad-cam++", "layer-cam", "finer-cam", "kpca-cam")
ATTENTION = {"vit": 2, "deit": 2, "beit": 2, "clip": 2, "siglip": 2, "swin": 1, "pvt": 1}  # and rollout, where not 1
FAMILIES = (*CLASSIFIERS, "clip", "siglip")


def fill_that_hides(classifier: suffice.Classifier, image: Tensor) -> str:
    """A fill under which an image of nothing has less of the class than the image."""
    nothing = torch.zeros(1, SIZE, SIZE, dtype=torch.bool)
    confidences = classifier.logits(image[None]).softmax(1)
    target = int(confidences.argmax())
    for fill in ("zero", "min", "max", "colour:red", "colour:lime", "colour:blue"):
        left = suffice.masked_logits(classifier, image[None], nothing, occlusion=fill).softmax(1)
        if left[0, target] < confidences[0, target]:
            return fill
    raise AssertionError("no fill hides anything")


@pytest.mark.parametrize("name", FAMILIES)
def test_every_look_inside_works_or_says_why_in_a_line(name: str, hf_folder: Folder) -> None:
    classifier = loaded(hf_folder(name), prompts=PROMPTS if name in ("clip", "siglip") else None)
    image = suffice.load_image("sample:cat", classifier)
    for method in CAMS:
        assert float(saliency_maps(classifier, image[None], method=method).raw.std()) > 0, method
    for index, method in enumerate(("attention", "attention-rollout")):
        if index < ATTENTION.get(name, 0):
            assert float(saliency_maps(classifier, image[None], method=method).raw.std()) > 0, method
        else:
            with pytest.raises(InputError, match=r"use .*grad-cam"):
                saliency_maps(classifier, image[None], method=method)
    fill = fill_that_hides(classifier, image)
    assert suffice.explain(classifier, image, occlusion=fill, keep_confidence=1, block=32).sufficient
    settings = {"robustness": "none", "steps": 4, "budget": 4}
    matched = suffice.explain(classifier, image, "activation-matching", occlusion=fill, keep_confidence=1, **settings)
    assert matched.backward_passes > 0
    if name == "siglip":
        # Its last attention asks with a query that is a parameter.
        with pytest.raises(InputError, match=r"got matmul of channels .* several dimensions in .*\.head\.attention;"):
            suffice.trace_circuit(classifier, image)
        return
    circuit = suffice.trace_circuit(classifier, image, share=0.5, random=0)
    assert 0 < circuit.channels < circuit.channels_total


@pytest.mark.parametrize("name", FAMILIES)
def test_deactivation_is_exact_and_sees_nothing_that_is_hidden(name: str, hf_folder: Folder) -> None:
    classifier = loaded(hf_folder(name), prompts=PROMPTS if name in ("clip", "siglip") else None)
    image = suffice.load_image("sample:coffee", classifier)
    kept = torch.ones(2, SIZE, SIZE, dtype=torch.bool)
    kept[1, :32] = False
    hidden = image.clone()
    hidden[:, :32] = torch.rand(3, 32, SIZE)
    images = torch.stack([image, image])
    found = suffice.masked_logits(classifier, images, kept)
    assert torch.equal(found[0], classifier.logits(images)[0])  # Theorem 1
    assert torch.equal(found[1], suffice.masked_logits(classifier, torch.stack([image, hidden]), kept)[1])
    assert not torch.allclose(found[1], found[0], atol=1e-3)


# --- CLIP and SigLIP -------------------------------------------------------------------------------------------------


def test_prompts_on_the_command_line_follow_one_another(
    hf_folder: Folder, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["explain", "sample:cat", "--model", f"hf:{hf_folder('siglip')}", "--prompts", *PROMPTS, "--occlusion"]
    words += ["zero", "--method", "lime", "--set", "samples=20", "--keep-confidence", "0", "--device", "cpu", "--json"]
    monkeypatch.setattr(sys, "argv", ["suffice", *words])
    capsys.readouterr()
    with pytest.raises(SystemExit) as ended:
        main()
    said = capsys.readouterr()
    assert (ended.value.code, said.err) == (0, "")
    result = json.loads(said.out)
    classifier = loaded(hf_folder("siglip"), prompts=PROMPTS)
    logits = classifier.logits(suffice.load_image("sample:cat", classifier)[None])[0]
    assert result["target_name"] == PROMPTS[int(logits.argmax())]
    assert result["outputs"] == "labels"
    assert result["confidence"] == pytest.approx(float(logits.sigmoid().max()), abs=1e-5)
    monkeypatch.setattr(sys, "argv", ["suffice", "explain", "sample:cat", "--prompts", "a cat", str(tmp_path)])
    with pytest.raises(SystemExit):
        main()
    assert "expected texts after --prompts, and images before it; got the file" in capsys.readouterr().err


@pytest.mark.parametrize(("name", "outputs"), [("clip", "logits"), ("siglip", "labels")])
def test_prompts_are_classes_with_the_models_own_logits(name: str, outputs: str, hf_folder: Folder) -> None:
    folder = hf_folder(name)
    classifier = loaded(folder, prompts=PROMPTS)
    assert classifier.class_names == tuple(PROMPTS)
    assert classifier.module.outputs == outputs
    made = transformers.pipeline("zero-shot-image-classification", model=folder, device="cpu")
    for sample in ("cat", "rocket"):
        photo = read_photo(f"sample:{sample}").pixels
        inputs = made.preprocess(photo, candidate_labels=PROMPTS, hypothesis_template="{}")
        expected = made._forward(inputs)["logits"]
        found = classifier.logits(suffice.load_image(f"sample:{sample}", classifier)[None])
        torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-5)


def test_texts_are_embedded_once_and_their_network_is_not_kept(hf_folder: Folder) -> None:
    classifier = loaded(hf_folder("clip"), prompts=PROMPTS)
    assert not any("text_model" in name for name, _ in classifier.module.named_modules())
    assert [stage.name for stage in spatial_stages(classifier)] == [
        f"model.vision_model.encoder.layers.{i}" for i in range(3)
    ]
    assert last_stage(classifier).name == "model.vision_model.encoder.layers.2.layer_norm1"


def test_grad_cam_of_clip_is_that_by_hand(hf_folder: Folder) -> None:
    classifier = loaded(hf_folder("clip"), prompts=PROMPTS)
    image = suffice.load_image("sample:cat", classifier)
    layer = "model.vision_model.encoder.layers.2.layer_norm1"
    expected = grad_cam_by_hand(classifier.module, layer, tokens_after(1, 4), classifier.normalise(image[None]), 1)
    found = saliency_maps(classifier, image[None], torch.tensor([1]), method="grad-cam").raw
    torch.testing.assert_close(found, expected, rtol=1e-4, atol=1e-6 * float(expected.abs().max()) + 1e-8)


@pytest.mark.parametrize(
    ("prompts", "received"),
    [(["one"], "at least two different prompts"), (["a", "a"], "at least two different prompts"), (["", "a"], "two")],
)
def test_prompts_that_are_no_classes_are_refused(prompts: list[str], received: str, hf_folder: Folder) -> None:
    with pytest.raises(InputError, match=received):
        loaded(hf_folder("clip"), prompts=prompts)


def test_prompts_and_models_that_do_not_fit_are_said(hf_folder: Folder) -> None:
    with pytest.raises(InputError, match="compares images with texts; expected a prompt for each class"):
        loaded(hf_folder("clip"))
    with pytest.raises(InputError, match=r"prompts are for a model that compares images with texts; .* is vit"):
        loaded(hf_folder("vit"), prompts=PROMPTS)
    with pytest.raises(InputError, match="expected a model hf:FOLDER_OR_ID for prompts; got timm:resnet18"):
        suffice.load_classifier("timm:resnet18", prompts=PROMPTS)


# --- what is refused -------------------------------------------------------------------------------------------------


def test_pickled_weights_are_not_read(hf_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "pickled"
    shutil.copytree(hf_folder("vit"), folder)
    (folder / "model.safetensors").unlink()
    torch.save(loaded(hf_folder("vit")).module.state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="as safetensors; other files, which can hold code, are not read"):
        loaded(str(folder))
    classifier = loaded(str(folder), weights=str(folder / "pytorch_model.bin"))  # as tensors by name alone
    images = torch.rand(1, 3, SIZE, SIZE)
    torch.testing.assert_close(classifier.logits(images), loaded(hf_folder("vit")).logits(images))


def test_code_beside_a_model_is_not_run(hf_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "code"
    shutil.copytree(hf_folder("vit"), folder)
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "mine", "auto_map": {"AutoConfig": "mine.Config"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "mine.py").write_text("raise SystemExit('run')")
    with pytest.raises(InputError, match="needs code of its own, which is not run"):
        loaded(str(folder))


def test_a_model_without_its_head_is_refused(hf_folder: Folder, tmp_path: Path) -> None:
    """transformers makes up what is missing, and says so in its log alone."""
    loaded(hf_folder("vit")).module.vit.save_pretrained(tmp_path)
    with pytest.raises(InputError, match=r"2 are missing or of another shape \(first: classifier.bias\)"):
        loaded(str(tmp_path))


def test_what_is_not_there_is_said_without_a_word_from_the_network(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="weights=download fetches it from the hub"):
        loaded("nobody/nothing-of-this-name")
    with pytest.raises(InputError, match="could not load hf:"):
        loaded(str(tmp_path))
    with pytest.raises(InputError, match="could not load hf:"):
        loaded(str(tmp_path / "missing"))


def test_names_that_are_placeholders_are_none(hf_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "placeholders"
    shutil.copytree(hf_folder("vit"), folder)
    config = json.loads((folder / "config.json").read_text())
    config["id2label"] = {str(index): f"LABEL_{index}" for index in range(5)}
    config["label2id"] = {f"LABEL_{index}": index for index in range(5)}
    (folder / "config.json").write_text(json.dumps(config))
    assert loaded(str(folder)).class_names is None


def test_without_a_processor_the_size_is_that_of_the_configuration(hf_folder: Folder, tmp_path: Path) -> None:
    folder = tmp_path / "bare"
    shutil.copytree(hf_folder("vit"), folder)
    (folder / "preprocessor_config.json").unlink()
    assert loaded(str(folder)).preprocessing.input_size == (SIZE, SIZE)


def test_random_weights_take_the_number_of_classes_from_the_names(hf_folder: Folder) -> None:
    classifier = loaded(hf_folder("vit"), weights="random", class_names=["a", "b"])
    assert classifier.logits(torch.rand(1, 3, SIZE, SIZE)).shape == (1, 2)


def test_half_precision_stays_as_it_was_saved(hf_folder: Folder, tmp_path: Path) -> None:
    loaded(hf_folder("vit")).module.to(torch.bfloat16).save_pretrained(tmp_path)
    transformers.AutoImageProcessor.from_pretrained(hf_folder("vit")).save_pretrained(tmp_path)
    classifier, made = loaded(str(tmp_path)), pipeline(str(tmp_path))
    assert next(classifier.module.parameters()).dtype == torch.bfloat16 == made.model.dtype
    found = classifier.logits(suffice.load_image("sample:cat", classifier)[None])
    assert found.dtype == torch.float32
    torch.testing.assert_close(found, logits_of(made, read_photo("sample:cat").pixels).float(), atol=0.02, rtol=0.02)


def test_transformers_is_imported_for_its_models_alone() -> None:
    script = "import sys, suffice; suffice.load_classifier(device='cpu'); print('transformers' in sys.modules)"
    ended = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert ended.stdout.strip() == "False"
