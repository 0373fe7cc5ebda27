"""Measures against cases worked by hand, and what a perfect clip scores."""

import math

import numpy as np
import pytest
import torch
from trifold.video import metrics
from trifold.video.errors import VideoError


def grey(*levels: float, side: int = 12) -> np.ndarray:
    """One flat frame per level (0 to 1)."""
    return np.stack([np.full((side, side, 3), level, np.float32) for level in levels])


def noise(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).random(shape, dtype=np.float32)


# ---------------------------------------------------------------------------------------------------- likeness


def test_psnr_by_hand():
    assert metrics.psnr(grey(0.5), grey(0.6)) == pytest.approx(20.0, abs=1e-4)  # MSE 0.01
    # One frame equal, one off by 0.1: one mean over both, 0.005.
    assert metrics.psnr(grey(0.5, 0.5), grey(0.5, 0.6)) == pytest.approx(10 * math.log10(200), abs=1e-4)
    one_level = metrics.psnr(np.zeros((1, 4, 4, 3), np.uint8), np.ones((1, 4, 4, 3), np.uint8))
    assert one_level == pytest.approx(20 * math.log10(255), abs=1e-4)
    assert metrics.psnr(grey(0.3), grey(0.3)) == math.inf


def test_ssim_of_flat_pictures_is_the_luminance_term():
    a, b, c1 = 0.25, 0.75, 1e-4
    assert metrics.ssim(grey(a), grey(b)) == pytest.approx((2 * a * b + c1) / (a * a + b * b + c1), abs=1e-6)
    assert metrics.ssim(grey(a, 0.1), grey(b, 0.1)) == pytest.approx(
        ((2 * a * b + c1) / (a * a + b * b + c1) + 1) / 2, abs=1e-6
    )


def test_ssim_of_one_window_by_its_formula():
    a, b = noise(1, 11, 11, 1, seed=1), noise(1, 11, 11, 1, seed=2)
    x, y = a[0, ..., 0].astype(float), b[0, ..., 0].astype(float)
    d = np.arange(11) - 5
    w = np.exp(-(d[:, None] ** 2 + d[None] ** 2) / (2 * 1.5**2))
    w /= w.sum()
    mx, my = (w * x).sum(), (w * y).sum()
    vx, vy, cxy = (w * (x - mx) ** 2).sum(), (w * (y - my) ** 2).sum(), (w * (x - mx) * (y - my)).sum()
    c1, c2 = 0.01**2, 0.03**2
    expected = (2 * mx * my + c1) * (2 * cxy + c2) / ((mx**2 + my**2 + c1) * (vx + vy + c2))
    assert metrics.ssim(a, b) == pytest.approx(expected, abs=1e-7)


def test_ssim_agrees_with_torchmetrics():
    functional = pytest.importorskip("torchmetrics.functional.image")
    a, b = noise(2, 24, 30, 3, seed=3), noise(2, 24, 30, 3, seed=4)
    b = (0.7 * a + 0.3 * b).astype(np.float32)
    x, y = (torch.from_numpy(v).permute(0, 3, 1, 2).double() for v in (a, b))
    _, everywhere = functional.structural_similarity_index_measure(x, y, data_range=1.0, return_full_image=True)
    within = everywhere[..., 5:-5, 5:-5]  # it reflects the picture at its border
    assert metrics.ssim(a, b) == pytest.approx(float(within.mean()), abs=1e-5)
    assert metrics.ssim(a, a) == pytest.approx(1.0, abs=1e-12)


def test_the_background_alone_counts():
    source = noise(2, 32, 32, 3)
    edited, mask = source.copy(), np.zeros((2, 32, 32), bool)
    edited[:, 4:10, 4:10] = 0.5
    mask[:, 4:10, 4:10] = True
    assert metrics.background_preservation(edited, source, mask) == (math.inf, pytest.approx(1.0, abs=1e-12))
    edited[:, 20:] += 0.1 * (1 - edited[:, 20:])
    changed, similar = metrics.background_preservation(edited, source, mask)
    assert changed < 40
    assert similar < 0.9999
    mask[:] = True
    mask[:, :5, :5] = False  # pixels are left, but no whole window of 11 x 11
    assert math.isnan(metrics.background_preservation(source, source, mask)[1])
    with pytest.raises(VideoError, match="no pixel is left"):
        metrics.background_preservation(source, source, np.ones((2, 32, 32), bool))


