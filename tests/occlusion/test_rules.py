"""Each rule against cases worked by hand, as the paper has it and in its fast form; and what has no rule."""

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from suffice.occlusion.rules import Activation, DeactivationSettings, Mask, NoRuleError
from suffice.occlusion.shortcuts.activation import Crop, StoredActivation, whole
from suffice.occlusion.shortcuts.state import PassState

MAKERS: dict[str, Callable[..., Activation]] = {
    "plain": Activation,
    "fast": lambda value, mask, settings: StoredActivation(value, mask, settings, PassState(frozenset({"unwrap"}))),
}


@pytest.fixture(autouse=True, params=MAKERS)
def make(request, monkeypatch) -> Callable[..., Activation]:
    """How the activations of a test are made: every rule is tried in both forms."""
    monkeypatch.setitem(MAKERS, "now", MAKERS[request.param])
    return MAKERS[request.param]


def made(value: Tensor, mask: Mask | None, **settings) -> Activation:
    return MAKERS["now"](value, mask, DeactivationSettings(**settings))


def activation(mask: list, value: Tensor | None = None, **settings) -> Activation:
    """An activation (1, 1, *sizes) with this mask, with 9 where it is off, to be seen if it gets through."""
    on = torch.tensor(mask, dtype=torch.bool)[None, None]
    value = torch.ones(on.shape) if value is None else value
    return made(value.masked_fill(~on, 9.0), Mask(on), **settings)


def mask_of(x: Activation) -> list:
    """The mask of an activation (1, 1, *sizes), or of its first channel."""
    x = whole(x)
    if x.mask is None:
        return torch.ones(x.shape)[0, 0].int().tolist()
    return x.mask.on.expand(x.shape)[0, 0].int().tolist()


def zeroed(x: Activation) -> list:
    """Its values where it is on."""
    x = whole(x)
    value = x.value if x.mask is None else x.value * x.mask.on
    return value[0, 0].tolist()


ONES = torch.ones(1, 1, 3)


def test_convolution_counts_real_positions_only():
    x = [1, 0, 0, 0, 1]
    # windows with padding 1: [_ 1 0] [1 0 0] [0 0 0] [0 0 1] [0 1 _]: 1/2, 1/3, 0, 1/3, 1/2
    assert mask_of(F.conv1d(activation(x), ONES, padding=1)) == [1, 1, 0, 1, 1]
    assert zeroed(F.conv1d(activation(x), ONES, padding=1)) == [1, 1, 0, 1, 1]
    assert mask_of(F.conv1d(activation(x, threshold=1 / 3), ONES, padding=1)) == [1, 0, 0, 0, 1]  # a tie is off
    assert mask_of(F.conv1d(activation(x, threshold=0.5), ONES, padding=1)) == [0, 0, 0, 0, 0]


def test_everything_kept_stays_on_for_any_threshold():
    for threshold in (0.0, 0.5, 0.99):
        x = activation([[1] * 4] * 4, threshold=threshold)
        assert F.conv2d(x, torch.ones(1, 1, 3, 3), padding=1, stride=2).mask is None
        padded = F.conv2d(F.pad(x, (0, 1, 0, 1)), torch.ones(1, 1, 3, 3), stride=2)
        assert padded.mask is None


def test_stride_dilation_and_same_padding():
    x = [0, 0, 1, 0, 0, 0]
    assert mask_of(F.conv1d(activation(x), ONES, stride=2)) == [1, 1]
    assert mask_of(F.conv1d(activation(x), ONES, dilation=2)) == [1, 0]  # reads 0 2 4 and 1 3 5
    assert mask_of(F.conv1d(activation(x), ONES, padding="same")) == [0, 1, 1, 1, 0, 0]
    assert mask_of(F.conv1d(activation(x), torch.ones(1, 1, 1), stride=2)) == [0, 1, 0]


