"""The nets, losses, samplers and optimiser steps of the original, number for number."""

import re

import pytest
import torch
from trifold.common.diffusion import ReplayNoise
from trifold.pointcloud.luo_hu.checkpoint import rename_key, rename_keys
from trifold.pointcloud.luo_hu.denoiser import ConcatSquash
from trifold.pointcloud.luo_hu.likelihood import first_within, gaussian_entropy, standard_normal_log_prob
from trifold.pointcloud.luo_hu.process import luo_hu_path, reverse_stds
from trifold.pointcloud.luo_hu.training import LuoHuTraining

from . import golden
from .luo_hu_models import CONFIG, autoencoder, flow_vae, gaussian_vae

V, NOTES = golden.tensors(), golden.notes()
SINGLE, TRAJECTORY, WEIGHTS = 2e-5, 5e-5, 1e-3
# A batch norm follows, so they have no effect, and a gradient of rounding errors only, which Adam enlarges.
WITHOUT_EFFECT = r"encoder\.(conv\d|bn4|fc[12]_[mv])\.bias"
X, NOISE, LATENT_NOISE, T = (V[f"inputs/{n}"] for n in ("x", "noise_points", "noise_latent", "t"))


def close(got, want, tolerance: float = SINGLE) -> None:
    error = golden.scaled_error(got, want)
    assert error <= tolerance, f"scaled error {error:.2e}, allowed {tolerance:g}"


# ------------------------------------------------------------------------------------------------ schedule and units


@pytest.mark.parametrize("table", CONFIG["tables"], ids=str)
def test_schedule(table):
    steps, beta_1, beta_T = table
    path, name = luo_hu_path(steps, beta_1, beta_T), f"schedule/T{steps}_b{beta_1:g}_{beta_T:g}"
    times = torch.arange(1, steps + 1)
    for key, ours in {
        "betas": path.betas,
        "alphas": 1 - path.betas,
        "alpha_bars": path.alpha(times) ** 2,
        "sigmas_flex": reverse_stds(path, 1.0),
        "sigmas_inflex": reverse_stds(path, 0.0),
        "sigma_flex0.5": reverse_stds(path, 0.5),
    }.items():
        close(ours, V[f"{name}/{key}"][1:], 2e-6)  # entry 0 pads the original's tables
    assert torch.equal(path.c_noise(times), path.betas)  # the net is told beta itself
    assert (path.t_min, path.t_max, path.t_clean) == (1, steps, 0)


def test_concat_squash():
    unit = {k.removeprefix("unit/concat_squash/"): v for k, v in V.items() if k.startswith("unit/concat_squash/")}
    layer = ConcatSquash(3, 7, 5)
    names = {"linear": "_layer", "gate": "_hyper_gate", "shift": "_hyper_bias"}
    layer.load_state_dict({k: unit[f"{names[k.split('.')[0]]}.{k.split('.')[1]}"] for k in layer.state_dict()})
    close(layer(unit["x"], unit["ctx"][:, 0]), unit["out"])


@pytest.mark.parametrize("bound", [1, 2])
def test_published_truncation(bound):
    close(first_within(V["unit/truncated_normal/raw"], bound) * 2.0 + 0.5, V[f"unit/truncated_normal/out_trunc{bound}"])


# ------------------------------------------------------------------------------------------------------------- nets


def test_encoder_in_eval_mode():
    encoder = autoencoder().encoder
    with torch.no_grad():
        q = encoder(X)
        close(encoder.pool(X), V["encoder/eval/pool512"])
        assert torch.equal(encoder.mean(X), q.mean)
    close(q.mean, V["encoder/eval/mean"])
    close(q.log_variance, V["encoder/eval/logvar"])


