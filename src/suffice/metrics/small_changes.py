"""Is a part evidence, or an attack? Whether its class stays when its picture is changed a little, or shown to others.

A mask that is learnt through one network's gradients may be a pattern that this network alone takes for the class, at
these very pixels. What is seen in a part should still be seen when the picture of it is moved by one pixel, blurred by
one, or saved as a JPEG file, and by another network. What the whole image does under the same changes stands beside it.

>>> import suffice
>>> class Red(torch.nn.Module):  # class 1 where the red of the image outweighs its blue
...     def forward(self, x):
...         return torch.stack([x[:, 2].mean((1, 2)), x[:, 0].mean((1, 2))], 1) * 20
>>> classifier = suffice.Classifier(Red(), input_size=(16, 16), mean=(0, 0, 0), std=(1, 1, 1))
>>> image, mask = torch.zeros(3, 16, 16), torch.zeros(16, 16, dtype=torch.bool)
>>> image[0], mask[:8, :8] = 1.0, True
>>> found = holds_under(classifier, image, mask, 1, "min")
>>> found["changes"]["shift"], found["forward_passes"]
({'kept': 8, 'of': 8, 'whole': 8, 'of_whole': 8}, 20)
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor
from torch.nn import functional as F

from suffice.classifier import Classifier
from suffice.errors import InputError
from suffice.images.small_changes import changes_of
from suffice.occlusion import AnyOcclusions, make_occlusions
from suffice.outputs import as_tensor


def holds_under(
    classifier: Classifier,
    image: Tensor,
    mask: Tensor | npt.NDArray[np.bool_],
    target: int,
    occlusion: AnyOcclusions = "zero",
    *,
    others: Sequence[Classifier] = (),
) -> dict[str, Any]:
    """How often a part keeps its class when its picture is changed a little, or shown to other networks.

    Args:
        classifier: whose part it is.
        image: (C, H, W) in [0, 1].
        mask: bool (H, W), True = kept.
        target: the class, by its number.
        occlusion: what is painted where the mask is off; of several each makes a picture. What paints nothing, such as
            `deactivate`, makes none.
        others: other networks, which are shown the same picture in their own size; the class is that of the same name.

    Returns:
        `changes`: by the name of each of `changes_of`, in how many pictures the class is `kept`, `of` how many, and the
        same of the `whole` image, `of_whole`. `networks`: the same by the name of each other network.
        `forward_passes`: what it took, of all networks together.

    Raises:
        InputError: no occlusion that paints, a mask of another shape, or a network without a class of that name.
    """
    kept = as_tensor(mask)
    if kept.dtype != torch.bool or kept.shape != image.shape[1:]:
        raise InputError(f"expected a mask as bool {tuple(image.shape[1:])}; got {kept.dtype} {tuple(kept.shape)}")
    painted = [one.background for one in make_occlusions(classifier, occlusion) if one.background is not None]
    if not painted:
        raise InputError(f"expected a fill (zero, mean, robust, …), of which there is a picture; got {occlusion!r}")
    parts = torch.cat([torch.where(kept, image[None], background(image[None])) for background in painted])
    before = classifier.passes.forward
    changes = {
        name: _counted(classifier, change(parts), change(image[None]), target)
        for name, change in changes_of(len(image)).items()
    }
    passes, networks = classifier.passes.forward - before, {}
    for other in others:
        known, before = other.class_index(classifier.class_name(target)), other.passes.forward
        part, whole = (
            _resized(pictures, other.preprocessing.height_and_width("a picture")) for pictures in (parts, image[None])
        )
        networks[other.name] = _counted(other, part, whole, known)
        passes += other.passes.forward - before
    return {"changes": changes, "networks": networks, "forward_passes": passes}


def in_words(found: Mapping[str, Any]) -> str:
    """What `holds_under` found, in a line.

    >>> same = {"kept": 1, "of": 1, "whole": 1, "of_whole": 1}
    >>> lost = {"kept": 3, "of": 8, "whole": 8, "of_whole": 8}
    >>> in_words({"changes": {"shift": lost, "blur": same}, "networks": {"Lite1": {**same, "kept": 0}}})
    'shifts by a pixel 3 of 8 (whole image 8 of 8), blur 1 of 1 (1 of 1), the network Lite1 0 of 1 (1 of 1)'
    """
    names = {"shift": "shifts by a pixel", "blur": "blur", "jpeg": "JPEG"}
    every = {names.get(name, name): one for name, one in found["changes"].items()}
    every |= {f"the network {name}": one for name, one in found["networks"].items()}
    texts: list[str] = []
    for name, one in every.items():
        whole = f"{one['whole']} of {one['of_whole']}"
        texts.append(f"{name} {one['kept']} of {one['of']} ({'' if texts else 'whole image '}{whole})")
    return ", ".join(texts)


def _counted(classifier: Classifier, parts: Tensor, whole: Tensor, target: int) -> dict[str, int]:
    margins = classifier.margins(classifier.logits(torch.cat([parts, whole]).clamp(0, 1)), target) > 0
    of = {"of": len(parts), "of_whole": len(whole)}
    counts = {"kept": int(margins[: len(parts)].sum()), "whole": int(margins[len(parts) :].sum())}
    return {name: (counts | of)[name] for name in ("kept", "of", "whole", "of_whole")}


def _resized(pictures: Tensor, size: tuple[int, int]) -> Tensor:
    if tuple(pictures.shape[2:]) == tuple(size):
        return pictures
    return F.interpolate(pictures, size, mode="bilinear", align_corners=False, antialias=True)