def test_groups_have_masks_of_their_own():
    value = torch.ones(1, 2, 3)
    on = torch.tensor([[[1, 0, 0], [0, 0, 0]]], dtype=torch.bool)
    x = made(value * on, Mask(on))
    depthwise = F.conv1d(x, torch.ones(4, 1, 3), padding=1, groups=2)
    assert depthwise.mask.on[0].int().tolist() == [[1, 1, 0], [1, 1, 0], [0, 0, 0], [0, 0, 0]]
    dense = F.conv1d(made(value * on, Mask(on), threshold=0.25), torch.ones(1, 2, 3), padding=1)
    assert dense.mask.on[0].int().tolist() == [[0, 0, 0]]  # 1 of 4, 1 of 6, 0 of 4


def test_three_dimensions():
    on = torch.zeros(1, 1, 3, 3, 3, dtype=torch.bool)
    on[..., 0, 0, 0] = True
    out = F.conv3d(made(on.float(), Mask(on)), torch.ones(1, 1, 2, 2, 2))
    assert int(out.mask.on.sum()) == 1
    assert F.max_pool3d(made(on.float(), Mask(on)), 3).mask is None


def test_transposed_convolution_and_its_holes():
    x = activation([1, 0])
    # kernel 1, stride 2: positions 0 and 2 come from the input, 1 holds the bias alone
    out = F.conv_transpose1d(x, torch.ones(1, 1, 1), torch.tensor([5.0]), stride=2)
    assert mask_of(out) == [1, 1, 0]
    assert out.value.tolist() == [[[6.0, 5.0, 5.0]]]
    assert out.mask.constant[0, 0].tolist() == [False, True, False]
    assert mask_of(F.conv_transpose1d(activation([1, 0, 0]), torch.ones(1, 1, 3), padding=1)) == [1, 1, 0]


def test_padding():
    x = [0, 1]
    assert mask_of(F.conv1d(F.pad(activation(x), (2, 0)), ONES)) == [0, 1]  # [_ _ 0] is off, not on
    assert mask_of(F.pad(activation(x), (1, 1), mode="reflect")) == [1, 0, 1, 0]
    assert mask_of(F.pad(activation(x), (1, 1), mode="replicate")) == [0, 0, 1, 1]
    padded = F.pad(activation([[0, 1]]), (1, 0), value=-1.0)
    assert zeroed(padded) == [[-1.0, 0.0, 1.0]]
    around = F.pad(activation([[0, 1], [0, 0]]), (1, 1, 1, 1))
    assert around.shape == (1, 1, 4, 4)
    assert around.value.shape == ((1, 1, 2, 2) if isinstance(around, StoredActivation) else (1, 1, 4, 4))
    twice = whole(F.pad(F.pad(activation([[0, 1, 0]]), (1, 0), value=2.0), (0, 1, 0, 0)))
    assert twice.mask.on[0, 0, 0].int().tolist() == [1, 0, 1, 0, 1]
    assert twice.mask.constant[0, 0, 0].int().tolist() == [1, 0, 0, 0, 1]
    assert zeroed(torch.sigmoid(around))[0][0] == 0.5  # where it is only noted, it is there once something needs it


def test_pooling_literal_and_renormalised():
    value = torch.tensor([[[-1.0, -3.0, 5.0, 7.0]]])
    x = [1, 0, 1, 1]
    assert zeroed(F.avg_pool1d(activation(x, value), 2)) == [-0.5, 6.0]
    assert zeroed(F.avg_pool1d(activation(x, value, pooling="renormalised"), 2)) == [-1.0, 6.0]
    assert zeroed(F.max_pool1d(activation(x, value), 2)) == [0.0, 7.0]
    assert zeroed(F.max_pool1d(activation(x, value, pooling="renormalised"), 2)) == [-1.0, 7.0]
    assert mask_of(F.max_pool1d(activation(x, threshold=0.5), 2)) == [0, 1]
    assert mask_of(F.max_pool1d(activation([1, 1, 0]), 2, ceil_mode=True)) == [1, 0]
    assert mask_of(F.adaptive_avg_pool1d(activation([1, 0, 0, 0, 0]), 3)) == [1, 0, 0]  # 0-1, 1-3, 3-4
    assert mask_of(F.adaptive_max_pool1d(activation([0, 1, 0, 0, 0]), 3)) == [1, 1, 0]
    assert zeroed(F.max_pool1d(activation([0, 0, 1, 1], pooling="renormalised"), 2)) == [0.0, 1.0]


