"""The engine: a batch that does not fit changes nothing, and eight threads get what each would get alone."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import suffice
from suffice import memory
from suffice.engine import ByRow, Engine, Passes, exclusive, seeded
from suffice.explainers import explain_batch, saliency_maps
from suffice.memory import available_memory

SIZE = 32
CPU = torch.device("cpu")


class Network(nn.Module):
    """Two convolutions with batch norm and dropout, as somebody trains them."""

    def __init__(self, classes: int = 4) -> None:
        super().__init__()
        self.conv1, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.pool, self.conv2 = nn.MaxPool2d(4), nn.Conv2d(8, 12, 3, padding=1)
        self.drop, self.head = nn.Dropout(0.5), nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(torch.relu(self.norm(self.conv1(x))))
        x = torch.relu(self.conv2(x))
        return self.head(self.drop(x.mean((2, 3)))) * 12


class Attending(nn.Module):
    """Patches, one layer of attention, their mean."""

    def __init__(self) -> None:
        super().__init__()
        self.patch = nn.Conv2d(3, 16, 8, 8)
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)
        self.norm, self.head = nn.LayerNorm(16), nn.Linear(16, 4)

    def forward(self, x: Tensor) -> Tensor:
        tokens = self.patch(x).flatten(2).transpose(1, 2)
        tokens = self.norm(tokens + self.attend(tokens, tokens, tokens)[0])
        return self.head(tokens.mean(1)) * 8


def network(kind: type[nn.Module] = Network) -> nn.Module:
    """In training mode; class 0 is what sets the images of these tests apart from plain colours."""
    with seeded(0), torch.no_grad():
        module = kind().eval()
        if isinstance(module, Network):
            module.norm.running_mean.normal_(0, 0.2)  # type: ignore[operator,union-attr]
            module.norm.running_var.uniform_(0.5, 1.5)  # type: ignore[operator,union-attr]
        features: list[Tensor] = []
        handle = module.head.register_forward_hook(lambda head, args, output: features.append(args[0]))
        for pixels in (images(8), torch.rand(64, 3, 1, 1).expand(-1, -1, SIZE, SIZE)):
            module((pixels - 0.5) / 0.25)
        handle.remove()
        ours, plain = features[0].mean(0), features[1].mean(0)
        module.head.weight *= 0.1
        module.head.weight[0] = (ours - plain) / (ours - plain).square().sum()
        module.head.bias.zero_()
        module.head.bias[0] = -0.6 * module.head.weight[0] @ ours - 0.4 * module.head.weight[0] @ plain
    return module.train()


def classifier_of(module: nn.Module, **options: Any) -> suffice.Classifier:
    return suffice.Classifier(module, input_size=(SIZE, SIZE), mean=(0.5,) * 3, std=(0.25,) * 3, **options)


def images(count: int = 1, seed: int = 3) -> Tensor:
    random = torch.Generator().manual_seed(seed)
    pixels = torch.rand(count, 3, SIZE, SIZE, generator=random) * 0.4
    pixels[:, :, 4:18, 6:20] += 0.5 * torch.rand(count, 3, 1, 1, generator=random)
    return pixels


# Batches that do not fit


class Full:
    """Stands in the way of the engine: the n-th batch of several rows finds no memory, once it has been computed."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
        self.calls, self.at, self.met = 0, at, False
        one_batch = Engine._one_batch

        def without_memory(engine: Engine, question: Any, module: Any, batch: Any, *options: Any) -> Any:
            answer = one_batch(engine, question, module, batch, *options)
            if len(batch[0]) > 1:
                self.calls += 1
                if self.calls == self.at:
                    self.met = True
                    raise torch.OutOfMemoryError("CUDA out of memory (a test)")
            return answer

        monkeypatch.setattr(Engine, "_one_batch", without_memory)


