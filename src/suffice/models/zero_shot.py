"""CLIP and SigLIP as classifiers: images are compared with one text for each class.

The texts are embedded once; what remains is an image network with a linear layer of fixed weights after it, which can
be looked into like any other.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from suffice.errors import InputError


class ZeroShot(nn.Module):
    """Images to their similarity with texts: the logits that the model itself has for image and text.

    Args:
        model: of transformers, with `get_image_features`, `get_text_features` and `logit_scale`. Its text network is
            not kept.
        tokenizer: its tokenizer.
        prompts: a text for each class.

    Attributes:
        outputs: what the logits mean: of CLIP, which was trained to tell texts apart, `logits` for a softmax; of
            SigLIP, which was trained on each pair of image and text by itself, `labels`, each for a sigmoid of its own.

    Raises:
        InputError: a model of another kind.

    Source: Radford et al. 2021, *Learning Transferable Visual Models From Natural Language Supervision*, section 3.1;
        Zhai et al. 2023, *Sigmoid Loss for Language Image Pre-Training*, equation 1.
    """

    texts: Tensor
    scale: Tensor
    bias: Tensor

    def __init__(self, model: Any, tokenizer: Any, prompts: Sequence[str]) -> None:
        super().__init__()
        kind = str(getattr(model.config, "model_type", type(model).__name__))
        if not all(hasattr(model, name) for name in ("get_image_features", "get_text_features", "logit_scale")):
            raise InputError(f"expected a model with features of images and of texts, such as CLIP; got {kind}")
        self.outputs: Literal["logits", "labels"] = "labels" if "siglip" in kind else "logits"
        # As they were trained: SigLIP's texts are filled up to a fixed length, and read at its end.
        filled = {"padding": "max_length", "max_length": 64, "truncation": True}
        tokens = tokenizer(list(prompts), return_tensors="pt", **(filled if "siglip" in kind else {"padding": True}))
        with torch.no_grad():
            texts = _features(model.get_text_features(**tokens.to(model.device)))
            bias = getattr(model, "logit_bias", None)
            self.register_buffer("texts", texts / texts.norm(dim=-1, keepdim=True))
            self.register_buffer("scale", model.logit_scale.detach().exp().clone())
            self.register_buffer("bias", torch.zeros_like(self.scale) if bias is None else bias.detach().clone())
        for name in ("text_model", "text_projection"):
            if hasattr(model, name):
                delattr(model, name)
        self.model, self.config = model, model.config

    def forward(self, pixel_values: Tensor) -> Tensor:
        """Logits (N, prompts) of normalised images (N, 3, H, W)."""
        images = _features(self.model.get_image_features(pixel_values=pixel_values))
        images = images / images.norm(dim=-1, keepdim=True)
        return images @ self.texts.t() * self.scale + self.bias


def _features(output: Any) -> Tensor:
    """The features (N, C), which transformers returns as they are, or from version 5 on inside of an object."""
    return output if isinstance(output, Tensor) else output.pooler_output
