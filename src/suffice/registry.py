"""Registries of methods, metrics, occlusions, models and data sets: names to objects, also of installed packages.

>>> list(METHODS)[:2], "causal" in METHODS  # no method is imported for this
(['causal', 'lime'], True)
>>> METHODS["causal"].name  # now one is
'causal'

A package adds to a registry by an entry point in its `pyproject.toml`, and is found as soon as it is installed:

    [project.entry-points."suffice.methods"]
    my-method = "my_package:MY_METHOD"

Names and what is said of them come from a table and from the metadata of what is installed: nothing is imported before
an object is asked for, so that the command line's help is made from the registries at once. `CONTRIBUTING.md` shows one
plug-in of each kind.
"""

from __future__ import annotations

import functools
import importlib
import warnings
from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar

from suffice.errors import InputError, did_you_mean, reason

if TYPE_CHECKING:
    from collections.abc import Callable
    from importlib.metadata import EntryPoint

    from suffice.datasets.dataset import DatasetSource
    from suffice.explainers.method import Method
    from suffice.metrics.metric import Metric
    from suffice.models.source import Source
    from suffice.occlusion.kinds import OcclusionKind

T = TypeVar("T")


class BuiltIn(NamedTuple):
    """An object of this package, before it is imported.

    Attributes:
        where: it is, as `module:attribute`.
        summary: what it is, in one line.
        value: what stands after its name and a colon, in capitals.
    """

    where: str
    summary: str = ""
    value: str = ""


class Registry(Mapping[str, T]):
    """Objects by name: built-in ones, those of installed packages, and those that this process has added.

    >>> fruit = Registry("fruit", "suffice.fruit", "builtins:float", {"pi": BuiltIn("math:pi", "round")})
    >>> fruit["pi"], fruit.find("pi") == fruit.find(3.141592653589793), fruit.summaries()
    (3.141592653589793, True, {'pi': 'round'})
    >>> fruit.find("pie")
    Traceback (most recent call last):
    suffice.errors.InputError: unknown fruit 'pie' (did you mean pi?); expected pi

    Iterating gives the names: the built-in ones in their order, then those of packages in that of the alphabet, then
    what was added.

    Args:
        kind: what the objects are, in words.
        group: of the entry points by which packages add to it.
        type: what an object has to be an instance of, as `module:attribute`.
        builtin: by name, `module:attribute` or a `BuiltIn`.
        value: what stands after every name and a colon, in capitals.
    """

    def __init__(
        self, kind: str, group: str, type: str, builtin: Mapping[str, str | BuiltIn], *, value: str = ""
    ) -> None:
        self.kind, self.group = kind, group
        self._type, self._value = type, value
        self._builtin = {name: BuiltIn(it) if isinstance(it, str) else it for name, it in builtin.items()}
        self._loaded: dict[str, T] = {}
        self._added: dict[str, T] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(dict.fromkeys([*self._builtin, *self._outside, *self._added]))

    def __len__(self) -> int:
        return len(list(iter(self)))

    def __contains__(self, name: object) -> bool:
        return name in self._builtin or name in self._added or name in self._outside

    def __getitem__(self, name: str) -> T:
        """The object of a name.

        Raises:
            KeyError: an unknown name.
            InputError: an object of a package that cannot be imported, or is not what it has to be.
        """
        if name in self._added:
            return self._added[name]
        if name not in self._loaded:
            if name in self._builtin:
                self._loaded[name] = _imported(self._builtin[name].where)
            else:
                self._loaded[name] = self._from_outside(name, self._outside[name])
        return self._loaded[name]

    def find(self, name: str | T) -> T:
        """The object of a name; an object is returned as it is.

        Raises:
            InputError: an unknown name, something that is neither a name nor an object of this kind, or an object of a
                package that cannot be imported, or is not what it has to be.
        """
        if not isinstance(name, str):
            if self._wrong(name) is not None:
                wanted = self._type.replace(":", ".")
                raise InputError(f"expected the name of a {self.kind}, or a {wanted}; got {type(name).__name__}")
            return name
        if name not in self:
            raise self.unknown(name)
        return self[name]

    def unknown(self, name: str) -> InputError:
        """The error to raise for an unknown name."""
        near = did_you_mean(name.partition(":")[0], self)
        return InputError(f"unknown {self.kind} {name!r}{near}; expected {', '.join(self.usages())}")

    @property
    def builtin(self) -> tuple[str, ...]:
        """The names of this package's own objects."""
        return tuple(self._builtin)

    def usages(self) -> list[str]:
        """How each name is written, with what stands after a colon, such as `colour:NAME`."""
        values = {name: it.value for name, it in self._builtin.items() if it.value}
        written = {name: values.get(name, self._value) for name in self}
        return [f"{name}:{value}" if value else name for name, value in written.items()]

    def add(self, name: str, object: T) -> None:
        """Give an object a name in this process, as a package does for every process: in a notebook, or in a test.

        A name that was added before is given to the new object.

        Raises:
            InputError: the name of a built-in object or of an installed package's, or something of another kind.
        """
        if name in self._builtin or name in self._outside:
            raise InputError(f"expected a name for a {self.kind} that is not taken; got {name!r}")
        if (wrong := self._wrong(object, name)) is not None:
            raise InputError(f"cannot add the {self.kind} {name!r}: {wrong}")
        self._added[name] = object

    def summaries(self) -> dict[str, str]:
        """What there is to say of each name in one line, without importing anything; of a package's, where it is from.

        It is empty for what this process has added.
        """
        return {
            name: self._builtin[name].summary if name in self._builtin else _origin(self._outside.get(name, ()))
            for name in self
        }

    def package(self, name: str) -> tuple[str, str] | None:
        """The name and version of the package that a name is of; None for this one, and where nobody knows."""
        points = () if name in self._builtin else self._outside.get(name, ())
        return next(((point.dist.name, point.dist.version) for point in points if point.dist is not None), None)

    @functools.cached_property
    def _outside(self) -> dict[str, tuple[EntryPoint, ...]]:
        """The entry points of installed packages by name; more than one where packages want the same name."""
        from importlib.metadata import entry_points  # takes as long to import as all else here

        found: dict[str, tuple[EntryPoint, ...]] = {}
        for point in sorted(entry_points(group=self.group), key=lambda point: (point.name, _package(point))):
            if point.name in self._builtin:
                warnings.warn(
                    f"{_package(point)} has a {self.kind} {point.name!r}, which suffice has itself: that of suffice is "
                    "taken, and the other cannot be reached by its name",
                    stacklevel=1,  # who looks first has nothing to do with it
                )
            else:
                found[point.name] = (*found.get(point.name, ()), point)
        return found

    def _from_outside(self, name: str, points: tuple[EntryPoint, ...]) -> T:
        if len(points) > 1:
            several = " and ".join(map(_package, points))
            raise InputError(f"expected one {self.kind} {name!r}; got one each from {several}")
        (point,) = points
        what = f"cannot use the {self.kind} {name!r} of {_package(point)} ({point.value})"
        try:
            object = point.load()
        except Exception as error:  # a package's own code can raise anything while it is imported
            raise InputError(f"{what}: {type(error).__name__}: {reason(error)}") from error
        if (wrong := self._wrong(object, name)) is not None:
            raise InputError(f"{what}: {wrong}")
        return object

    def _wrong(self, object: Any, name: str | None = None) -> str | None:
        """Why an object is not one of this kind, or does not go by a name; None where it is."""
        wanted = _imported(self._type)
        if not isinstance(object, wanted):
            return f"expected a {self._type.replace(':', '.')}; got {type(object).__name__}"
        if name is not None and (own := getattr(object, "name", name)) != name:
            return f"expected an object of that name; it calls itself {own!r}"
        return None