def explained(method: str, **settings: Any) -> Callable[[suffice.Classifier], list[Any]]:
    def question(classifier: suffice.Classifier) -> list[Any]:
        found = suffice.explain(classifier, images()[0], method, seed=1, **settings)
        return [found.mask, found.saliency, found.explanation_confidence, found.area, found.sufficient, found.curves]

    return question


def matched_together(**settings: Any) -> Callable[[suffice.Classifier], list[Any]]:
    def question(classifier: suffice.Classifier) -> list[Any]:
        found = explain_batch(classifier, images(4), seed=1, **settings)
        return [value for each in found for value in (each.mask, each.saliency, each.curves)]

    return question


def scored(classifier: suffice.Classifier) -> list[Any]:
    heat = torch.rand(SIZE, SIZE, generator=torch.Generator().manual_seed(5))
    metrics = list(suffice.score(classifier, images()[0], heat))
    others = images(6, seed=9)
    values = suffice.score(
        classifier, images()[0], heat, [*metrics, "robustness_images"], occlusion="zero,max", backgrounds=others
    )
    return [values[name] for name in sorted(values)]


def mapped(method: str) -> Callable[[suffice.Classifier], list[Any]]:
    def question(classifier: suffice.Classifier) -> list[Any]:
        found = saliency_maps(classifier, images(5), method=method)
        return [found.raw, found.normalised, found.targets]

    return question


def traced(classifier: suffice.Classifier) -> list[Any]:
    mask = torch.zeros(SIZE, SIZE, dtype=torch.bool)
    mask[2:20, 4:24] = True
    circuit = suffice.trace_circuit(classifier, images()[0], mask, reference=images(5, seed=8))
    return [layer.on for layer in circuit.layers] + [circuit.circuit_confidence, circuit.random_kept]


QUESTIONS: dict[str, Callable[[suffice.Classifier], list[Any]]] = {
    "causal": explained("causal", block=4),
    "causal, contrastive": explained("causal", block=4, kind="contrastive", occlusion="zero"),
    "causal, partitions": explained("causal", search="partitions", smallest_box=6, cell=4),
    "causal, deactivate": explained("causal", block=4, occlusion="deactivate"),
    "causal, layer-masking": explained("causal", block=4, occlusion="layer-masking"),
    "lime": explained("lime", occlusion="max"),
    "activation-matching": explained("activation-matching", steps=6, occlusion="max", block=4),
    "activation-matching, robust": explained(
        "activation-matching", steps=6, robustness="colours", occlusion="max,mean", block=4
    ),
    "activation-matching, weights": explained(
        "activation-matching", steps=4, lambdas="zucchini", occlusion="max", block=4
    ),
    "activation-matching of a batch": matched_together(steps=4),
    "activation-matching of a batch, weights": matched_together(steps=3, lambdas="mnist", occlusion="zero"),
    "scores": scored,
    "circuit": traced,
    **{name: explained(name, occlusion="max", cell=4) for name in ("grad-cam", "layer-cam", "finer-cam", "kpca-cam")},
}
MAPS = {name: mapped(name) for name in ("grad-cam", "grad-cam++", "layer-cam", "finer-cam", "kpca-cam")}


def equal(first: Any, second: Any) -> bool:
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    return bool(first == second)


def nearly(first: Tensor, second: Tensor) -> bool:
    return torch.allclose(first, second, rtol=1e-4, atol=1e-5)


def halved(
    question: Callable[[suffice.Classifier], list[Any]], build: Callable[[], nn.Module] = network, close: bool = False
) -> None:
    """Every result, with no memory at one moment after the other, is that with memory enough."""
    same = nearly if close else equal
    whole = question(classifier_of(build()))
    met = 0
    for at in (1, 2, 3, 5, 8, 13, 21):
        with pytest.MonkeyPatch.context() as monkeypatch:
            full = Full(monkeypatch, at)
            found = question(classifier_of(build()))
        assert all(map(same, found, whole)), f"out of memory in batch {at} of several rows changed the result"
        met += full.met
        if not full.met:
            break
    assert met, "no batch had several rows, so the test shows nothing"


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_batch_that_is_halved_at_any_moment_gives_the_same_bytes(name: str) -> None:
    halved(QUESTIONS[name])