def test_interpolation():
    x = [[1, 0], [0, 0]]
    assert mask_of(F.interpolate(activation(x), scale_factor=2))[0] == [1, 1, 0, 0]
    # bilinear to 4: weights 1, .75, .25, 0 of the first position
    assert mask_of(F.interpolate(activation(x), size=(4, 4), mode="bilinear"))[0] == [1, 1, 1, 0]
    assert mask_of(F.interpolate(activation(x), size=(4, 4), mode="bilinear"))[3] == [0, 0, 0, 0]


def test_interpolation_goes_by_its_scale_where_sizes_are_rounded():
    # to 7.5, which is 7: position i is at (i + 0.5) / 1.5 - 0.5, and not at (i + 0.5) · 5 / 7 - 0.5
    assert mask_of(F.interpolate(activation([0, 0, 0, 1, 0]), scale_factor=1.5, mode="linear")) == [0, 0, 0, 0, 1, 1, 1]
    resized = F.interpolate(activation([0, 0, 0, 1, 0]), scale_factor=1.5, mode="linear", recompute_scale_factor=True)
    assert mask_of(resized) == [0, 0, 0, 0, 1, 1, 0]


def test_residual_add():
    a, b = activation([1, 1, 0, 0]), activation([1, 0, 1, 0])
    assert mask_of(a + b) == [1, 1, 1, 0]
    assert zeroed(a + b) == [2, 1, 1, 0]
    a, b = activation([1, 1, 0, 0], add="intersection"), activation([1, 0, 1, 0], add="intersection")
    assert zeroed(a + b) == [2, 0, 0, 0]
    a, b = activation([1, 1, 0, 0]), activation([1, 0, 1, 0])
    a += b
    assert zeroed(a) == [2, 1, 1, 0]
    everything = made(torch.ones(1, 1, 4), None)
    assert zeroed(activation([1, 0, 0, 0]) + everything) == [2, 1, 1, 1]
    assert mask_of(activation([1, 0]) + torch.ones(1, 1, 2)) == [1, 0]  # a constant changes nothing
    assert mask_of(1 - activation([1, 0])) == [1, 0]


OFF, ON, CONSTANT = (0, 0), (1, 0), (1, 1)


@pytest.mark.parametrize(
    ("a", "b", "union", "intersection"),
    [
        (OFF, OFF, OFF, OFF),
        (OFF, ON, ON, OFF),
        (OFF, CONSTANT, CONSTANT, OFF),
        (ON, ON, ON, ON),
        (ON, CONSTANT, ON, ON),  # made from the image in part
        (CONSTANT, CONSTANT, CONSTANT, CONSTANT),
    ],
)
def test_what_a_sum_is_made_of(a, b, union, intersection):
    def position(state: tuple[int, int], add: str) -> Activation:
        """Beside a position that is off and one that is on, so that the mask is never settled."""
        on, constant = torch.tensor([[0, 1, state[0]], [0, 0, state[1]]], dtype=torch.bool)
        return made(torch.ones(1, 1, 3), Mask(on[None, None], constant[None, None]), add=add)

    for add, expected in (("union", union), ("intersection", intersection)):
        for first, second in ((a, b), (b, a)):
            mask = (position(first, add) + position(second, add)).mask
            assert (mask.on[0, 0, 2].item(), mask.constant[0, 0, 2].item()) == expected


def test_constants_are_still_constants_once_all_is_stored():
    on, constant = torch.tensor([[1, 0, 1], [1, 0, 0]], dtype=torch.bool)
    crop = Crop(5, 0, (0, 5), (0, 5), torch.tensor([0, 2, 3]))
    x = StoredActivation(
        torch.ones(1, 3, 2), Mask(on[None, :, None], constant[None, :, None]), DeactivationSettings(), PassState(),
        crops=(None, crop, None),
    )  # fmt: skip
    assert x.shape == (1, 5, 2)
    assert whole(x).mask.on[0, :, 0].int().tolist() == [1, 0, 0, 1, 0]
    assert x.mask.constant[0, :, 0].int().tolist() == [1, 0, 0, 0, 0]
    assert x.value[0, :, 0].tolist() == [1, 0, 0, 1, 0]