def test_encoder_in_training_mode_and_its_running_statistics():
    encoder = flow_vae().encoder.train()
    q = encoder(X)
    close(q.mean, V["encoder/train/mean"])
    close(q.log_variance, V["encoder/train/logvar"])
    prefix, after = "encoder/train/after_one_forward/", dict(encoder.named_buffers())
    recorded = {k.removeprefix(prefix): v for k, v in V.items() if k.startswith(prefix)}
    assert len(recorded) == 16
    for name, value in recorded.items():
        close(after[rename_key(f"encoder.{name}").removeprefix("encoder.")], value)


@pytest.mark.parametrize("t", CONFIG["ts"])
@pytest.mark.parametrize("residual", [True, False])
def test_denoiser(residual, t):
    model = autoencoder(residual)
    x_t, z = V[f"denoiser/x_t/t{t}"], V["encoder/eval/mean"]
    close(model.path.add_noise(X, NOISE, t), x_t)
    beta = model.path.c_noise(torch.full((len(x_t),), t)).float()
    with torch.no_grad():
        eps = model.net(x_t, beta, z)
        assert torch.equal(model.net(x_t, beta, model.net.embed(z)), eps)
        close(model.denoiser().predict(x_t, torch.tensor(t), z).raw, eps)
    close(eps, V[f"denoiser/eps/residual_{residual}/t{t}"])


def test_flow_both_ways():
    flow, z = flow_vae().flow, V["flow/z"]
    with torch.no_grad():
        w, log_det = flow(z)
        back, log_det_back = flow.inverse(w)
        close(flow.inverse(V["inputs/w"])[0], V["flow/z_from_inputs_w"])
    close(w, V["flow/w"])
    close(-log_det[:, None], V["flow/delta_logp"])
    close(log_det, V["flow/logabsdet_autograd"])
    close(back, V["flow/z_back"])
    close(-log_det_back[:, None], V["flow/delta_logp_back"])


def test_gaussian_terms():
    w = V["flow/w"]
    close(standard_normal_log_prob(w, "original"), V["flow/standard_normal_logprob_w"].sum(1))
    close(standard_normal_log_prob(w), torch.distributions.Normal(0, 1).log_prob(w).sum(1))
    close(gaussian_entropy(V["encoder/eval/logvar"]), V["flow/entropy_of_logvar"])


# ------------------------------------------------------------------------------------------------- losses and steps


@pytest.mark.parametrize("mode", ["eval", "train"])
def test_autoencoder_loss(mode):
    close(autoencoder().train(mode == "train")(X, T, NOISE), NOTES["loss"][mode]["ae"])


@pytest.mark.parametrize("mode", ["eval", "train"])
@pytest.mark.parametrize("name", ["gaussian_vae", "flow_vae"])
def test_vae_losses_and_logged_terms(name, mode):
    recorded = NOTES["loss"][mode]
    for kl in (1.0, CONFIG["kl"]):
        model = {"gaussian_vae": gaussian_vae, "flow_vae": flow_vae}[name]().train(mode == "train")
        loss = model(X, T, NOISE, LATENT_NOISE, kl, constant="original")
        close(loss.total, recorded[f"{name}/kl{kl:g}"])
    terms = {key.removeprefix("train/"): value for key, value in recorded[f"{name}/terms"].items()}
    logged = loss.logged()
    assert set(terms) <= set(logged)
    for key, value in terms.items():
        close(logged[key], value)


def flow_vae_gradients() -> dict[str, torch.Tensor]:
    model = flow_vae().train()
    model(X, T, NOISE, LATENT_NOISE, CONFIG["kl"], constant="original").total.backward()
    return {name: p.grad for name, p in model.named_parameters()}


def test_gradients():
    grads = flow_vae_gradients()
    prefix = "grad/flow_vae_train/"
    for name in [k for k in V if k.startswith(prefix)]:
        want = V[name].squeeze(-1) if ".conv" in name else V[name]
        close(grads[rename_key(name.removeprefix(prefix))], want)
    norms = NOTES["grad_flow_vae_train"]["l2_per_parameter"]
    assert {rename_key(name) for name in norms} == set(grads)
    for name, norm in norms.items():
        assert float(grads[rename_key(name)].norm()) == pytest.approx(norm, rel=2e-4, abs=2e-7), name
    total = torch.stack([g.norm() for g in grads.values()]).norm()
    close(total, NOTES["grad_flow_vae_train"]["total_norm"])