def _imported(where: str) -> Any:
    module, _, attribute = where.partition(":")
    return getattr(importlib.import_module(module), attribute)


def _package(point: EntryPoint) -> str:
    return "an unknown package" if point.dist is None else f"the package {point.dist.name} {point.dist.version}"


def _origin(points: tuple[EntryPoint, ...]) -> str:
    return " and ".join(f"from {_package(point)}" for point in points)


_EXPLAINERS = "suffice.explainers"
METHODS: Registry[Method] = Registry(
    "method",
    "suffice.methods",
    "suffice.explainers.method:Method",
    {
        "causal": BuiltIn(f"{_EXPLAINERS}.causal:METHOD", "leaves out what is not needed, down to blocks"),
        "lime": BuiltIn(f"{_EXPLAINERS}.lime:METHOD", "a linear model over superpixels"),
        "lax": BuiltIn(f"{_EXPLAINERS}.lax:METHOD", "an adapter that train-lax has trained"),
        "activation-matching": BuiltIn(f"{_EXPLAINERS}.activation_matching:METHOD", "learns the mask by gradients"),
        "abductive": BuiltIn(
            f"{_EXPLAINERS}.abductive:METHOD", "a part that is proved, whatever the rest does within ε"
        ),
        "grad-cam": BuiltIn(f"{_EXPLAINERS}.cam:GRAD_CAM", "feature maps weighted by mean gradients"),
        "grad-cam++": BuiltIn(f"{_EXPLAINERS}.cam:GRAD_CAM_PLUS_PLUS", "by gradients above 0, place by place"),
        "layer-cam": BuiltIn(f"{_EXPLAINERS}.cam:LAYER_CAM", "each place of a map by its own gradient"),
        "kpca-cam": BuiltIn(f"{_EXPLAINERS}.cam:KPCA_CAM", "the first kernel principal component of the maps"),
        "finer-cam": BuiltIn(f"{_EXPLAINERS}.cam:FINER_CAM", "Grad-CAM of what sets the class apart"),
        "attention": BuiltIn(f"{_EXPLAINERS}.attention:ATTENTION", "of the class token in the last layer"),
        "attention-rollout": BuiltIn(f"{_EXPLAINERS}.attention:ATTENTION_ROLLOUT", "of it through all layers"),
    },
)
"""How an explanation is searched for: `suffice.explainers`."""