def test_products_and_gates():
    a, b = activation([1, 1, 0]), activation([1, 0, 1])
    assert mask_of(a * b) == [1, 0, 0]
    gate = activation([1, 0, 0], threshold=0.5).mean(-1, keepdim=True)
    assert mask_of(gate) == [0]
    assert mask_of(activation([1, 0, 0], threshold=0.5) * gate) == [1, 0, 0]  # squeeze-and-excitation
    x = activation([1, 0, 0])
    zero_over_zero = x / F.relu(x - 9).sum(-1, keepdim=True)
    assert not zero_over_zero.value.isnan().any() or zero_over_zero.mask is not None


def test_concatenation_keeps_a_mask_a_channel():
    x = torch.cat([activation([1, 0]), activation([0, 1]), torch.ones(1, 1, 2)], 1)
    assert x.mask.on[0].int().tolist() == [[1, 0], [0, 1], [1, 1]]
    assert x.mask.constant[0, :, 0].int().tolist() == [0, 0, 1]
    # 1 of 2 real features; the third channel is a constant
    assert mask_of(F.conv1d(x, torch.ones(1, 3, 1))) == [1, 1]
    half = activation([1, 0], threshold=0.5)
    joined = torch.cat([half, activation([0, 0], threshold=0.5), torch.ones(1, 1, 2)], 1)
    assert mask_of(F.conv1d(joined, torch.ones(1, 3, 1))) == [0, 0]
    same = activation([1, 0])
    assert torch.cat([same, same], 1).mask.on.shape == (1, 1, 2)


def channels(*masks: list) -> Activation:
    on = torch.tensor(masks, dtype=torch.bool)[None]
    return made(torch.arange(on.numel()).reshape(on.shape).float(), Mask(on))


@pytest.mark.parametrize(
    "move",
    [
        lambda t: t.permute(0, 2, 1),
        lambda t: t.transpose(1, 2).reshape(1, 8),
        lambda t: t.reshape(1, 2, 2, 2),
        lambda t: t.flatten(1),
        lambda t: t.view(1, 1, 8).roll(3, 2),
        lambda t: t.chunk(2, 2)[1],
        lambda t: t.split([1, 3], 2)[1],
        lambda t: t.unbind(1)[1],
        lambda t: t[:, :, 1::2],
        lambda t: t[:, 1],
        lambda t: t[..., [2, 0]],
        lambda t: t.flip(2),
        lambda t: F.channel_shuffle(t[:, :, None], 2),
        lambda t: F.pixel_shuffle(t.reshape(1, 4, 1, 2), 2),
        lambda t: F.pixel_unshuffle(t.reshape(1, 1, 2, 4), 2),
        lambda t: torch.stack([t, t], 1),
        lambda t: t.unsqueeze(1).expand(1, 3, 2, 4),
        lambda t: F.unfold(t.reshape(1, 1, 2, 4), 2),
        lambda t: t.reshape(1, 1, 2, 4).unfold(3, 2, 1),
        lambda t: t.repeat(1, 1, 2),
        lambda t: t.movedim(1, 2).unflatten(1, (2, 2)),
    ],
)
def test_a_mask_moves_like_its_value(move):
    x = channels([1, 0, 0, 1], [0, 1, 0, 0])
    moved = move(x)
    expected = move(torch.where(x.mask.on, x.value + 1, 0.0))
    assert torch.equal(torch.where(moved.mask.on, moved.value + 1, 0.0), expected)


