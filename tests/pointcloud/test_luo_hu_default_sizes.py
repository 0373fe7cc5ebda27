"""The published sizes (latent 256, T = 200 and 100, 14 couplings), with weights that are a formula of their names."""

import argparse

import pytest
import torch
from trifold.common.diffusion import ReplayNoise
from trifold.pointcloud.luo_hu import AutoEncoder, FlowVAE
from trifold.pointcloud.luo_hu.checkpoint import SCHEDULE, model_from_original

from . import golden
from .luo_hu_models import KINDS

SIZES = golden.notes()["default_sizes"]
SEED, CASES = SIZES["seed"], SIZES["cases"]


def noise(name: str, *shape: int) -> torch.Tensor:
    return golden.formula_noise(SEED, name, shape)


def close(got, want, tolerance: float) -> None:
    error = golden.scaled_error(got, want)
    assert error <= tolerance, f"scaled error {error:.2e}, allowed {tolerance:g}"


def matches(got: torch.Tensor, digest: dict, tolerance: float = 3e-5) -> None:
    close(got.flatten()[:8], digest["first8"], tolerance)
    close(got.flatten()[-4:], digest["last4"], tolerance)
    close(got.double().norm(), digest["l2"], tolerance)


def build(name: str):
    case = CASES[name]
    shapes = {k: s for k, s in case["state_dict_shapes"].items() if not k.startswith(SCHEDULE)}
    told = {} if name == "AutoEncoder" else {"model": KINDS[name]}
    return model_from_original(golden.formula_weights(SEED, shapes), argparse.Namespace(**case["args"], **told))


def test_formulas():
    check = golden.notes()["formula_check"]
    assert golden.formula_uniform(7, "a.b", (4,)).tolist() == check["uniform(7,'a.b',[4])"]
    close(golden.formula_noise(7, "a", (3,)), check["normalish(7,'a',[3])"], 1e-6)


@pytest.mark.parametrize("name", list(CASES))
def test_published_sizes(name):
    case, model = CASES[name], build(name)
    assert sum(p.numel() for p in model.parameters()) == case["parameters"]
    x, points_noise = noise("x", 2, 2048, 3), noise("noise_points", 2, 2048, 3)
    steps, vectors = model.config.num_steps, golden.tensors()
    with torch.no_grad():
        q = model.encoder(x)
        matches(q.mean, case["encoder_mean"])
        matches(q.log_variance, case["encoder_logvar"])
        close(q.mean, vectors[f"default/{name}/encoder_mean"], 3e-5)
        for t in (1, steps // 2, steps):
            x_t = model.path.add_noise(x, points_noise, t)
            matches(model.denoiser().predict(x_t, torch.tensor(t), q.mean).raw, case[f"eps_t{t}"])
        times = torch.tensor(case["loss"]["t"])
        if isinstance(model, AutoEncoder):
            loss, z = model(x, times, points_noise), q.mean
        else:
            w = noise("w", 2, 256)
            loss = model(x, times, points_noise, noise("noise_latent", 2, 256), constant="original").total
            z = model.from_prior(w)
        close(loss, case["loss"]["value"], 2e-5)
        if isinstance(model, FlowVAE):
            matches(z, case["flow_z_from_w"], 1e-4)
    draws = [noise(f"draw{i}", 2, 256, 3) for i in range(steps)]
    for flexibility in (0.0, 0.5):
        got = model.decode(z, 256, generator=ReplayNoise(draws), flexibility=flexibility)
        close(got, vectors[f"default/{name}/sample_flex{flexibility:g}"], 2e-3)