METRICS: Registry[Metric] = Registry(
    "metric",
    "suffice.metrics",
    "suffice.metrics.metric:Metric",
    {
        "insertion": "suffice.metrics.insertion_deletion:INSERTION",
        "deletion": "suffice.metrics.insertion_deletion:DELETION",
        "insertion_percent": "suffice.metrics.insertion_deletion:INSERTION_PERCENT",
        "deletion_percent": "suffice.metrics.insertion_deletion:DELETION_PERCENT",
        "fid_minus": "suffice.metrics.fidelity:FID_MINUS",
        "fid_plus": "suffice.metrics.fidelity:FID_PLUS",
        "fid_minus_percent": "suffice.metrics.fidelity:FID_MINUS_PERCENT",
        "fid_plus_percent": "suffice.metrics.fidelity:FID_PLUS_PERCENT",
        "msi": "suffice.metrics.msi:MSI",
        "msi_base": "suffice.metrics.msi:MSI_BASE",
        "msi_penalty": "suffice.metrics.msi:MSI_PENALTY",
        "robustness_solid": "suffice.metrics.robustness:ROBUSTNESS_SOLID",
        "robustness_images": "suffice.metrics.robustness:ROBUSTNESS_IMAGES",
        "confidence_difference_solid": "suffice.metrics.robustness:CONFIDENCE_DIFFERENCE_SOLID",
        "confidence_difference_images": "suffice.metrics.robustness:CONFIDENCE_DIFFERENCE_IMAGES",
        "robustness_restrictions": "suffice.metrics.restrictions:ROBUSTNESS_RESTRICTIONS",
        "certified_rho": "suffice.metrics.certified_rho:CERTIFIED_RHO",
        "area": "suffice.metrics.area:AREA",
        "confidence": "suffice.metrics.confidence:CONFIDENCE",
        "confidence_drop": "suffice.metrics.confidence_drop:CONFIDENCE_DROP",
    },
)
"""What a number says of an explanation, in the order in which tables show them: `suffice.metrics`."""

_FILL = "suffice.occlusion.fill"
OCCLUSIONS: Registry[OcclusionKind] = Registry(
    "occlusion",
    "suffice.occlusions",
    "suffice.occlusion.kinds:OcclusionKind",
    {
        "robust": BuiltIn("suffice.occlusion.robust:KIND", "four colours at once"),
        "deactivate": BuiltIn("suffice.occlusion.deactivation:DEACTIVATE", "switched off inside the network"),
        "layer-masking": BuiltIn("suffice.occlusion.layer_masking:LAYER_MASKING", "masked at each layer"),
        "zero": BuiltIn(f"{_FILL}:ZERO", "after normalisation"),
        "min": BuiltIn(f"{_FILL}:MIN", "black"),
        "max": BuiltIn(f"{_FILL}:MAX", "white"),
        "mean": BuiltIn(f"{_FILL}:MEAN", "the image's own mean colour"),
        "blur": BuiltIn(f"{_FILL}:BLUR", "the image itself, blurred"),
        "noise": BuiltIn(f"{_FILL}:NOISE", "Gaussian"),
        "colour": BuiltIn(f"{_FILL}:COLOUR", "such as colour:red or colour:#ff8000", value="NAME"),
        "image": BuiltIn(f"{_FILL}:IMAGE", "another image", value="FILE"),
    },
)
"""How the absence of pixels is shown to a model: `suffice.occlusion`."""

MODELS: Registry[Callable[[str, str | None, int | None], Source]] = Registry(
    "source of models",
    "suffice.models",
    "collections.abc:Callable",
    {
        "timm": "suffice.models.from_timm:load",
        "torchvision": "suffice.models.from_torchvision:load",
        "hf": "suffice.models.from_hf:load",
        "exported": "suffice.models.from_exported:load_exported",
        "torchscript": "suffice.models.from_exported:load_torchscript",
    },
    value="NAME",
)
"""Where models come from, by what stands before a colon: from what stands after it, the weights (a file, `random`,
`download` or None) and the number of classes (or None) to a `Source`: `suffice.models`."""

_SETS = "suffice.datasets.torchvision_sets"
DATASETS: Registry[DatasetSource] = Registry(
    "data set",
    "suffice.datasets",
    "suffice.datasets.dataset:DatasetSource",
    {
        "synthetic-mnist": "suffice.datasets.synthetic_mnist:SYNTHETIC_MNIST",
        "mnist": f"{_SETS}:MNIST",
        "synthetic-mnist:literal": "suffice.datasets.synthetic_mnist:LITERAL",
        "synthetic-mnist:black-aware": "suffice.datasets.synthetic_mnist:SYNTHETIC_MNIST",
        "cifar10": f"{_SETS}:CIFAR10",
        "cub200": "suffice.datasets.cub200:CUB200",
        "cub200-20": "suffice.datasets.cub200:CUB200_20",
        "imagenet": "suffice.datasets.imagenet:IMAGENET",
        "imagenet-v2": "suffice.datasets.imagenet:IMAGENET_V2",
        "caltech256": f"{_SETS}:CALTECH256",
        "voc": f"{_SETS}:VOC",
    },
)
"""Images with labels: `suffice.datasets`."""
