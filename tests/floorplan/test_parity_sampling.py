"""Sampling against the original's recorded runs, step by step: every step starts from the recorded state."""

from functools import partial

import pytest
import torch
from trifold.common.diffusion import DiscretePath, respace
from trifold.common.diffusion.implicit import ddim
from trifold.common.diffusion.noise import ReplayNoise
from trifold.common.diffusion.samplers import ancestral, posterior
from trifold.common.diffusion.step import Step, level_at
from trifold.floorplan.network import HouseNet
from trifold.floorplan.process import HouseDenoiser, house_path

from . import golden

TOLERANCE = 1e-6


def check_run(
    name: str, file: str, net: HouseNet, *, eta: float | None = None, discrete_below: int, most_flips: float = 0.0
) -> None:
    data = {k.removeprefix(f"{name}/"): v for k, v in golden.tensors(file).items() if k.startswith(f"{name}/")}
    run = golden.notes()["sampling"][name]
    cond = golden.condition(run["plans"], synthetic=True)
    stored = {int(i): n for n, i in enumerate(data["step_index"])}
    path = house_path()
    times = [*times_of(path, run["respacing"]), -1]
    assert [times[i] for i in stored] == data["t_original"].tolist()
    worst, flipped, entries = 0.0, 0, 0

    def compare(step: Step) -> torch.Tensor:
        nonlocal worst, flipped, entries
        if step.index not in stored:
            return step.x_s
        x_s = golden.packed(data["samples"][stored[step.index]], cond)
        x_0 = golden.packed(data["pred_xstart"][stored[step.index]], cond)
        # Where bits are decoded, rounding (of the kernel, or of eps multiplied by sigma / alpha far from the data) puts
        # an estimate on the other side of the edge between two codes, and a coordinate moves by a whole bin.
        differs = (step.x0_hat - x_0).abs() > 1e-3
        if step.t < discrete_below:
            flipped, entries = flipped + int(differs.sum()), entries + differs.numel()
        else:
            assert not differs.any(), f"step {step.index}"
        # The original takes 1 - alpha_bar in float32: at t = 0 that is 2.5e-6 with an error of 2 %.
        rounding = 1e-4 * float(eps_of(step, path).abs().max()) if step.s == 0 else 0.0
        worst = max(worst, float((step.x_s - x_s)[~differs].abs().max()) - rounding)
        return x_s

    noise = ReplayNoise([golden.packed(n, cond) for n in data["noise"]])
    sampler = partial(ancestral, variance="fixed_large") if eta is None else partial(ddim, eta=eta)
    denoiser = HouseDenoiser(net, path, discrete_below=discrete_below)
    sampler(denoiser, golden.packed(data["x_T"], cond), times, cond, generator=noise, on_step=compare)
    assert flipped <= most_flips * entries
    assert worst <= TOLERANCE


def eps_of(step: Step, path: DiscretePath) -> torch.Tensor:
    return (step.x_t - path.alpha(int(step.t)) * step.x0_hat) / path.sigma(int(step.t))


def times_of(path: DiscretePath, respacing: str) -> list[int]:
    return respace(path, respacing).timestep_map.tolist()[::-1]


@pytest.mark.parametrize(
    ("name", "eta", "respaced_threshold"),
    [
        ("ddpm20_original", None, 32),
        ("ddpm20_continuous", None, 0),
        ("ddpm_cross", None, 32),
        ("ddim20_eta0", 0.0, 32),
        ("ddim20_eta0.5", 0.5, 32),
    ],
)
def test_small_model(name, eta, respaced_threshold):
    """The original compares the respaced index with 32; in original time that is another threshold for every run."""
    spaced = respace(house_path(), golden.notes()["sampling"][name]["respacing"]).timestep_map.tolist()
    below = spaced[respaced_threshold] if respaced_threshold < len(spaced) else 1000
    below = 0 if respaced_threshold == 0 else below
    check_run(name, "sampling_small", golden.small_net(), eta=eta, discrete_below=below)


def test_analog_bits():
    check_run("analog20", "sampling_small", golden.small_net("model_small_analog_state_dict"), discrete_below=0)


def test_default_size():
    shapes = golden.original_shapes("hash_init_default_fingerprint")
    net = golden.build(golden.formula_weights(shapes, golden.notes()["cfg"]["hash_salt"]))
    # Hashed weights leave every bit near even odds, so that flips are expected; chance would be nearly all entries.
    run = partial(check_run, "ddpm20_default_hashinit", "sampling_default_hashinit", net)
    run(discrete_below=1000, most_flips=0.03)


def test_continuous_run_stays_together_unguided():
    """Without teacher forcing 20 continuous steps end where the original's do."""
    data = golden.tensors("sampling_small")
    cond = golden.condition(["s1", "s2"], synthetic=True)
    path, name = house_path(), "ddpm20_continuous"
    noise = ReplayNoise([golden.packed(n, cond) for n in data[f"{name}/noise"]])
    x = golden.packed(data[f"{name}/x_T"], cond)
    denoiser = HouseDenoiser(golden.small_net(), path, discrete_below=0)
    out = ancestral(denoiser, x, [*times_of(path, "20"), -1], cond, generator=noise, variance="fixed_large")
    torch.testing.assert_close(out, golden.packed(data[f"{name}/samples"][-1], cond), atol=1e-5, rtol=0)


@pytest.mark.parametrize("t", [999, 500, 33, 32, 31, 10, 1, 0])
def test_mean_and_variance(t):
    data = {k.split("/")[1]: v for k, v in golden.tensors("p_mean_variance_small").items() if k.startswith(f"t{t}/")}
    cond = golden.condition(["s1", "s2", "s3"], synthetic=True)
    path = house_path()
    x = golden.packed(data["x"], cond)
    with torch.no_grad():
        x0 = HouseDenoiser(golden.small_net(), path, discrete_below=32)(x, torch.tensor(t), cond)
    torch.testing.assert_close(x0, golden.packed(data["pred_xstart"], cond), atol=TOLERANCE, rtol=0)
    c_x, c_0, _ = posterior(level_at(path, t), level_at(path, t - 1))
    torch.testing.assert_close(c_x * x + c_0 * x0, golden.packed(data["mean"], cond), atol=TOLERANCE, rtol=0)
    variance = path.fixed_large_variance[t]
    assert variance.item() == pytest.approx(data["variance"][0, 0, 0].item(), rel=1e-6)
    assert variance.log().item() == pytest.approx(data["log_variance"][0, 0, 0].item(), rel=1e-6)


def test_time_embedding_and_time_sampler():
    import numpy as np
    from trifold.common.nn import timestep_embedding

    data = golden.tensors("misc")
    for key, dim in (("timestep_embedding", 32), ("timestep_embedding_512", 512)):
        # A frequency's last bit times t = 999.
        torch.testing.assert_close(timestep_embedding(data["timestep_embedding_t"], dim), data[key], atol=5e-5, rtol=0)
    # The original draws with numpy: uniform over the 1000 steps, importance weight 1.
    drawn = np.random.RandomState(golden.notes()["cfg"]["ds_seed"]).choice(1000, size=(16,), p=np.full(1000, 1 / 1000))
    assert drawn.tolist() == data["uniform_t"].tolist()
    assert (data["uniform_w"] == 1).all()
