"""`package.module:function`: what the function may return, and whose fault an error is."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
import torch
import torchvision  # noqa: F401  # before the fixture, which forgets what a test was first to import
from safetensors.torch import save_file

from suffice.errors import InputError
from suffice.models import load_classifier

IMAGE = torch.full((1, 3, 224, 224), 0.25)

MODELS = """
import functools
import torch
from torch import nn
from suffice.classifier import Classifier


class Means(nn.Module):
    def __init__(self, scale=1.0):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(scale))

    def forward(self, x):
        return self.scale * x.mean((2, 3))


def module():
    return Means().train()

def callable_():
    return lambda x: x.mean((2, 3)).numpy()

def classifier():
    return Classifier(
        Means(), input_size=(8, 4), mean=(0, 0, 0), std=(1, 1, 1), class_names="a b c".split(), device="cpu",
        batch_size=5, crop_pct=0.5,
    )

with_default = functools.partial(Means, 2.0)

def nothing():
    pass

def text():
    return "resnet50"

def needs(size):
    return Means()

def fails():
    raise ZeroDivisionError("my own fault")

def attribute():
    return torch.no_such_name

instance = Means()
number = 7

NAMES = {"c": 2, "b": 1, "a": 0}

def says_nothing():
    return Means()

def with_transform():
    from torchvision import transforms as t
    steps = [t.Resize(16), t.CenterCrop(8), t.ToTensor(), t.Normalize((0.25,) * 3, (0.5,) * 3)]
    return Means(), t.Compose(steps), NAMES

def with_weights():
    from torchvision.models import ResNet18_Weights
    return Means(), ResNet18_Weights.DEFAULT

def with_processor():
    return Means(), Processor(), ["a", "b", "c"]

class Processor:
    def to_dict(self):
        return {
            "do_resize": True, "size": {"height": 8, "width": 8}, "resample": 2, "image_mean": [0.25] * 3,
            "image_std": [0.5] * 3,
        }

def mapping():
    return {"model": Means(), "mean": (0.25,) * 3, "std": (0.5,) * 3, "input_size": (8, 8), "class_to_idx": NAMES}

def mapping_of_transform():
    model, transform, names = with_transform()
    return {"net": model, "transform": transform, "class_names": names}

def with_config():
    names = {"0": "a", "1": "b", "2": "c"}
    return Means(), {"input_size": (3, 8, 8), "mean": [63.75] * 3, "std": [127.5] * 3, "id2label": names}

def odd_tuple():
    return Means(), 7

def odd_mapping():
    return {"model": Means(), "colour": "red"}

def of_two_minds():
    from torchvision import transforms as t
    return Means(), t.Compose([t.Resize(8), t.ToTensor()]), t.Compose([t.Resize(16), t.ToTensor()])

def training_transform():
    from torchvision import transforms as t
    return Means(), t.Compose([t.RandomCrop(8), t.ToTensor()])

def nested_classifier():
    return Classifier(Means(), input_size=(8, 4)), NAMES