@pytest.mark.parametrize("name", MAPS)
def test_maps_of_many_images_are_the_same_up_to_rounding_when_a_batch_is_halved(name: str) -> None:
    """Kernels sum a batch of five in another order than one of two, so equal bytes are out of reach."""
    halved(MAPS[name], close=True)


def test_attention_of_a_batch_that_is_halved() -> None:
    halved(mapped("attention-rollout"), lambda: network(Attending))


def test_a_single_row_that_does_not_fit_is_an_error_of_memory() -> None:
    def never(x: Tensor) -> Tensor:
        raise torch.OutOfMemoryError("out of memory (a test)")

    classifier = suffice.Classifier(never, input_size=(SIZE, SIZE))
    with pytest.raises(torch.OutOfMemoryError):
        classifier.logits(images(3))
    assert classifier.forward_passes == 0


def test_rows_of_all_batches_are_put_together_in_order() -> None:
    engine = Engine(nn.Flatten(), device=CPU, input_shape=(2, 1, 1), batch_size=2)
    rows = torch.arange(10.0).view(5, 2, 1, 1)
    seen: list[float] = []
    answers = engine.ask(
        lambda module, x: ByRow(module(x), (x.sum((1, 2, 3)), x[:, 0])), rows, gradients=True, progress=seen.append
    )
    assert answers.logits.tolist() == rows.flatten(1).tolist()
    assert answers.extras[0].tolist() == [1.0, 5.0, 9.0, 13.0, 17.0]
    assert torch.equal(answers.extras[1], rows[:, 0])
    assert engine.passes == Passes(5, 5) == engine.totals
    assert seen == [0.4, 0.8, 1.0]


def test_extras_that_are_not_by_row_are_refused() -> None:
    engine = Engine(nn.Flatten(), device=CPU, input_shape=(2, 1, 1))
    with pytest.raises(ValueError, match=r"a question about 3 rows returned \[1\]"):
        engine.ask(lambda module, x: ByRow(module(x), (x.mean()[None],)), torch.rand(3, 2, 1, 1))


def test_backward_passes_are_counted_where_forward_ones_are() -> None:
    classifier = classifier_of(network())
    circuit = suffice.trace_circuit(classifier, images()[0])
    assert circuit.backward_passes == classifier.backward_passes > 1
    assert circuit.forward_passes == classifier.forward_passes


# Threads

THREADED = {name: QUESTIONS[name] for name in ("causal", "grad-cam", "activation-matching", "circuit")}


def state_of(module: nn.Module) -> list[Any]:
    backends: Any = torch.backends
    return [
        *(tensor.clone() for tensor in module.state_dict().values()),
        [m.training for m in module.modules()],
        [p.requires_grad for p in module.parameters()],
        [(len(m._forward_hooks), len(m._forward_pre_hooks), len(m._backward_hooks)) for m in module.modules()],
        backends.cudnn.benchmark,
        backends.cudnn.deterministic,
        backends.cudnn.conv.fp32_precision,
        backends.mkldnn.conv.fp32_precision,
        backends.mkldnn.matmul.fp32_precision,
        torch.get_rng_state(),
    ]


def test_eight_threads_on_one_classifier_get_what_each_gets_alone() -> None:
    alone = {name: question(classifier_of(network())) for name, question in THREADED.items()}
    module = network()
    module.conv2.bias.requires_grad_(False)  # type: ignore[union-attr,operator]
    classifier, before = classifier_of(module), state_of(module)
    start = threading.Barrier(8)

    def work(name: str) -> list[Any]:
        start.wait()
        return THREADED[name](classifier)

    names = [*THREADED] * 2
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(work, names))
    for name, found in zip(names, together, strict=True):
        assert all(map(equal, found, alone[name])), f"{name} gave another result beside other threads"
    assert all(map(equal, state_of(module), before))
    assert module.training