def test_latent_round_trip_error():
    x = torch.tensor([3.0, 4.0])
    assert metrics.latent_round_trip_error(x, torch.tensor([3.0, 4.5])) == pytest.approx(0.1)
    assert metrics.latent_round_trip_error(x, x) == 0


# ------------------------------------------------------------------------------------------------------- motion


def moving(shift: int, frames: int = 4, side: int = 24) -> tuple[np.ndarray, np.ndarray]:
    """A texture that moves `shift` pixels to the right per frame, and its flow."""
    wide = noise(side, side + shift * frames + 4, 3)
    clip = np.stack([wide[:, (frames - i) * shift : (frames - i) * shift + side] for i in range(frames)])
    flow = np.zeros((frames - 1, side, side, 2), np.float32)
    flow[..., 0] = shift
    return clip, flow


def test_the_source_follows_its_own_flow():
    clip, flow = moving(3)
    everywhere = np.ones(flow.shape[:-1], bool)
    assert metrics.warp_error(clip, flow, everywhere) < 1e-10
    still = np.repeat(clip[:1], len(clip), axis=0)  # perfectly consistent in time, and yet wrong
    assert metrics.consecutive_psnr(still) == math.inf
    # Independent uniform values: E (a - b)^2 = 1/6.
    assert metrics.warp_error(still, flow, everywhere) == pytest.approx(1 / 6, rel=0.05)


def test_warp_error_by_hand():
    # A ramp of 0.1 per pixel, flow of one and a half pixels: off by 0.15 wherever the target is inside.
    ramp = np.tile(np.arange(8, dtype=np.float32)[None, None, :, None] * 0.1, (2, 3, 1, 1))
    flow = np.zeros((1, 3, 8, 2), np.float32)
    flow[..., 0] = 1.5
    everywhere = np.ones((1, 3, 8), bool)
    assert metrics.warp_error(ramp, flow, everywhere) == pytest.approx(0.15**2, rel=1e-4)
    half = everywhere.copy()
    half[:, :2] = False
    ramp[1, :2] = 0.9  # only hidden pixels change
    assert metrics.warp_error(ramp, flow, half) == pytest.approx(0.15**2, rel=1e-4)
    with pytest.raises(VideoError, match="seen in two frames"):
        metrics.warp_error(ramp, flow, np.zeros((1, 3, 8), bool))


def test_warp_looks_up_x_then_y():
    picture = torch.zeros(1, 1, 4, 5)
    picture[0, 0, 3, 1] = 1
    flow = torch.tensor([-1.0, 2.0]).expand(1, 4, 5, 2)
    values, inside = metrics.warp(picture, flow)
    assert values[0, 0].nonzero().tolist() == [[1, 2], [2, 2], [3, 2]]  # rows 2 and 3 take the border's value
    assert inside[0].tolist() == [[False, True, True, True, True]] * 2 + [[False] * 5] * 2


def test_flows_compared():
    a = np.zeros((1, 2, 2, 2), np.float32)
    a[..., 0] = 3
    b = np.zeros_like(a)
    b[..., 1] = 4
    assert metrics.end_point_error(a, b) == 5
    assert metrics.flow_correlation(a, b) == 0
    assert metrics.flow_correlation(a, 2 * a) == pytest.approx(1)
    assert metrics.flow_correlation(a, -a) == pytest.approx(-1)
    mixed = a.copy()
    mixed[0, 0] = b[0, 0]  # half of it: 2 x 9 / sqrt((2 x 9 + 2 x 16) (4 x 9))
    assert metrics.flow_correlation(mixed, a) == pytest.approx(18 / math.sqrt(50 * 36))
    where = np.zeros((1, 2, 2), bool)
    where[0, 1] = True
    assert metrics.end_point_error(mixed, a, where=where) == 0
    still = np.zeros_like(a)
    assert (metrics.flow_correlation(still, a), metrics.flow_correlation(still, still)) == (0.0, 1.0)
    assert metrics.flow_correlation(still + 0.03, a) == 0  # 0.042 px is the noise of an estimate
    assert metrics.flow_correlation(still + 0.03, still) == 1


# -------------------------------------------------------------------------------------------- consistency in time


def test_differences_by_hand():
    assert metrics.difference_energy(grey(0.1, 0.3, 0.3)) == pytest.approx(0.02)  # (0.04 + 0) / 2
    assert metrics.difference_energy_ratio(grey(0.1, 0.3, 0.3), grey(0.1, 0.2, 0.2)) == pytest.approx(4, rel=1e-5)
    assert math.isnan(metrics.difference_energy_ratio(grey(0.1, 0.2), grey(0.1, 0.1)))
    assert metrics.consecutive_psnr(grey(0.1, 0.2, 0.3)) == pytest.approx(20, abs=1e-4)
    assert metrics.consecutive_ssim(grey(0.2, 0.2)) == pytest.approx(1, abs=1e-9)