def test_the_loss_constant_has_no_gradient():
    model = flow_vae().train()
    model(X, T, NOISE, LATENT_NOISE, CONFIG["kl"]).total.backward()
    for (name, p), grad in zip(model.named_parameters(), flow_vae_gradients().values(), strict=True):
        torch.testing.assert_close(p.grad, grad, msg=name)


def test_five_optimiser_steps():
    schedule = LuoHuTraining(learning_rate=2e-3, lr_end=1e-4, lr_decay_start=2, lr_decay_end=4)
    model = flow_vae().train()
    optimiser = torch.optim.AdamW(model.parameters(), weight_decay=0.0)
    record = NOTES["steps_flow_vae"]
    for i, step in enumerate(record["steps"]):
        optimiser.param_groups[0]["lr"] = schedule.learning_rate_at(i)
        assert schedule.learning_rate_at(i) == pytest.approx(step["lr_used"], rel=1e-9)
        optimiser.zero_grad()
        loss = model(
            X, V["steps/t"][i], V["steps/noise_points"][i], V["steps/noise_latent"][i], CONFIG["kl"], "original"
        ).total
        loss.backward()
        norm = torch.nn.utils.clip_grad_norm_(model.parameters(), 10)
        optimiser.step()
        close(loss, step["loss"], 1e-4)
        close(norm, step["grad_norm_before_clip"], WEIGHTS)
    state = model.state_dict()
    for name in ("diffusion.net.layers.5._layer.weight", "encoder.bn1.running_mean"):
        close(state[rename_key(name)], V[f"steps/final/{name}"], WEIGHTS)
    for theirs, ours in rename_keys(record["final_l2"]).items():
        tolerance = 5e-3 if re.fullmatch(WITHOUT_EFFECT, theirs) else WEIGHTS
        close(state[ours].double().norm(), record["final_l2"][theirs], tolerance)


# --------------------------------------------------------------------------------------------------------- sampling


def replay() -> ReplayNoise:
    return ReplayNoise(V["inputs/sample_draws"])


@pytest.mark.parametrize("flexibility", CONFIG["flex"])
def test_autoencoder_trajectory(flexibility):
    model, states = autoencoder(), []

    def record(step):
        states.extend([step.x_t] * (not states) + [step.x_s])
        return step.x_s

    got = model.decode(V["encoder/eval/mean"], CONFIG["N"], generator=replay(), flexibility=flexibility, on_step=record)
    assert len(states) == CONFIG["num_steps"] + 1
    assert torch.equal(states[0], V["inputs/sample_draws"][0])
    if flexibility == CONFIG["flex"][-1]:
        close(got, V[f"sample/ae/flex{flexibility:g}/final"], TRAJECTORY)
    else:
        close(torch.stack(states[::-1]), V[f"sample/ae/flex{flexibility:g}/traj"], TRAJECTORY)
        close(got, V[f"sample/ae/flex{flexibility:g}/traj"][0], TRAJECTORY)


@pytest.mark.parametrize("flexibility", CONFIG["flex"][:2])
def test_flow_vae_samples(flexibility):
    model = flow_vae()
    with torch.no_grad():
        z = model.from_prior(V["inputs/w"])
    got = model.decode(z, CONFIG["N"], generator=replay(), flexibility=flexibility)
    close(got, V[f"sample/flow_vae/flex{flexibility:g}/final"], TRAJECTORY)


def test_gaussian_vae_samples():
    model = gaussian_vae()
    got = model.decode(model.from_prior(V["inputs/w"]), CONFIG["N"], generator=replay())
    close(got, V["sample/gaussian_vae/flex0/final"], TRAJECTORY)