def test_each_thread_sees_what_it_asked_itself() -> None:
    classifier = classifier_of(network())
    counts: dict[int, Passes] = {}

    def work(rows: int) -> None:
        before = classifier.passes
        for _ in range(3):
            classifier.logits(images(rows))
        counts[rows] = classifier.passes.since(before)

    threads = [threading.Thread(target=work, args=(rows,)) for rows in range(1, 6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert counts == {rows: Passes(3 * rows, 0) for rows in range(1, 6)}
    assert classifier.forward_passes == 3 * sum(range(1, 6))


def test_switches_of_the_process_come_back_when_the_last_question_ends() -> None:
    first_is_in, second_is_done = threading.Event(), threading.Event()

    def slow(x: Tensor) -> Tensor:
        first_is_in.set()
        second_is_done.wait(10)
        return x.mean((2, 3))

    before = torch.backends.cudnn.deterministic
    assert not before
    thread = threading.Thread(target=suffice.Classifier(slow, input_size=(SIZE, SIZE)).logits, args=(images(),))
    thread.start()
    first_is_in.wait(10)
    classifier_of(network()).logits(images())
    assert torch.backends.cudnn.deterministic, "the first question is still at work"
    second_is_done.set()
    thread.join()
    assert torch.backends.cudnn.deterministic is before


def test_first_weights_come_from_the_seed_whatever_other_threads_draw() -> None:
    with seeded(4):
        expected = torch.rand(1000)
    stop = threading.Event()

    def draw() -> None:
        while not stop.is_set():
            with seeded(7):
                torch.rand(10)

    thread = threading.Thread(target=draw)
    thread.start()
    try:
        for _ in range(50):
            with seeded(4):
                found = torch.cat([torch.rand(1) for _ in range(1000)])
            assert torch.equal(found, expected)
    finally:
        stop.set()
        thread.join()


def test_a_module_is_of_one_thread_at_a_time_and_may_be_taken_again() -> None:
    module, order = network(), list[str]()

    def other() -> None:
        with exclusive(module):
            order.append("other")

    with exclusive(module), exclusive(module):
        thread = threading.Thread(target=other)
        thread.start()
        thread.join(0.1)
        order.append("first")
    thread.join()
    assert order == ["first", "other"]


# CUDA

needs_cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@needs_cuda
@pytest.mark.parametrize("name", ["causal", "causal, deactivate", "grad-cam", "activation-matching", "circuit"])
def test_on_cuda_a_batch_that_is_halved_gives_the_same_bytes(name: str) -> None:
    halved(QUESTIONS[name], lambda: network().to("cuda"))


@needs_cuda
def test_on_cuda_eight_threads_get_what_each_gets_alone() -> None:
    alone = {name: question(classifier_of(network().to("cuda"))) for name, question in THREADED.items()}
    module = network().to("cuda")
    classifier, before = classifier_of(module), state_of(module)
    names = [*THREADED] * 2
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda name: THREADED[name](classifier), names))
    for name, found in zip(names, together, strict=True):
        assert all(map(equal, found, alone[name])), f"{name} gave another result beside other threads"
    assert all(map(equal, state_of(module), before))