def test_flicker_by_hand():
    # The mean luma is a DCT component itself: k = 3 of 4 is fast, k = 1 is slow.
    def component(k: int, frames: int = 4) -> np.ndarray:
        return grey(*(0.5 + 0.2 * np.cos(np.pi / frames * (np.arange(frames) + 0.5) * k)))

    assert metrics.flicker_share(component(3)) == pytest.approx(1, abs=1e-6)
    assert metrics.flicker_share(component(1)) == pytest.approx(0, abs=1e-6)
    assert metrics.brightness_flicker(component(3)) == pytest.approx(255 * 0.2 / math.sqrt(2), rel=1e-4)
    assert metrics.brightness_flicker(component(1)) == pytest.approx(0, abs=1e-3)
    both = component(3) + component(1) - 0.5
    assert metrics.flicker_share(both.astype(np.float32)) == pytest.approx(0.5, abs=1e-5)


def test_a_still_video_does_not_flicker_and_noise_does():
    still = np.repeat(noise(1, 16, 16, 3), 8, axis=0)
    assert metrics.flicker_share(still) == 0
    assert metrics.brightness_flicker(still) == pytest.approx(0, abs=1e-4)
    # Components 5 to 8 of 9 are fast among the 8 that change.
    assert metrics.flicker_share(noise(9, 64, 64, 3)) == pytest.approx(0.5, abs=0.02)
    ramp = grey(*np.linspace(0.2, 0.8, 16))
    assert metrics.flicker_share(ramp) < 0.01


# --------------------------------------------------------------------------------------------- text-image scores


def test_frame_consistency_of_three_directions():
    x = torch.tensor([[1.0, 0.0], [0.0, 2.0], [3.0, 3.0]])
    root = 1 / math.sqrt(2)
    assert metrics.frame_consistency(x, pairs="consecutive") == pytest.approx((0 + root) / 2)
    assert metrics.frame_consistency(x, pairs="all") == pytest.approx((0 + root + root) / 3)


def test_text_scores():
    x = torch.tensor([[1.0, 0.0], [1.0, 1.0], [0.1, 1.0]])
    target, source = torch.tensor([1.0, 0.0]), torch.tensor([0.0, 5.0])
    cosines = [1, 1 / math.sqrt(2), 0.1 / math.sqrt(1.01)]
    assert metrics.text_alignment(x, target) == pytest.approx(100 * sum(cosines) / 3)
    assert metrics.frame_accuracy(x, target, source) == pytest.approx(1 / 3)  # the tie of the middle one does not count


# ------------------------------------------------------------------------------------------------------- bad input


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: metrics.psnr(grey(0.1), grey(0.1, 0.2)), "differ in shape"),
        (lambda: metrics.psnr(grey(0.1) * 20, grey(0.1)), r"floats must lie in \[0, 1\], found 2 to 2"),
        (lambda: metrics.psnr(grey(0.1) * np.nan, grey(0.1)), "found nan"),
        (lambda: metrics.psnr(grey(0.1).astype(int), grey(0.1)), "found int64"),
        (lambda: metrics.ssim(grey(0.1, side=10), grey(0.1, side=10)), "at least 11 x 11"),
        (lambda: metrics.consecutive_psnr(grey(0.1)), "at least 2 frames, found 1"),
        (lambda: metrics.flicker_share(grey(0.1, 0.2)), "at least 3 frames, found 2"),
        (lambda: metrics.psnr(grey(0.1), grey(0.2), where=np.ones((1, 2, 2), bool)), r"expected bool \[1, 12, 12\]"),
        (
            lambda: metrics.warp_error(grey(0.1, 0.2), np.zeros((2, 12, 12, 2)), np.ones((2, 12, 12), bool)),
            r"flow: expected \[1, 12, 12, 2\] for 2 frames",
        ),
        (lambda: metrics.frame_consistency(torch.ones(1, 4), pairs="all"), "at least 2 frames"),
        (lambda: metrics.latent_round_trip_error(torch.ones(2), torch.ones(3)), "latents differ in shape"),
    ],
)
def test_bad_input_is_told(call, message):
    with pytest.raises(VideoError, match=message):
        call()
