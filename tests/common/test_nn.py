"""Embeddings, feed-forward, coordinate features and modulation, against diffusers and by hand."""

from __future__ import annotations

import math

import pytest
import torch
from diffusers.models.attention import FeedForward as DiffusersFeedForward
from diffusers.models.embeddings import (
    TimestepEmbedding,
    get_1d_sincos_pos_embed_from_grid,
    get_3d_sincos_pos_embed,
    get_timestep_embedding,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from trifold.common.nn import (
    AdaLNZero,
    FeedForward,
    FourierFeatures,
    TimeEmbedding,
    bits_to_coords,
    modulate,
    quantised_bits,
    sincos_features,
    timestep_embedding,
)


def noise(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


# --- noise levels ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dim", [16, 33, 320])
@pytest.mark.parametrize("freq_shift", [0.0, 1.0])
@pytest.mark.parametrize("flip", [True, False])
def test_timestep_embedding_is_diffusers_to_the_last_bit(dim: int, freq_shift: float, flip: bool) -> None:
    for t in (torch.tensor([0, 1, 31, 500, 999]), torch.tensor([0.0, 0.25, 3.7, 998.5, -1.3])):
        ours = timestep_embedding(t, dim, flip_sin_to_cos=flip, freq_shift=freq_shift)
        theirs = get_timestep_embedding(t, dim, flip_sin_to_cos=flip, downscale_freq_shift=freq_shift)
        assert torch.equal(ours, theirs)


def test_timestep_embedding_takes_any_shape_and_stays_float32() -> None:
    t = torch.tensor([[0.5, 2.0, 7.25]], dtype=torch.float64)
    features = timestep_embedding(t, 8)
    assert features.shape == (1, 3, 8)
    assert features.dtype == torch.float32
    assert torch.equal(features[0, 2], timestep_embedding(t[0, 2], 8))
    # k = 1 of 4 frequencies: 10000 ** (-1/4) = 1/10
    assert features[0, 2, 1].item() == pytest.approx(math.cos(0.725), abs=1e-6)
    assert features[0, 2, 5].item() == pytest.approx(math.sin(0.725), abs=1e-6)


def test_timestep_embedding_refuses_a_width_without_frequencies() -> None:
    with pytest.raises(ValueError, match="dim must be above"):
        timestep_embedding(torch.zeros(1), 2, freq_shift=1.0)


@pytest.mark.parametrize("out_dim", [None, 24])
def test_time_embedding_loads_diffusers_weights(out_dim: int | None) -> None:
    theirs = TimestepEmbedding(32, 128, out_dim=out_dim)
    ours = TimeEmbedding(32, 128, out_dim=out_dim, flip_sin_to_cos=False, freq_shift=1.0)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    t = torch.tensor([0.0, 3.5, 999.0])
    assert torch.equal(ours(t), theirs(get_timestep_embedding(t, 32)))


def test_time_embedding_computes_the_phase_in_float32_in_half_precision() -> None:
    embedding = TimeEmbedding(64, 32).to(torch.bfloat16)
    near = embedding(torch.tensor([998.0, 999.0]))
    assert near.dtype == torch.bfloat16
    # 998 and 999 are the same number in bfloat16, and different noise levels.
    assert not torch.equal(near[0], near[1])


# --- feed-forward ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "theirs"),
    [("geglu", "geglu"), ("gelu", "gelu"), ("gelu_tanh", "gelu-approximate"), ("silu", "linear-silu")],
)
def test_feed_forward_is_diffusers(ours: str, theirs: str) -> None:
    reference = DiffusersFeedForward(24, mult=3, activation_fn=theirs)
    module = FeedForward(24, mult=3, activation=ours)
    module.load_state_dict(reference.state_dict(), strict=True)
    x = noise(2, 5, 24)
    assert torch.equal(module(x), reference(x))


def test_relu_feed_forward_is_the_formula() -> None:
    module = FeedForward(6, mult=2, activation="relu")
    x = noise(3, 6)
    first, second = module.net[0].proj, module.net[2]
    expected = (x @ first.weight.T + first.bias).clamp(min=0) @ second.weight.T + second.bias
    torch.testing.assert_close(module(x), expected)


def test_feed_forward_dropout_acts_in_training_only() -> None:
    module = FeedForward(16, dropout=0.5)
    x = noise(4, 16)
    assert not torch.equal(module(x), module(x))
    module.eval()
    assert torch.equal(module(x), module(x))


def test_feed_forward_refuses_an_unknown_activation() -> None:
    with pytest.raises(ValueError, match="found 'mish'"):
        FeedForward(8, activation="mish")


# --- coordinates ----------------------------------------------------------------------------------------------------


def test_sincos_of_one_axis_is_diffusers() -> None:
    position = torch.arange(7, dtype=torch.float64)
    theirs = get_1d_sincos_pos_embed_from_grid(16, position, output_type="pt")
    torch.testing.assert_close(sincos_features(position[:, None], 16), theirs.float(), atol=1e-6, rtol=0)


def test_sincos_treats_axes_alike_and_in_order() -> None:
    coords = noise(5, 3) * 10
    features = sincos_features(coords, 24)
    assert features.shape == (5, 24)
    for axis in range(3):
        expected = sincos_features(coords[:, axis : axis + 1], 8)
        assert torch.equal(features[:, 8 * axis : 8 * axis + 8], expected)


def test_sincos_of_a_video_holds_the_parts_of_diffusers() -> None:
    theirs = get_3d_sincos_pos_embed(32, spatial_size=4, temporal_size=3, output_type="pt")  # [T, H * W, 32]
    row, column = torch.meshgrid(torch.arange(4), torch.arange(4), indexing="ij")
    spatial = sincos_features(torch.stack([column, row], -1).flatten(0, 1), 24)  # theirs has the column first
    temporal = sincos_features(torch.arange(3)[:, None], 8)
    expected = torch.cat([temporal[:, None].expand(-1, 16, -1), spatial[None].expand(3, -1, -1)], dim=-1)
    torch.testing.assert_close(theirs.float(), expected, atol=1e-6, rtol=0)


def test_sincos_refuses_a_width_that_does_not_divide() -> None:
    with pytest.raises(ValueError, match="multiple of 6 for 3 axes, found 16"):
        sincos_features(torch.zeros(2, 3), 16)


def test_fourier_features_are_those_of_nerf() -> None:
    features = FourierFeatures(2, 4)
    x = torch.tensor([[0.3, -0.7]], dtype=torch.float64)
    angles = (x[..., None] * torch.pi * 2.0 ** torch.arange(4)).flatten(-2)
    expected = torch.cat([x, angles.sin(), angles.cos()], dim=-1).float()
    assert features.out_dim == expected.shape[-1] == 18
    torch.testing.assert_close(features(x), expected, atol=2e-6, rtol=0)
    assert not features.state_dict()  # nothing to load: a formula, not weights


def test_fourier_frequencies_are_log_spaced_between_the_ends() -> None:
    features = FourierFeatures(1, 5, min_frequency=1.0, max_frequency=81.0, include_input=False)
    torch.testing.assert_close(features.frequencies, torch.tensor([1.0, 3.0, 9.0, 27.0, 81.0]))
    assert features(torch.zeros(3, 1)).shape == (3, features.out_dim) == (3, 10)


def test_random_fourier_features_approximate_a_gaussian_kernel() -> None:
    # E[cos(2 pi f.(x - y))] over f ~ N(0, s^2) is exp(-2 (pi s |x - y|)^2): Rahimi & Recht 2007.
    features = FourierFeatures(3, 20_000, scale=0.4, generator=torch.Generator().manual_seed(0), include_input=False)
    x, y = noise(3) * 0.3, noise(3, seed=1) * 0.3
    kernel = (features(x) * features(y)).sum() / 20_000
    assert kernel.item() == pytest.approx(math.exp(-2 * (math.pi * 0.4 * (x - y).norm().item()) ** 2), abs=0.02)


def test_random_fourier_features_are_reproducible_and_saved() -> None:
    def make(seed: int) -> FourierFeatures:
        return FourierFeatures(3, 8, scale=1.0, generator=torch.Generator().manual_seed(seed))

    a, b, c = make(0), make(0), make(1)
    assert torch.equal(a.frequencies, b.frequencies)
    assert not torch.equal(a.frequencies, c.frequencies)
    c.load_state_dict(a.state_dict())
    assert torch.equal(a(noise(4, 3)), c(noise(4, 3)))


@pytest.mark.parametrize("scale", [None, 8.0])
def test_fourier_features_ignore_autocast(scale: float | None) -> None:
    features = FourierFeatures(3, 8, scale=scale)
    x = noise(5, 3)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(features(x), features(x.clone()))
        inside = features(x)
    assert torch.equal(inside, features(x))


def test_fourier_features_refuse_other_axes() -> None:
    with pytest.raises(ValueError, match=r"expected coordinates \[..., 3\], found \[4, 2\]"):
        FourierFeatures(3, 8)(torch.zeros(4, 2))


def test_quantised_bits_by_hand() -> None:
    # (0 + 1) * 128 = 128 = 10000000; (-0.5 + 1) * 128 = 64 = 01000000; most significant bit first, axis by axis.
    bits = quantised_bits(torch.tensor([0.0, -0.5]))
    assert bits.tolist() == [1, -1, -1, -1, -1, -1, -1, -1, -1, 1, -1, -1, -1, -1, -1, -1]
    assert bits_to_coords(bits).tolist() == [0.0, -0.5]


def test_quantised_bits_clamp_where_the_original_wraps() -> None:
    edge = torch.tensor([[1.0], [1.5], [-1.25]], dtype=torch.float64)
    assert bits_to_coords(quantised_bits(edge)).flatten().tolist() == [254 / 256, 254 / 256, -1.0]
    # 256, 320 and -32 in two's complement of 8 bits: 0, 64 and 224
    wrapped = bits_to_coords(quantised_bits(edge, wrap=True)).flatten().tolist()
    assert wrapped == [2 * (n / 256 - 0.5) for n in (0, 64, 224)]


def test_quantised_bits_rounding() -> None:
    x = torch.tensor([100.75, 129.5, 130.5], dtype=torch.float64) / 128 - 1
    assert ((bits_to_coords(quantised_bits(x)) / 2 + 0.5) * 256).tolist() == [101, 130, 130]
    assert ((bits_to_coords(quantised_bits(x, rounding="down")) / 2 + 0.5) * 256).tolist() == [100, 129, 130]


@settings(max_examples=50, deadline=None)
@given(st.lists(st.floats(-2, 2), min_size=1, max_size=8))
def test_wrapped_bits_are_the_training_target_of_the_original(values: list[float]) -> None:
    # The low 8 bits of round(256 (x / 2 + 1/2)) in two's complement, written out with Python's integers.
    expected = [f"{round(256 * (x / 2 + 0.5)) & 255:08b}" for x in values]
    got = quantised_bits(torch.tensor(values, dtype=torch.float64), wrap=True)
    assert ["".join("1" if bit > 0 else "0" for bit in code) for code in got.view(-1, 8).tolist()] == expected


@settings(max_examples=50, deadline=None)
@given(st.integers(1, 12), st.lists(st.floats(-1, 1 - 1e-9), min_size=1, max_size=6), st.booleans())
def test_bits_round_trip_within_a_cell(bits: int, values: list[float], nearest: bool) -> None:
    x, cell = torch.tensor(values, dtype=torch.float64), 2 / 2**bits
    code = quantised_bits(x, bits, rounding="nearest" if nearest else "down")
    assert code.shape == (len(values) * bits,)
    assert set(code.tolist()) <= {-1.0, 1.0}
    back = bits_to_coords(code, bits)
    error = x - back
    assert error.min() >= (-cell / 2 if nearest else 0) - 1e-12
    inside = x <= 1 - cell  # above the last code there is only clamping
    assert (error[inside] <= (cell / 2 if nearest else cell) + 1e-12).all()
    assert (error < cell).all()
    assert torch.equal(quantised_bits(back, bits), code)  # decoding lands on the lattice, and stays there


def test_bits_to_coords_thresholds_at_zero_and_names_a_bad_width() -> None:
    assert bits_to_coords(torch.tensor([0.1, -3.0, 0.0]), 3).item() == 0.0  # 100 = 4 of 8
    assert bits_to_coords(torch.ones(2, 10, dtype=torch.bfloat16), 10).tolist() == [[2 * (1023 / 1024 - 0.5)]] * 2
    with pytest.raises(ValueError, match="multiple of 8, found 12"):
        bits_to_coords(torch.zeros(12))


# --- modulation -----------------------------------------------------------------------------------------------------


def random_modulation(chunks: int = 3) -> AdaLNZero:
    module = AdaLNZero(6, 4, chunks)
    torch.nn.init.normal_(module.linear.weight)
    torch.nn.init.normal_(module.linear.bias)
    return module


def test_adaln_starts_as_zero_and_cuts_in_order() -> None:
    x = noise(2, 5, 4)
    assert all(not chunk.any() for chunk in AdaLNZero(6, 4, 6)(noise(2, 6), x))
    module = random_modulation()
    cond = noise(2, 6)
    whole = torch.nn.functional.silu(cond) @ module.linear.weight.T + module.linear.bias
    shift, scale, gate = module(cond, x)
    torch.testing.assert_close(torch.cat([shift, scale, gate], -1), whole[:, None])
    torch.testing.assert_close(modulate(x, shift, scale), x + x * whole[:, None, 4:8] + whole[:, None, :4])


def test_adaln_per_run_equals_per_token() -> None:
    module = random_modulation()
    cond, index, x = noise(3, 6), torch.tensor([0, 0, 1, 2, 2, 2]), noise(1, 6, 4)
    for ours, expected in zip(module(cond, x, index), module(cond[index][None], x), strict=True):
        assert ours.shape == (1, 6, 4)
        torch.testing.assert_close(ours, expected)
    frames, x = noise(2, 3, 6), noise(2, 6, 4)  # every row of a dense batch cut alike, with its own runs
    for ours, expected in zip(module(frames, x, index), module(frames[:, index], x), strict=True):
        torch.testing.assert_close(ours, expected)


def test_adaln_runs_the_linear_once_per_run() -> None:
    module = random_modulation()
    rows: list[int] = []
    module.linear.register_forward_hook(lambda _module, inputs, _output: rows.append(inputs[0].shape[0]))
    module(noise(3, 6), noise(1, 600, 4), torch.arange(600) % 3)
    assert rows == [3]


@pytest.mark.parametrize(
    ("cond", "index"),
    [((3, 6), None), ((1, 4, 6), None), ((2, 3, 6), 5), ((1, 3, 6), 4), ((1, 1, 5, 6), 5)],
)
def test_adaln_refuses_what_broadcasting_would_take(cond: tuple[int, ...], index: int | None) -> None:
    cond_index = None if index is None else torch.zeros(index, dtype=torch.long)
    with pytest.raises(ValueError, match=r"cond: for tokens \[1, 5, 4\] expected"):
        random_modulation()(torch.zeros(cond), torch.zeros(1, 5, 4), cond_index)


def test_adaln_refuses_shared_runs_over_a_dense_batch() -> None:
    with pytest.raises(ValueError, match=r"expected \[2, R, C\] with cond_index \[5\]"):
        random_modulation()(torch.zeros(3, 6), torch.zeros(2, 5, 4), torch.zeros(5, dtype=torch.long))


def test_adaln_chunks_follow_the_stream() -> None:
    module = random_modulation()
    with torch.autocast("cpu", torch.bfloat16):
        assert all(chunk.dtype == torch.float32 for chunk in module(noise(2, 6), noise(2, 5, 4)))
    half = module.to(torch.bfloat16)
    chunks = half(noise(2, 6).to(torch.bfloat16), noise(2, 5, 4).to(torch.bfloat16))
    assert all(chunk.dtype == torch.bfloat16 for chunk in chunks)