@needs_cuda
def test_on_cuda_memory_that_runs_out_in_earnest_halves_the_batch() -> None:
    class Hungry(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            free = torch.cuda.mem_get_info()[0] + torch.cuda.memory_reserved() - torch.cuda.memory_allocated()
            return x.mean((2, 3)) + torch.zeros(len(x), free // 12, device=x.device)[:, :1]  # three rows fit

    classifier = suffice.Classifier(
        Hungry(), input_size=(SIZE, SIZE), device="cuda", batch_size=16, outputs="logits", repeatable=True
    )
    pixels = images(16)
    assert torch.allclose(classifier.logits(pixels), classifier.normalise(pixels).mean((2, 3)), atol=1e-5)
    assert classifier.forward_passes == 16


# Memory


LIMITS = {
    # Version 2, where a container sees its own group as the root; the same nested; version 1, nested.
    "own": ("0::/\n", {"v2": "3000000 1000000"}, 2_000_000),
    "nested": ("0::/a/b\n", {"v2/a": "9000000 2000000", "v2/a/b": "max 2000000"}, 7_000_000),
    "least": ("0::/a/b\n", {"v2/a": "9000000 2000000", "v2/a/b": "5000000 1000000"}, 4_000_000),
    "of another": ("0::/a\n", {"v2/b": "1 1"}, None),
    "none": ("0::/a\n", {"v2/a": "max 2000000"}, None),
    "full": ("0::/\n", {"v2": "1000000 1000001"}, 0),
    "v1": ("4:memory:/a\n1:cpu:/b\n0::/\n", {"v1/a": "5000000 1000000", "v1": f"{2**63 - 4096} 9000000"}, 4_000_000),
    "v1 with others": ("4:cpu,memory:/a\n", {"v1/a": "5000000 1000000"}, 4_000_000),
    # A container of version 1 reads the host's name of its group, which it does not see.
    "v1 own": ("4:memory:/docker/0a\n", {"v1": "5000000 1000000"}, 4_000_000),
    "both": ("4:memory:/\n0::/a\n", {"v1": "5000000 1000000", "v2/a": "3000000 1000000"}, 2_000_000),
    "no proc": (None, {"v2": "3000000 1000000"}, 2_000_000),
    "odd": ("0::/../..\n", {"v2": "many 1"}, None),
}


@pytest.fixture
def container(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts this process into control groups: the lines of /proc/self/cgroup, and of each group its limit and use."""

    def put(membership: str | None, groups: dict[str, str]) -> None:
        for kind, name in ((memory._VERSION_1, "v1"), (memory._VERSION_2, "v2")):
            monkeypatch.setattr(memory, f"_VERSION_{name[1]}", kind._replace(root=tmp_path / name))
        monkeypatch.setattr(memory, "_MEMBERSHIP", tmp_path / "cgroup")
        if membership is not None:
            (tmp_path / "cgroup").write_text(membership)
        for name, both in groups.items():
            kind = memory._VERSION_1 if name.startswith("v1") else memory._VERSION_2
            (tmp_path / name).mkdir(parents=True, exist_ok=True)
            for file, value in zip((kind.limit, kind.used), both.split(), strict=True):
                (tmp_path / name / file).write_text(f"{value}\n")

    return put


@pytest.mark.parametrize("case", LIMITS)
def test_the_limit_of_a_container_counts(case: str, container: Callable[..., None]) -> None:
    membership, groups, left = LIMITS[case]
    container(membership, groups)
    found = available_memory(CPU)
    assert found > 10**8 if left is None else found == left


def test_files_that_the_kernel_can_drop_are_not_in_the_way(tmp_path: Path, container: Callable[..., None]) -> None:
    container("0::/a\n", {"v2/a": "9000000 9000000"})
    assert available_memory(CPU) == 0
    (tmp_path / "v2/a/memory.stat").write_text("anon 1\ninactive_file 4000000\nactive_file 7\n")
    assert available_memory(CPU) == 4_000_000


def test_a_batch_fits_into_its_container(container: Callable[..., None]) -> None:
    classifier = suffice.Classifier(
        torch.nn.Flatten(), input_size=(SIZE, SIZE), outputs="logits", repeatable=True, device="cpu"
    )
    one = SIZE * SIZE * 4 * 100  # bytes that a row is taken to need
    container("0::/a/b\n", {"v2/a": f"{20 * one} 0", "v2/a/b": "max 0"})
    assert classifier.engine._fitting_batch() == 5
    container("0::/a/b\n", {"v2/a": f"{8 * one} 0"})
    classifier.engine._batch_until += 3600
    assert classifier.engine._fitting_batch() == 5
    classifier.engine._batch_until -= 7200  # after a tenth of a second memory is looked at again
    assert classifier.engine._fitting_batch() == 2
