"""Models of transformers, one of each of ten families and SigLIP, as small as they come, with random weights."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn

SIZE = 64
NAMES = ("tabby cat", "Egyptian cat", "cup", "rocket", "person")
PROMPTS = ["a photo of a cat", "a photo of a cup", "a rocket"]
_WORDS = ("a", "photo", "of", "cat", "cup", "rocket")
_SQUASHED = {"size": {"height": SIZE, "width": SIZE}}
_SHORTEST = {"size": {"shortest_edge": SIZE}}
_TRANSFORMER = {
    "image_size": SIZE, "patch_size": 16, "hidden_size": 32, "num_hidden_layers": 3, "num_attention_heads": 4,
    "intermediate_size": 48,
}  # fmt: skip
_STAGES = {"hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 2]}

# Class of the model, the configuration, and the class of the processor with its settings.
_MADE: dict[str, tuple[str, dict[str, Any], str, dict[str, Any]]] = {
    "vit": ("ViT", _TRANSFORMER, "ViT", _SQUASHED),
    "deit": (
        "DeiT", _TRANSFORMER, "DeiT",
        {"size": {"height": 72, "width": 72}, "crop_size": {"height": SIZE, "width": SIZE}},
    ),
    "swin": (
        "Swin",
        {"image_size": SIZE, "patch_size": 4, "embed_dim": 8, "depths": [1, 1, 2], "num_heads": [1, 2, 4],
         "window_size": 4},
        "ViT", _SQUASHED,
    ),
    "convnext": ("ConvNext", {"image_size": SIZE, **_STAGES}, "ConvNext", _SHORTEST),
    "resnet": ("ResNet", {"embedding_size": 8, "layer_type": "basic", **_STAGES}, "ConvNext", _SHORTEST),
    "mobilenet_v2": (
        "MobileNetV2", {"image_size": SIZE, "depth_multiplier": 0.25}, "MobileNetV2",
        {"size": {"shortest_edge": 72}, "crop_size": {"height": SIZE, "width": SIZE}},
    ),
    "beit": ("Beit", {**_TRANSFORMER, "out_indices": [1, 2, 3]}, "Beit", _SQUASHED),
    "efficientnet": (
        "EfficientNet",
        {"image_size": SIZE, "width_coefficient": 0.25, "depth_coefficient": 0.3, "hidden_dim": 320},
        "EfficientNet", _SQUASHED,
    ),
    "pvt": (
        "Pvt",
        {"image_size": SIZE, "hidden_sizes": [8, 12, 16, 24], "depths": [1, 1, 1, 2],
         "num_attention_heads": [1, 2, 4, 4], "mlp_ratios": [2, 2, 2, 2]},
        "Pvt", _SQUASHED,
    ),
}  # fmt: skip
CLASSIFIERS = tuple(_MADE)


def save(name: str, folder: Path) -> None:
    """Write one of `CLASSIFIERS`, `clip` or `siglip` into a folder, with its processor."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if name in ("clip", "siglip"):
            _save_zero_shot(name, folder)
            return
        family, settings, processor, options = _MADE[name]
        labels = dict(enumerate(NAMES))
        config = getattr(transformers, f"{family}Config")(
            **settings,
            num_labels=len(labels),
            id2label=labels,
            label2id={label: index for index, label in labels.items()},
        )
        model = _randomised(lambda: getattr(transformers, f"{family}ForImageClassification")(config))
        model.save_pretrained(folder)
        getattr(transformers, f"{processor}ImageProcessor")(**options).save_pretrained(folder)


def _save_zero_shot(name: str, folder: Path) -> None:
    text = {
        "hidden_size": 16, "intermediate_size": 24, "num_hidden_layers": 2, "num_attention_heads": 2,
        "vocab_size": len(_WORDS) + 3, "max_position_embeddings": 64, "bos_token_id": 0, "eos_token_id": 1,
        "pad_token_id": 1,
    }  # fmt: skip
    vision = {**_TRANSFORMER, "projection_dim": 16}
    if name == "clip":
        config = transformers.CLIPConfig(text_config=text, vision_config=vision, projection_dim=16)
        model = _randomised(lambda: transformers.CLIPModel(config))
        processor = transformers.CLIPImageProcessor(
            size={"shortest_edge": SIZE}, crop_size={"height": SIZE, "width": SIZE}
        )
    else:
        text |= {"hidden_size": 32, "num_attention_heads": 4}
        config = transformers.SiglipConfig(text_config=text, vision_config=vision)
        model = _randomised(lambda: transformers.SiglipModel(config))
        processor = transformers.SiglipImageProcessor(**_SQUASHED)
    model.save_pretrained(folder)
    processor.save_pretrained(folder)
    _tokenizer().save_pretrained(folder)


def _tokenizer() -> Any:
    """Words by number, with a beginning and an end, which is also the padding, as CLIP's."""
    from tokenizers import Tokenizer, models, pre_tokenizers, processors

    words = {"<s>": 0, "</s>": 1, "?": 2, **{word: index + 3 for index, word in enumerate(_WORDS)}}
    tokenizer = Tokenizer(models.WordLevel(words, unk_token="?"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 0), ("</s>", 1)]
    )
    return transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, bos_token="<s>", eos_token="</s>", pad_token="</s>", unk_token="?",
        model_max_length=64,
    )  # fmt: skip


def _randomised(build: Callable[[], Any]) -> Any:
    """Weights that hide nothing: norms that do something, attention that is not uniform, logits that differ."""
    with torch.random.fork_rng(devices=[]), torch.no_grad():
        torch.manual_seed(0)
        model: nn.Module = build()
        for name, tensor in [*model.named_buffers(), *model.named_parameters()]:
            if "running" in name or not tensor.is_floating_point() or tensor.ndim == 0:
                continue
            if tensor.ndim == 1 and not tensor.any():
                tensor.normal_(0, 0.2)
            elif tensor.ndim == 1:
                tensor.add_(torch.randn_like(tensor) * 0.1)
            elif tensor.ndim >= 2:
                fan = tensor[0].numel()
                tensor.normal_(0, (2.0 if tensor.ndim == 2 else 1.4) / fan**0.5)
        _settle(model.eval())
        return model


def _settle(model: nn.Module) -> None:
    """Batch norms take their statistics from images; others would let a last bit grow through a deep network."""
    norms = [module for module in model.modules() if isinstance(module, nn.BatchNorm2d)]
    if not norms:
        return
    for norm in norms:
        norm.train()
        norm.momentum = 1.0
    coarse = torch.rand(16, 3, 8, 8) * 2 - 1
    images = nn.functional.interpolate(coarse, (SIZE, SIZE), mode="bicubic") + torch.randn(16, 3, SIZE, SIZE) * 0.2
    model(images)
    for norm in norms:
        norm.eval()
        norm.momentum = 0.1
        assert norm.running_var is not None
        norm.running_var.mul_(1.5)
