"""Where a network has spatial activations, found without being told: layer names, layouts, reshape functions.

>>> import torch, suffice
>>> from torch import nn
>>> network = nn.Sequential(nn.Conv2d(3, 4, 3, padding=1), nn.ReLU(), nn.MaxPool2d(2), nn.Conv2d(4, 8, 3, padding=1),
...                         nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 5))
>>> classifier = suffice.Classifier(network, input_size=(32, 32))
>>> for stage in spatial_stages(classifier):
...     print(stage.name, stage.channels, stage.height, stage.width, stage.layout)
1 4 32 32 channels-first
4 8 16 16 channels-first
>>> with record(classifier, [last_stage(classifier)]) as activations:
...     _ = classifier.logits(torch.rand(2, 3, 32, 32))
>>> last_stage(classifier).maps(activations["4"]).shape
torch.Size([2, 8, 16, 16])

A probe, two images of noise, goes through the network, and what each module returns is looked at:

| layout | shape | networks |
|---|---|---|
| `channels-first` | (N, C, h, w) | convolutional networks |
| `channels-last` | (N, h, w, C) | Swin, and others that end a block with a linear layer |
| `tokens` | (N, prefix + h·w, C) | ViT; the class token and registers are the prefix |

The probe says something of the network and not of an image, so it is not counted in `Classifier.forward_passes`; it is
made once for a classifier. What no module returns (the result of a bare function in `forward`) cannot be seen. Tokens
are taken to lie row by row: the early stages of Hiera, which keeps them in another order, come out shuffled.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import math
import weakref
from collections.abc import Callable, Container, Iterator, Mapping, Sequence
from typing import Any, Literal

import torch
from torch import Tensor, nn

from suffice.classifier import Classifier
from suffice.errors import InputError, did_you_mean

Layout = Literal["channels-first", "channels-last", "tokens"]
Path = tuple[Any, ...]
"""Indices and keys that lead to a tensor in what a module returns; () where it returns the tensor itself."""

# Class token, distillation token and registers together: 5 are usual.
_MOST_PREFIX_TOKENS = 32
_MOST_UNSEEN_PREFIX_TOKENS = 5
# Depths of a network of one resolution that are given as stages.
_DEPTHS = 4
# What these return is nobody's feature: the input again, attention weights, or a map resized to fit a linear layer.
_NO_FEATURES = (
    nn.Identity,
    nn.Flatten,
    nn.Unflatten,
    nn.Softmax,
    nn.modules.dropout._DropoutNd,
    nn.modules.pooling._AdaptiveAvgPoolNd,
    nn.modules.pooling._AdaptiveMaxPoolNd,
)


@dataclasses.dataclass(frozen=True, eq=False)
class Stage:
    """A module that returns a spatial activation.

    Attributes:
        name: of the module, as `named_modules` gives it; empty for the network itself.
        module: the module.
        channels, height, width: of its maps.
        layout: how they lie in what it returns.
        prefix_tokens: tokens that stand before those of the patches; 0 for other layouts.
        call: which of the module's calls in one forward pass is meant, from 0; a module can be used several times.
        path: where the tensor is in what the module returns, as indices and keys.
    """

    name: str
    module: nn.Module
    channels: int
    height: int
    width: int
    layout: Layout
    prefix_tokens: int = 0
    call: int = 0
    path: Path = ()

    def maps(self, activation: Tensor) -> Tensor:
        """(N, C, h, w) from an activation of this stage, or from the gradient of one, in its own layout.

        Raises:
            InputError: a tensor of another shape.

        >>> stage = Stage("blocks.0", nn.Identity(), channels=2, height=1, width=3, layout="tokens", prefix_tokens=1)
        >>> stage.maps(torch.tensor([[[9.0, 9.0], [1.0, 4.0], [2.0, 5.0], [3.0, 6.0]]]))
        tensor([[[[1., 2., 3.]],
                 [[4., 5., 6.]]]])
        """
        if tuple(activation.shape[1:]) != self.shape:
            raise InputError(
                f"expected an activation (N, {', '.join(map(str, self.shape))}) of {self.name or 'the network'}; "
                f"got {tuple(activation.shape)}"
            )
        if self.layout == "channels-first":
            return activation
        if self.layout == "channels-last":
            return activation.permute(0, 3, 1, 2)
        return activation[:, self.prefix_tokens :].transpose(1, 2).unflatten(2, (self.height, self.width))

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape of an activation of one image, in the stage's own layout."""
        if self.layout == "tokens":
            return self.prefix_tokens + self.height * self.width, self.channels
        grid = self.height, self.width
        return (self.channels, *grid) if self.layout == "channels-first" else (*grid, self.channels)


