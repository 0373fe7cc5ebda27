"""The sampling times, and the loss over plans that have bits."""

from itertools import pairwise

import pytest
import torch
from trifold.floorplan.process import HouseLoss, few_step_times, house_path


@pytest.mark.parametrize("num_steps", [1, 2, 3, 7, 20, 50, 333, 999, 1000])
def test_few_step_times_fall_from_noise_to_clean(num_steps):
    times = few_step_times(house_path(), num_steps)
    assert len(times) == num_steps + 1
    assert times[0] == 999
    assert times[-1] == -1
    assert all(s < t for t, s in pairwise(times))


def test_a_thousand_steps_are_all_steps():
    assert few_step_times(house_path(), 1000) == list(range(999, -2, -1))


@pytest.mark.parametrize("num_steps", [2, 5, 20, 1000])
def test_bits_are_decoded_however_few_the_steps(num_steps):
    assert few_step_times(house_path(), num_steps, discrete_below=32)[-2] < 32


def test_total_loss_by_hand():
    losses = HouseLoss(torch.tensor([1.0, 2.0, 3.0, 6.0]), torch.tensor([0.5, torch.nan, 1.5, torch.nan]))
    assert losses.total().item() == 3 + 1
    assert losses.total(0.1).item() == pytest.approx(3.1)
    assert losses.total(1.0, share=0.25).item() == 3 + (0.5 + 1.5) / (0.25 * 4)


def test_shares_of_two_halves_add_up_to_the_whole():
    continuous, discrete = torch.rand(8), torch.rand(8)
    discrete[::3] = torch.nan
    whole = HouseLoss(continuous, discrete).total(0.3, share=0.5)
    halves = [HouseLoss(continuous[i::2], discrete[i::2]).total(0.3, share=0.5) for i in (0, 1)]
    torch.testing.assert_close(whole, sum(halves) / 2)
