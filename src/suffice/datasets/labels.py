"""The classes of a data set among those of a model: by name, or as a mapping says.

>>> same_classes(["tabby_cat", "Dog"], ["dog", "tabby cat"])
[1, 0]
>>> same_classes(["n02123045", "a"], ["tench", "tabby"])  # WordNet's number of the tabby
[1, None]
"""

from __future__ import annotations

import functools
import re
from collections.abc import Collection, Mapping, Sequence

import torch
from torch import Tensor

from suffice.class_names import imagenet_1k
from suffice.classifier import Classifier
from suffice.datasets.dataset import ImageDataset
from suffice.errors import InputError, did_you_mean
from suffice.images import Photo

_SHOWN = 3


class Relabelled(ImageDataset):
    """A data set with other labels.

    Args:
        whole: the data set.
        labels: one an image.
        class_names: of the labels.
    """

    def __init__(self, whole: ImageDataset, labels: Sequence[int], class_names: Sequence[str]):
        self.whole, self.labels, self.class_names = whole, list(labels), tuple(class_names)
        self.name, self.left_out, self.other_files = whole.name, whole.left_out, whole.other_files

    def photo(self, index: int) -> Photo:
        """The image of the whole data set."""
        return self.whole.photo(index)

    def mask(self, index: int) -> Tensor | None:
        """The ground truth of the whole data set."""
        return self.whole.mask(index)


def model_classes(
    dataset: str,
    names: Sequence[str],
    used: Collection[int],
    classifier: Classifier,
    given: Mapping[str, int | str] | None = None,
    *,
    same: bool = False,
    remedy: str,
) -> list[int | None]:
    """For each class of a data set the model's class.

    Args:
        dataset: what messages call it.
        names: of its classes.
        used: the labels that occur; other classes may be without one of the model's.
        classifier: the model. One that does not name its classes calls them 0, 1, 2, ….
        given: for names of the data set's classes the model's, by number or name.
        same: whether a model that does not name its classes has those of the data set, in their order.
        remedy: what messages say may be done.

    Raises:
        InputError: a class that occurs and that the model does not have, or has twice; a mapping of unknown names.
    """
    count = count_of_classes(classifier)
    known = classifier.class_names or tuple(map(str, range(count)))
    unnamed = classifier.class_names is None
    if unnamed and same and len(names) == count:
        found: list[int | None] = list(range(count))
    else:
        found = same_classes(names, known)
    for name, target in (given or {}).items():
        if name not in names:
            raise InputError(
                f"expected classes of {dataset} in its mapping to the model's; got {name!r}{did_you_mean(name, names)}"
            )
        found[names.index(name)] = classifier.class_index(target)
    if missing := [names[label] for label in sorted(set(used)) if found[label] is None]:
        shown = ", ".join(map(repr, missing[:_SHOWN]))
        more = f" and {len(missing) - _SHOWN} more" if len(missing) > _SHOWN else ""
        theirs = f"{count} classes without names" if unnamed else f"{count} classes, none or several named so"
        hint = "" if unnamed else did_you_mean(missing[0], known)
        raise InputError(
            f"expected the classes of {dataset} among those of {classifier.name}; got {shown}{more}, and a model of "
            f"{theirs}{hint}: {remedy}"
        )
    return found


def count_of_classes(classifier: Classifier) -> int:
    """How many classes a model has; one that does not say so is asked about black."""
    if classifier.num_classes:
        return classifier.num_classes
    shape = classifier.preprocessing
    return classifier.logits(torch.zeros(1, len(shape.mean), *shape.input_size)).shape[1]


def labelled_for(
    classifier: Classifier,
    dataset: ImageDataset,
    given: Mapping[str, int | str] | None = None,
    *,
    same: bool = False,
    instead: str = "--set labels=predicted takes the model's own choice instead",
) -> ImageDataset:
    """A data set with the model's classes as labels.

    Args:
        classifier: the model.
        dataset: the data set.
        given, same: as of `model_classes`.
        instead: what else may be done where a class is not the model's, for the message.

    Raises:
        InputError: a class that the model does not have.
    """
    used, names = set(dataset.labels), dataset.class_names
    remedy = (
        "--classes FILE says what the model calls its classes, or name the folders so, or --label NAME=CLASS says "
        f"which is meant; {instead}"
    )
    classes = model_classes(dataset.name, names, used, classifier, given, same=same, remedy=remedy)
    labels = [label for each in dataset.labels if (label := classes[each]) is not None]
    return Relabelled(dataset, labels, [classifier.class_name(index) for index in range(classifier.num_classes or 0)])


def same_classes(names: Sequence[str], known: Sequence[str]) -> list[int | None]:
    """For each name the place among the known ones of the one that means the same; None for none, or for several.

    Case, spaces, underscores and hyphens do not count; of a name with commas, as ImageNet's, each part is one;
    WordNet's numbers and ImageNet's synonyms are known. Two lists that mean the same at each place are taken place by
    place.
    """
    for forms in (_forms, _imagenet_forms):
        ours, theirs = [forms(name) for name in names], [forms(name) for name in known]
        if len(ours) == len(theirs) and all(a & b for a, b in zip(ours, theirs, strict=True)):
            return list(range(len(names)))
        places: dict[str, set[int]] = {}
        for place, several in enumerate(theirs):
            for form in several:
                places.setdefault(form, set()).add(place)
        found = [_only(_places(_plain(name), several, places)) for name, several in zip(names, ours, strict=True)]
        if None not in found:
            break
    return found


def _places(whole: str, forms: Collection[str], places: Mapping[str, set[int]]) -> set[int]:
    """Where the whole name is, or else where any of its forms is."""
    return places.get(whole) or set[int]().union(*(places.get(form, ()) for form in forms))


def _only(places: Collection[int]) -> int | None:
    return next(iter(places)) if len(places) == 1 else None


def _plain(name: str) -> str:
    return re.sub(r"[\s_-]+", " ", name).strip().casefold()


def _forms(name: str) -> frozenset[str]:
    return frozenset({_plain(name), *map(_plain, name.split(","))} - {""})


def _imagenet_forms(name: str) -> frozenset[str]:
    """Those of a name, and if one of ImageNet's classes has it, those of this class."""
    forms, synonyms = _forms(name), _imagenet()
    return forms.union(*(synonyms.get(form, ()) for form in forms))


@functools.cache
def _imagenet() -> dict[str, frozenset[str]]:
    """WordNet's numbers and the names of ImageNet's classes -> all of each; without names that two classes share."""
    from timm.data.imagenet_info import ImageNetInfo

    about = ImageNetInfo()
    classes = [
        {_plain(name), synset, *_forms(about.index_to_description(index))}
        for index, (name, synset) in enumerate(zip(imagenet_1k(), about.label_names(), strict=True))
    ]
    holders: dict[str, list[frozenset[str]]] = {}
    for forms in classes:
        for form in forms:
            holders.setdefault(form, []).append(frozenset(forms))
    return {form: several[0] for form, several in holders.items() if len(several) == 1}