@dataclasses.dataclass(frozen=True)
class _Seen:
    """What a module returned in one of its calls, in the order in which calls end."""

    name: str
    module: nn.Module
    call: int
    path: Path
    shape: tuple[int, ...]  # of one image


@dataclasses.dataclass(frozen=True)
class _Found:
    """All spatial activations of a classifier's module, and the ones chosen among them."""

    module: nn.Module
    calls: tuple[Stage, ...]  # in the order in which calls end
    stages: tuple[Stage, ...]
    last: Stage
    class_token: bool


_FOUND: weakref.WeakKeyDictionary[Classifier, _Found] = weakref.WeakKeyDictionary()


def spatial_stages(classifier: Classifier) -> list[Stage]:
    """The network's spatial activations from fine to coarse: for each resolution the last module that returns it.

    What lies inside of a block that goes on to a coarser resolution is left out: of ResNet the stages are `relu` and
    `layer1` to `layer4`.

    A network of one resolution (ViT, MLP-Mixer, ConvMixer) gives up to four of its blocks, evenly spaced in depth, the
    last one among them.

    Raises:
        InputError: a black box, or a network in which no module returns a spatial activation.
    """
    return list(_found(classifier).stages)


def last_stage(classifier: Classifier) -> Stage:
    """The last spatial activation that the logits are a function of: where class activation maps are read.

    It is the last of `spatial_stages`, or what comes after it at the same resolution (a final norm). Where a class
    token is read out, nothing that the last block returns for the patches has any effect, so it is then the first
    module of the last block, its norm: the customary place. A second probe decides: NaN in a stage that has an effect
    reaches the logits.

    Raises:
        InputError: as `spatial_stages`.
    """
    return _found(classifier).last


def named_stage(classifier: Classifier, name: str) -> Stage:
    """The spatial activation of a module by its name, of its last call.

    Raises:
        InputError: a module that does not return one, or as `spatial_stages`.
    """
    named = {stage.name: stage for stage in _found(classifier).calls}
    if name not in named:
        known = ", ".join(stage.name for stage in spatial_stages(classifier))
        raise InputError(
            f"expected a module of {classifier.name} that returns a spatial activation, such as {known}; "
            f"got {name!r}{did_you_mean(name, named)}"
        )
    return named[name]


def reads_class_token(classifier: Classifier) -> bool:
    """Whether the logits are read from tokens that stand before those of the patches, and from no patch itself.

    Raises:
        InputError: as `spatial_stages`.
    """
    return _found(classifier).class_token


@contextlib.contextmanager
def record(classifier: Classifier, stages: Sequence[Stage], *, gradients: bool = False) -> Iterator[dict[str, Tensor]]:
    """A dictionary that holds the activations of `stages`, by name, after each forward pass of the classifier's module.

    Each is the module's own tensor, in the stage's layout; `Stage.maps` brings it to (N, C, h, w). The network goes on
    with a copy, so a later operation in place cannot change what was recorded. The hooks are removed at the end
    whatever happens.

    Args:
        classifier: whose module is run inside of the context, in any way.
        stages: of this classifier.
        gradients: False gives activations that no gradient flows through; True leaves them in the graph, so that a
            loss on them reaches whatever they depend on, and `torch.autograd.grad(loss, activation)` works. Where
            nothing before an activation requires a gradient (a frozen network), the graph starts there, and costs
            only what comes after it. Grad mode must be on then.
    """
    root = classifier.require_module("recording activations")
    activations: dict[str, Tensor] = {}
    calls: dict[str, int] = {}
    handles: list[Any] = []

    def start(module: nn.Module, args: Any) -> None:
        activations.clear()
        calls.clear()

    def hook_of(stage: Stage) -> Any:
        def hook(module: nn.Module, args: Any, output: Any) -> Any:
            call = calls.get(stage.name, 0)
            calls[stage.name] = call + 1
            if call != stage.call:
                return None
            tensor = _at(output, stage.path)
            if not gradients:
                activations[stage.name] = tensor.detach().clone()
                return None
            if not tensor.requires_grad:
                tensor = tensor.detach().requires_grad_()
            activations[stage.name] = tensor
            with torch.enable_grad():  # also where the network runs this part without gradients
                return _replaced(output, stage.path, tensor.clone())

        return hook

    try:
        handles.append(root.register_forward_pre_hook(start))
        handles += [stage.module.register_forward_hook(hook_of(stage)) for stage in stages]
        yield activations
    finally:
        for handle in handles:
            handle.remove()


