"""Attention maps of transformers: which places the class token looks at, in the last layer or through all of them.

>>> import torch, timm, suffice
>>> network = timm.create_model("vit_tiny_patch16_224", img_size=64, depth=3, num_classes=10)
>>> classifier = suffice.Classifier(network, input_size=(64, 64))
>>> from suffice.explainers import saliency_maps
>>> maps = saliency_maps(classifier, torch.rand(2, 3, 64, 64), method="attention-rollout")
>>> maps.raw.shape, classifier.forward_passes, classifier.backward_passes
(torch.Size([2, 64, 64]), 2, 0)

| method | a place's value |
|---|---|
| `attention` | attention of the class token to it in the last layer, mean over the heads |
| `attention-rollout` | the same through all layers: the product of (A + I)/2, A the mean over the heads |

Where no class token is read out but the mean over the places (Swin, many ViTs), its row of the attention is replaced by
the mean over the places' rows: the attention that a place receives. Registers are left out. A layer at the end with one
query of its own (class attention in CaiT, attention pooling in SigLIP) is that query's row.

No gradient and no class takes part: the map is the same for every class.

The weights are read while they are made, in every way in which PyTorch has them: scaled_dot_product_attention, which
keeps them to itself, so that they are computed once more from its arguments; nn.MultiheadAttention, which is asked for
them; and a softmax over keys. The model is not changed.

Swin attends within windows. Where one window holds the whole map, as in the last stage at the usual image sizes, that
is the `attention`. A rollout through layers whose windows, or resolutions, differ is not defined, and is an error.

Source: Abnar and Zuidema 2020, *Quantifying Attention Flow in Transformers*, equation 1.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.overrides import TorchFunctionMode

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.explainers.method import RankingSettings
from suffice.explainers.raw_maps import RawMaps, batch_by_batch, own_choice
from suffice.explainers.saliency import map_method
from suffice.features import last_stage, reads_class_token
from suffice.progress import Progress


class AttentionSettings(RankingSettings):
    """Settings of an attention map."""


def last_layer_attention(
    classifier: Classifier, images: Tensor, targets: Tensor, settings: AttentionSettings, progress: Progress
) -> RawMaps:
    """Attention to each place in the last layer."""
    return _maps("attention", classifier, images, targets, progress, last_layer)


def attention_rollout(
    classifier: Classifier, images: Tensor, targets: Tensor, settings: AttentionSettings, progress: Progress
) -> RawMaps:
    """Attention to each place through all layers."""
    return _maps("attention-rollout", classifier, images, targets, progress, rollout)


def last_layer(layers: Sequence[Tensor], places: int, class_token: bool) -> Tensor:
    """Attention to each place, (N, places), in the last layer.

    Args:
        layers: attention weights (N, queries, keys), each row with sum 1; the places are the last keys.
        places: h x w.
        class_token: whether the first token is what the logits are read from.

    >>> weights = torch.tensor([[[0.2, 0.7, 0.1], [0.0, 0.5, 0.5], [0.6, 0.3, 0.1]]])
    >>> last_layer([weights], 2, class_token=True), last_layer([weights], 2, class_token=False)
    (tensor([[0.7000, 0.1000]]), tensor([[0.4000, 0.3000]]))
    """
    return _read(layers[-1], places, class_token)


def rollout(layers: Sequence[Tensor], places: int, class_token: bool) -> Tensor:
    """Attention to each place, (N, places), through all layers.

    Args:
        layers, places, class_token: as of `last_layer`. Layers of one query come last: it attends to the tokens, or to
            itself and the tokens.

    Raises:
        InputError: layers whose tokens are not the same.

    >>> weights = torch.tensor([[[0.2, 0.7, 0.1], [0.0, 0.5, 0.5], [0.6, 0.3, 0.1]]])
    >>> rollout([weights], 2, class_token=True)  # half of it stays where it was
    tensor([[0.3500, 0.0500]])

    Source: Abnar and Zuidema 2020, equation 1, with A = (W + I)/2 for the residual connection.
    """
    count, queries, tokens = layers[0].shape
    flow = torch.eye(tokens, dtype=layers[0].dtype, device=layers[0].device).expand(count, -1, -1)
    read_out = None  # of a query that is none of the tokens, by token
    for weights in layers:
        queries, keys = weights.shape[1:]
        if queries == keys == tokens and read_out is None:
            flow = (weights @ flow + flow) / 2
        elif queries == 1 and keys == tokens:  # a query of the layer's own
            read_out = weights @ flow
        elif queries == 1 and keys == tokens + 1:  # a class token that joins the tokens, which stay as they are
            before = torch.zeros_like(flow[:, :1]) if read_out is None else read_out
            read_out = (weights[:, :, :1] * before + weights[:, :, 1:] @ flow + before) / 2
        else:
            raise InputError(
                f"expected the same tokens in each layer for a rollout; got layers of {_sizes(layers)} (queries x "
                "keys); the method attention reads the last layer alone"
            )
    return _read(flow if read_out is None else read_out, places, class_token)


def _read(weights: Tensor, places: int, class_token: bool) -> Tensor:
    """What the token that is read out attends to, or the mean over the places: (N, places) of (N, queries, keys)."""
    to_places = weights[:, :, weights.shape[2] - places :]
    if weights.shape[1] == 1 or class_token:
        return to_places[:, 0]
    return to_places[:, weights.shape[1] - places :].mean(1)


def _maps(
    method: str,
    classifier: Classifier,
    images: Tensor,
    targets: Tensor,
    progress: Progress,
    read: Callable[[Sequence[Tensor], int, bool], Tensor],
) -> RawMaps:
    stage = last_stage(classifier)
    places = stage.height * stage.width
    class_token = reads_class_token(classifier)

    def one_batch(module: Any, x: Tensor, targets: Tensor) -> tuple[Any, Tensor, Tensor]:
        with AttentionWeights() as attention:
            output = module(x)
        if not attention.layers:
            raise InputError(
                f"the method {method!r} needs a network with attention; in {classifier.name} no softmax over keys was "
                "seen; use grad-cam, or causal"
            )
        layers = [weights for weights in attention.layers if _is_global(weights, len(x), places, stage.prefix_tokens)]
        if not layers or (read is rollout and len(layers) < len(attention.layers)):
            raise InputError(
                f"the method {method!r} needs attention between all of the {places} places of the last map"
                f"{' in each layer' if layers else ''}; {classifier.name} has layers of {_sizes(attention.layers)} "
                f"(queries x keys): windows, or other resolutions; use {'attention or ' if layers else ''}grad-cam"
            )
        # A token before the places that the maps do not have is the query of attention pooling.
        joined = layers[-1].shape[2] - places > stage.prefix_tokens
        values = read(layers, places, class_token or joined)
        return output, own_choice(classifier.read(output), targets), values.unflatten(1, (stage.height, stage.width))

    return batch_by_batch(classifier, images, targets, one_batch, progress)


def _is_global(weights: Tensor, images: int, places: int, prefix: int) -> bool:
    """Whether each image has one row of keys, which are its places and what stands before them."""
    count, queries, keys = weights.shape
    return count == images and queries in (1, keys) and keys - places in (prefix, 0, 1)


class AttentionWeights(TorchFunctionMode):
    """A context that collects the attention weights of what runs inside: `layers`, each (N, queries, keys).

    They are means over the heads, in the order in which they are made. Functions return what they always do.
    """

    def __init__(self) -> None:
        super().__init__()
        self.layers: list[Tensor] = []

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        if func is F.multi_head_attention_forward:
            asked = {"need_weights": True, "average_attn_weights": True}
            output, weights = func(*args, **{**kwargs, **asked})
            assert weights is not None
            self._keep(weights)
            if not kwargs.get("need_weights", True):
                return output, None
            if kwargs.get("average_attn_weights", True):
                return output, weights
            return func(*args, **kwargs)
        output = func(*args, **kwargs)
        if func is F.scaled_dot_product_attention:
            self._keep(dot_product_weights(*args, **kwargs))
        elif func in (F.softmax, torch.softmax, Tensor.softmax) and output.ndim in (3, 4):
            dim = kwargs.get("dim", args[1] if len(args) > 1 else None)
            if dim in (-1, output.ndim - 1):
                self._keep(output)
        return output

    def _keep(self, weights: Tensor) -> None:
        self.layers.append((weights.mean(1) if weights.ndim == 4 else weights).detach().float())


def dot_product_weights(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """softmax(Q Kᵀ scale + mask), (…, queries, keys): what `F.scaled_dot_product_attention` weights values with.

    The arguments are its own. Dropout is left out: in evaluation mode there is none.
    """
    if enable_gqa:
        key = key.repeat_interleave(query.shape[-3] // key.shape[-3], -3)
    scores = query @ key.transpose(-2, -1) * (1 / math.sqrt(query.shape[-1]) if scale is None else scale)
    if is_causal:
        attn_mask = torch.ones(scores.shape[-2:], dtype=torch.bool, device=scores.device).tril()
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        scores = scores.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        scores = scores + attn_mask
    return scores.softmax(-1)


def _sizes(layers: Sequence[Tensor]) -> str:
    return ", ".join(dict.fromkeys(f"{layer.shape[1]} x {layer.shape[2]}" for layer in layers))


ATTENTION = map_method("attention", AttentionSettings, last_layer_attention)
ATTENTION_ROLLOUT = map_method("attention-rollout", AttentionSettings, attention_rollout)