def test_reductions():
    value = torch.tensor([[[2.0, 4.0, 6.0, 8.0]]])
    x = [1, 0, 1, 0]
    assert activation(x, value).mean(-1).value.item() == 2.0
    assert activation(x, value, pooling="renormalised").mean(-1).value.item() == 4.0
    assert activation(x, -value).amax(-1).value.item() == 0.0
    assert activation(x, -value, pooling="renormalised").amax(-1).value.item() == -2.0
    assert activation(x, value).sum(-1).value.item() == 8.0
    assert torch.max(activation(x, value), -1).values.value.item() == 6.0
    assert activation(x, value, threshold=0.5).mean(-1, keepdim=True).mask.on.item() is False


def test_norms_over_positions_see_zeros_and_norms_over_channels_see_nothing():
    value = torch.randn(1, 4, 3, generator=torch.Generator().manual_seed(0))
    on = torch.tensor([1, 0, 1], dtype=torch.bool)[None, None]
    x = made(value.clone(), Mask(on))
    for norm in (lambda t: F.instance_norm(t), lambda t: F.group_norm(t, 2)):
        out = norm(made(value.clone(), Mask(on)))
        torch.testing.assert_close(out.value, norm(value * on))
    out = F.layer_norm(x.transpose(1, 2), (4,))
    torch.testing.assert_close(out.value, F.layer_norm(value.transpose(1, 2), (4,)))
    assert out.mask.on.shape == (1, 3, 1)


def test_flatten_and_linear():
    x = channels([1, 0], [0, 0]).flatten(1)
    out = F.linear(x, torch.ones(1, 4), torch.tensor([10.0]))
    assert out.value.item() == 10.0 + 0.0  # the only value on is arange's 0
    assert out.mask is None or out.mask.on.item() is True


def test_attention_leaves_tokens_out():
    generator = torch.Generator().manual_seed(0)
    q, k, v = (torch.randn(1, 2, 5, 4, generator=generator) for _ in range(3))
    on = torch.tensor([1, 0, 1, 1, 0], dtype=torch.bool)
    mask = Mask(on[None, None, :, None])
    kept = [t[:, :, on] for t in (q, k, v)]
    expected = F.scaled_dot_product_attention(*kept)

    def masked() -> list[Activation]:
        return [made(t.clone(), mask) for t in (q, k, v)]

    fused = F.scaled_dot_product_attention(*masked())
    torch.testing.assert_close(fused.value[:, :, on], expected)
    a, b, c = masked()
    by_matmul = ((a @ b.transpose(-2, -1)) * 0.5).softmax(-1) @ c
    torch.testing.assert_close(by_matmul.value[:, :, on], expected)
    assert torch.equal(by_matmul.mask.on, mask.on)
    a, b, c = masked()
    scores = torch.einsum("bhqd,bhkd->bhqk", a, b) * 0.5
    by_einsum = torch.einsum("bhqk,bhkd->bhqd", scores.softmax(dim=-1), c)
    torch.testing.assert_close(by_einsum.value[:, :, on], expected)
    assert torch.equal(by_einsum.mask.on, mask.on)


@pytest.mark.parametrize("batch_first", [True, False])
def test_multi_head_attention_leaves_tokens_out(batch_first):
    torch.manual_seed(0)
    attention = nn.MultiheadAttention(8, 2, batch_first=batch_first).eval()
    x = torch.randn(1, 5, 8)
    on = torch.tensor([1, 0, 1, 1, 0], dtype=torch.bool)
    order = (lambda t: t) if batch_first else (lambda t: t.transpose(0, 1))
    masked = made(x.clone(), Mask(on[None, :, None]))
    with torch.no_grad():
        expected = order(attention(*[order(x[:, on])] * 3)[0])
        masked = order(masked)
        out = order(attention(masked, masked, masked)[0])
    torch.testing.assert_close(out.value[:, on], expected)


def test_an_operator_without_a_rule_is_named():
    with pytest.raises(NoRuleError, match="cumsum"):
        activation([1, 0]).cumsum(-1)
    with pytest.raises(NoRuleError, match="fft"):
        torch.fft.fft(activation([1, 0]))
    with pytest.raises(NoRuleError, match="relu"):
        torch.ops.aten.relu(activation([1, 0]))  # below the rules: not in silence either