def _found(classifier: Classifier) -> _Found:
    known = _FOUND.get(classifier)
    if known is not None and known.module is classifier.module:
        names = dict(known.module.named_modules())
        if all(names.get(stage.name) is stage.module for stage in (*known.stages, known.last)):
            return known
    module = classifier.require_module("finding spatial activations")
    seen = _probe(classifier, module)
    calls = _spatial(seen, classifier.preprocessing.input_size, len(classifier.preprocessing.mean))
    if not calls:
        shapes = ", ".join(dict.fromkeys(str(("N", *s.shape)).replace("'", "") for s in seen[-6:]))
        raise InputError(
            f"expected a network with spatial activations, a module that returns (N, C, h, w), (N, h, w, C) or tokens "
            f"(N, h·w, C); in {classifier.name} no module does: the last ones return {shapes or 'no tensor'}"
        )
    stages = _chosen(calls)
    last, at_the_end = _last(classifier, calls, stages)
    class_token = last.prefix_tokens > 0 and not at_the_end
    _FOUND[classifier] = _Found(module, tuple(calls), tuple(stages), last, class_token)
    return _FOUND[classifier]


def _probe(classifier: Classifier, module: nn.Module) -> list[_Seen]:
    """What every module returns in one forward pass, in the order in which calls end."""
    seen: list[_Seen] = []
    calls: dict[str, int] = {}
    rows = 0
    handles: list[Any] = []

    def start(root: nn.Module, args: Any) -> None:
        nonlocal rows
        rows = len(args[0])
        seen.clear()
        calls.clear()

    def hook_of(name: str) -> Any:
        def hook(submodule: nn.Module, args: Any, output: Any) -> None:
            call = calls.get(name, 0)
            calls[name] = call + 1
            for path, tensor in _tensors(output):
                # What has no row for each image does not come from the images: a table of positions, windows.
                if tensor.ndim >= 1 and len(tensor) == rows:
                    seen.append(_Seen(name, submodule, call, path, tuple(tensor.shape[1:])))

        return hook

    try:
        handles.append(module.register_forward_pre_hook(start))
        for name, submodule in module.named_modules():
            handles.append(submodule.register_forward_hook(hook_of(name)))
        _pass(classifier, lambda module, images: module(classifier.normalise(images)))
    finally:
        for handle in handles:
            handle.remove()
    return seen


def _pass(classifier: Classifier, forward: Callable[[Any, Tensor], Any]) -> None:
    """Two images of noise through the network, not counted."""
    rows = 1 if classifier.batch_size == 1 else 2
    size = (rows, len(classifier.preprocessing.mean), *classifier.preprocessing.input_size)
    noise = torch.rand(size, generator=torch.Generator().manual_seed(0))
    before = classifier.forward_passes
    try:
        classifier.batched(forward, noise, batch_size=rows)
    finally:
        classifier.forward_passes = before


def _spatial(seen: Sequence[_Seen], size: tuple[int, int], input_channels: int) -> list[Stage]:
    """The calls that return a spatial activation, in order."""
    # Networks that have one clear layout tell what it is where channels and side are equal.
    clear = [kind[0] for s in seen if len(s.shape) == 3 and len(kind := _layouts(s.shape, size)) == 1]
    usual = max(clear, key=clear.count, default="channels-first")
    grids: list[tuple[int, int, int]] = []
    stages = []
    for s in seen:
        if isinstance(s.module, _NO_FEATURES):
            continue
        layout: Layout
        prefix = 0
        if len(s.shape) == 3 and (possible := _layouts(s.shape, size)):
            layout = usual if usual in possible else possible[0]
            channels, height, width = s.shape if layout == "channels-first" else (s.shape[2], *s.shape[:2])
            grids.append((height, width, channels))
        elif len(s.shape) == 2 and (grid := _grid_of(s.shape[0], s.shape[1], size, grids)):
            layout, channels, (height, width) = "tokens", s.shape[1], grid
            prefix = s.shape[0] - height * width
        else:
            continue
        if (channels, height, width) != (input_channels, *size):  # else it is the image, normalised
            stages.append(Stage(s.name, s.module, channels, height, width, layout, prefix, s.call, s.path))
    return _outside_of_coarser_blocks(stages)