"""


@pytest.fixture(autouse=True)
def _own_code(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A folder with code of the user's, in which the user works; nothing of it stays imported."""
    (tmp_path / "my_models.py").write_text(MODELS)
    (tmp_path / "my_package").mkdir()
    (tmp_path / "my_package" / "__init__.py").write_text("")
    (tmp_path / "my_package" / "nets.py").write_text("from my_models import module as build\n")
    (tmp_path / "needs_other.py").write_text("import a_library_that_is_not_here\n")
    (tmp_path / "needs_part.py").write_text("import my_package.no_such_part\n")
    (tmp_path / "name_error.py").write_text("import torch\ntorch.no_such_name\ndef build(): pass\n")
    (tmp_path / "value_error.py").write_text("int('x')\n")
    (tmp_path / "syntax_error.py").write_text("def build(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    yield  # type: ignore[misc]
    for name, module in list(sys.modules.items()):
        # Not what a library has loaded meanwhile: parts of torch cannot be loaded twice.
        if str(getattr(module, "__file__", None)).startswith(str(tmp_path)):
            del sys.modules[name]


@pytest.mark.parametrize("model", ["my_models:module", "my_package.nets:build"])
def test_a_module(model: str) -> None:
    classifier = load_classifier(model, device="cpu", mean=(0, 0, 0), std=(1, 1, 1))
    assert classifier.logits(IMAGE).tolist() == [[0.25, 0.25, 0.25]]
    assert classifier.name == model
    assert not classifier.require_module("this test").training


def test_a_callable_is_a_black_box() -> None:
    classifier = load_classifier("my_models:callable_", mean=(0, 0, 0), std=(1, 1, 1))
    assert classifier.logits(IMAGE).tolist() == [[0.25, 0.25, 0.25]]
    assert classifier.black_box


def test_a_partial_is_a_function_too() -> None:
    classifier = load_classifier("my_models:with_default", mean=(0, 0, 0), std=(1, 1, 1), device="cpu")
    assert classifier.logits(IMAGE).tolist() == [[0.5, 0.5, 0.5]]


def test_a_classifier_keeps_what_it_knows() -> None:
    classifier = load_classifier("my_models:classifier")
    assert classifier.logits(IMAGE[:, :, :8, :4]).tolist() == [[0.25, 0.25, 0.25]]
    assert classifier.class_names == ("a", "b", "c")
    assert (classifier.batch_size, classifier.preprocessing.crop_pct) == (5, 0.5)
    assert load_classifier("my_models:classifier", batch_size=2, class_names=["x", "y", "z"]).class_name(0) == "x"
    assert load_classifier("my_models:classifier", batch_size=2).batch_size == 2


@pytest.mark.parametrize(
    "function", ["with_transform", "with_processor", "mapping", "mapping_of_transform", "with_config"]
)
def test_what_comes_with_a_model_describes_it(function: str) -> None:
    classifier = load_classifier(f"my_models:{function}", device="cpu")
    # (0.25 - 0.25) / 0.5 and (1 - 0.25) / 0.5
    images = torch.tensor([0.25, 1.0, 0.0]).view(1, 3, 1, 1).expand(1, 3, 8, 8)
    assert classifier.logits(images).tolist() == [[0.0, 1.5, -0.5]]
    assert classifier.class_names == ("a", "b", "c")
    assert not set(classifier.assumed) & {"size", "normalisation", "names"}
    if "transform" in function:
        assert (classifier.preprocessing.crop_pct, classifier.preprocessing.interpolation) == (0.5, "bilinear")
        assert set(classifier.assumed) <= {"outputs"}  # of which none of these says anything


def test_torchvisions_weights_describe_a_model() -> None:
    classifier = load_classifier("my_models:with_weights", device="cpu")
    assert (classifier.class_name(285), classifier.preprocessing.crop_pct) == ("Egyptian cat", 0.875)
    assert set(classifier.assumed) <= {"outputs"}  # of which none of these says anything


def test_a_classifier_is_as_sure_as_it_was() -> None:
    classifier = load_classifier("my_models:nested_classifier", device="cpu")
    assert classifier.preprocessing.input_size == (8, 4)
    assert classifier.class_names == ("a", "b", "c")
    assert set(classifier.assumed) == {"normalisation", "resize"}
    said = load_classifier("my_models:nested_classifier", device="cpu", mean=0.5, std=0.5, crop_pct=1.0)
    assert set(said.assumed) == {"resize"}  # the interpolation


def test_a_model_that_says_nothing_of_itself() -> None:
    classifier = load_classifier("my_models:says_nothing", device="cpu")
    assert set(classifier.assumed) == {"size", "normalisation", "resize", "names"}
    assert len(classifier.assumptions) == 4


@pytest.mark.parametrize(
    ("function", "received"),
    [
        ("odd_tuple", "beside the model, a transform, a processor, class names or a mapping; got int"),
        ("odd_mapping", "beside the model, input_size, mean, .*; got 'colour'"),
        ("of_two_minds", r"to say input_size once; got \(8, 8\) and \(16, 16\)"),
        ("training_transform", "a transform for evaluation, .*; got RandomCrop in it"),
    ],
)
def test_what_does_not_describe_a_model_is_refused(function: str, received: str) -> None:
    with pytest.raises(InputError, match=received):
        load_classifier(f"my_models:{function}", device="cpu")


def test_class_names_of_a_checkpoint(tmp_path: Path) -> None:
    torch.save({"net": {"scale": torch.tensor(4.0)}, "epoch": 3}, tmp_path / "scale.pth")
    classifier = load_classifier("my_models:module", weights="scale.pth", mean=0.0, std=1.0, device="cpu")
    assert classifier.logits(IMAGE).tolist() == [[1.0, 1.0, 1.0]]


def test_files_in_the_working_folder_stand_for_no_other_module(tmp_path: Path) -> None:
    (tmp_path / "colorsys.py").write_text("raise SystemExit('a file of the folder was run')")
    (tmp_path / "my_colours.py").write_text("import colorsys\nfrom my_models import module as build\n")
    known = sys.modules.pop("colorsys", None)
    try:
        load_classifier("my_colours:build", device="cpu", mean=0.0, std=1.0)
    finally:
        sys.modules.update({} if known is None else {"colorsys": known})
    (tmp_path / "time.py").touch()
    for module in ("colorsys", "time"):
        with pytest.raises(
            InputError, match=rf"expected one Python module '{module}' .* there is {module}\.py here and"
        ):
            load_classifier(f"{module}:build")


def test_weights_go_into_the_module(tmp_path: Path) -> None:
    save_file({"scale": torch.tensor(4.0)}, tmp_path / "scale.safetensors")
    classifier = load_classifier("my_models:module", weights="scale.safetensors", mean=(0, 0, 0), std=(1, 1, 1))
    assert classifier.logits(IMAGE).tolist() == [[1.0, 1.0, 1.0]]
    with pytest.raises(InputError, match=r"expected an nn\.Module from my_models:callable_ to put weights into"):
        load_classifier("my_models:callable_", weights="scale.safetensors")


@pytest.mark.parametrize(
    ("model", "received"),
    [
        ("no_such_module:build", "there is no Python module 'no_such_module'"),
        ("no.such.module:build", "there is no Python module 'no'"),
        ("my_package.nothing:build", "there is no Python module 'my_package.nothing'"),
        ("my_models.inner:build", "there is no Python module 'my_models.inner'"),
        ("my_models:no_such_function", "module my_models has no function 'no_such_function'"),
        ("my_models:nothing", "to return an nn.Module or a callable; got NoneType"),
        ("my_models:text", "to return an nn.Module or a callable; got str"),
        ("my_models:needs", "to be a function that needs no argument; it has a missing a required argument: 'size'"),
        ("my_models:instance", "to be a function that returns a model; got Means"),
        ("my_models:number", "to be a function that returns a model; got int"),
        ("my_models.py:module", "there is no Python module 'my_models.py'"),
        ("./my_models.py:module", "with dots and without .py"),
        ("my_package/nets:build", "with dots and without .py"),
        (".my_models:module", "with dots and without .py"),
        ("C:\\models\\net.pt", "with dots|there is no Python module 'C'"),
    ],
)
def test_a_wrong_name_is_the_callers_mistake(model: str, received: str) -> None:
    with pytest.raises(InputError, match=received):
        load_classifier(model)


@pytest.mark.parametrize(
    ("model", "error", "words"),
    [
        ("needs_other:build", ModuleNotFoundError, "a_library_that_is_not_here"),
        ("needs_part:build", ModuleNotFoundError, "my_package.no_such_part"),
        ("name_error:build", AttributeError, "no_such_name"),
        ("value_error:build", ValueError, "invalid literal"),
        ("syntax_error:build", SyntaxError, "invalid syntax"),
        ("my_models:fails", ZeroDivisionError, "my own fault"),
        ("my_models:attribute", AttributeError, "no_such_name"),
    ],
)
def test_an_error_in_the_users_own_code_comes_through(model: str, error: type[Exception], words: str) -> None:
    with pytest.raises(error, match=words) as caught:
        load_classifier(model)
    assert not isinstance(caught.value, InputError)