def _layouts(shape: tuple[int, ...], size: tuple[int, int]) -> list[Layout]:
    """Which layouts an activation of three dimensions can have: its maps are shaped like the image, and not larger.

    >>> _layouts((64, 56, 56), (224, 224)), _layouts((7, 7, 768), (224, 224)), _layouts((512, 1, 1), (224, 224))
    (['channels-first'], ['channels-last'], [])
    """
    possible: list[Layout] = []
    if _is_grid(shape[1], shape[2], size):
        possible.append("channels-first")
    if _is_grid(shape[0], shape[1], size):
        possible.append("channels-last")
    return possible


def _is_grid(height: int, width: int, size: tuple[int, int]) -> bool:
    """Whether maps of this size can be those of an image of `size`: more than one cell, the same proportions."""
    if height * width < 2 or height > size[0] or width > size[1]:
        return False
    if size[0] == size[1]:
        return height == width
    # A convolution without padding takes as many rows as columns, so that proportions change by a few cells.
    stride = math.sqrt(size[0] * size[1] / (height * width))
    return abs(size[0] / stride - height) <= 1.5 and abs(size[1] / stride - width) <= 1.5


def _grid_of(
    tokens: int, channels: int, size: tuple[int, int], seen: Sequence[tuple[int, int, int]]
) -> tuple[int, int] | None:
    """Rows and columns of the patches among so many tokens, or None.

    Args:
        tokens, channels: of the activation.
        size: of the image.
        seen: height, width and channels of the maps before it. Tokens with a prefix are the maps of one of them,
            flattened, where there are any.

    >>> _grid_of(197, 192, (224, 224), []), _grid_of(9, 8, (32, 32), [(2, 2, 8)])
    ((14, 14), (2, 2))
    """
    flattened = [
        (height, width)
        for height, width, c in seen
        if 0 <= (prefix := tokens - height * width) <= _MOST_PREFIX_TOKENS and (prefix == 0 or c == channels)
    ]
    if flattened:
        return max(flattened, key=math.prod)
    for prefix in range(1 if seen else _MOST_UNSEEN_PREFIX_TOKENS + 1):
        patches = tokens - prefix
        height = max(1, round(math.sqrt(max(0, patches) * size[0] / size[1])))
        if patches % height == 0 and _is_grid(height, patches // height, size):
            return height, patches // height
    return None


def _outside_of_coarser_blocks(calls: Sequence[Stage]) -> list[Stage]:
    """Without what is inside of a block that ends at another resolution than this: the first half of one that strides.

    Of the modules that return maps, a row of stages is one whose children end at several resolutions, and a block one
    whose children all end at its own; or, in a row of stages, at its own and one finer (unless a resolution would have
    nothing left by that).
    """
    ends = {stage.name: (stage.height, stage.width) for stage in calls}
    children: dict[str, set[tuple[int, int]]] = {}
    for name, resolution in ends.items():
        children.setdefault(_around(name, ends), set()).add(resolution)
    blocks = {name for name, inside in children.items() if name and inside == {ends[name]}}
    striding = {
        name
        for name, inside in children.items()
        if name and len(inside | {ends[name]}) == 2 and len(children[_around(name, ends)]) > 1
    }

    def outside(blocks: Container[str], stages: Sequence[Stage]) -> list[Stage]:
        return [
            stage
            for stage in stages
            if all(a not in blocks or ends[a] == (stage.height, stage.width) for a in _ancestors(stage.name))
        ]

    apart = outside(blocks, calls)
    kept = outside(striding, apart)
    left = {(stage.height, stage.width) for stage in kept}
    return [stage for stage in apart if stage in kept or (stage.height, stage.width) not in left]


def _around(name: str, called: Container[str]) -> str:
    """The nearest module around one that was called (a ModuleList is not); the network itself is empty."""
    return next((above for above in _ancestors(name) if above in called), "")


def _ancestors(name: str) -> list[str]:
    """Names of the modules around one, the nearest first.

    >>> _ancestors("layer1.0.conv1")
    ['layer1.0', 'layer1']
    """
    parts = name.split(".")
    return [".".join(parts[:count]) for count in range(len(parts) - 1, 0, -1)]


def _chosen(calls: Sequence[Stage]) -> list[Stage]:
    """One stage for each resolution, or several blocks of the only one."""
    last: dict[tuple[int, int], Stage] = {}
    for stage in calls:
        last[stage.height, stage.width] = stage
    if len(last) > 1:
        return sorted(last.values(), key=lambda stage: -stage.height * stage.width)
    blocks = _blocks(calls)
    if len(blocks) < 2:
        return list(last.values())
    count = min(_DEPTHS, len(blocks))
    return [blocks[round((index + 1) * len(blocks) / count) - 1] for index in range(count)]


def _blocks(calls: Sequence[Stage]) -> list[Stage]:
    """The longest row of sibling modules of one class, each by its last call."""
    rows: dict[tuple[str, type], dict[str, Stage]] = {}
    for stage in calls:
        rows.setdefault((stage.name.rpartition(".")[0], type(stage.module)), {})[stage.name] = stage
    # Of rows of one length the one that ends last is the outermost.
    return list(max(reversed(rows.values()), key=len).values())


def _last(classifier: Classifier, calls: Sequence[Stage], stages: Sequence[Stage]) -> tuple[Stage, bool]:
    """The last stage that has an effect, and whether it is the last of all."""
    resolution = stages[-1].height, stages[-1].width
    here = [stage for stage in calls if (stage.height, stage.width) == resolution]
    candidates = [here[-1]]
    if here[-1].layout == "tokens":
        blocks = _blocks(here)
        # The stream from block to block, and not a wider or narrower layer that reads it.
        stream = [stage for stage in here if stage.channels == blocks[-1].channels]
        inside = [stage for stage in stream if stage.name.startswith(f"{blocks[-1].name}.")]
        candidates = [stream[-1], blocks[-1], *inside[:1], *reversed(blocks[:-1])]
    last = next((stage for stage in candidates if _has_effect(classifier, stage)), candidates[0])
    return last, last is candidates[0]


def _has_effect(classifier: Classifier, stage: Stage) -> bool:
    """Whether the logits are a function of what a stage returns for the places of the image.

    NaN there becomes NaN in the logits, also where a weight on the way is zero, which would stop a gradient.
    """
    effect = False
    calls = 0

    def spoil(module: nn.Module, args: Any, output: Any) -> Any:
        nonlocal calls
        calls += 1
        if calls != stage.call + 1:
            return None
        spoilt = _at(output, stage.path).clone()
        stage.maps(spoilt).fill_(torch.nan)
        return _replaced(output, stage.path, spoilt)

    def forward(module: Any, images: Tensor) -> Any:
        nonlocal effect
        output = module(classifier.normalise(images))
        for path, tensor in list(_tensors(output)):
            effect = effect or bool(tensor.isnan().any())
            output = _replaced(output, path, tensor.nan_to_num())
        return output

    handle = stage.module.register_forward_hook(spoil)
    try:
        _pass(classifier, forward)
    finally:
        handle.remove()
    return effect


@contextlib.contextmanager
def frozen(module: nn.Module) -> Iterator[None]:
    """No parameter of the module asks for a gradient; afterwards those do that did."""
    asking = [p for p in module.parameters() if p.requires_grad]
    try:
        for parameter in asking:
            parameter.requires_grad_(False)
        yield
    finally:
        for parameter in asking:
            parameter.requires_grad_(True)


def _tensors(output: Any, path: Path = ()) -> Iterator[tuple[Path, Tensor]]:
    """Every tensor in what a module returns, with where it is."""
    if isinstance(output, Tensor):
        yield path, output
    elif isinstance(output, Mapping):
        for key, value in output.items():
            yield from _tensors(value, (*path, key))
    elif isinstance(output, (tuple, list)):
        for index, value in enumerate(output):
            yield from _tensors(value, (*path, index))


def _at(output: Any, path: Path) -> Tensor:
    for key in path:
        output = output[key]
    return output


def _replaced(output: Any, path: Path, tensor: Tensor) -> Any:
    """What a module returned, with another tensor in one place."""
    if not path:
        return tensor
    inner = _replaced(output[path[0]], path[1:], tensor)
    if isinstance(output, tuple):
        values = [inner if index == path[0] else value for index, value in enumerate(output)]
        return type(output)._make(values) if hasattr(output, "_make") else tuple(values)
    changed = copy.copy(output)
    changed[path[0]] = inner
    return changed
