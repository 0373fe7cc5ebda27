"""The network, losses, gradients and optimiser steps against numbers recorded from the original HouseDiffusion."""

import pytest
import torch
from trifold.common.attention import dense_mask
from trifold.common.diffusion import DiscretePath
from trifold.common.train import EMA
from trifold.floorplan.checkpoint import convert_state_dict, rename_keys
from trifold.floorplan.dataset import PlanBatch
from trifold.floorplan.network import HouseNet
from trifold.floorplan.process import HouseLoss, house_losses, house_path

from . import golden

PLANS = ["s1", "s2", "s3"]
SLOTS = 100  # the original averages over the slots of its padded row


def path() -> DiscretePath:
    return house_path()


def run(net: HouseNet, x: torch.Tensor, t: int, cond) -> tuple[torch.Tensor, torch.Tensor]:
    alpha, sigma = path().alpha(t), path().sigma(t)
    with torch.no_grad():
        eps = net(x, torch.tensor(t), cond)
        return eps, net.bits(x, eps, alpha, sigma, cond)


@pytest.mark.parametrize("synthetic", [False, True])
@pytest.mark.parametrize("plan", PLANS)
def test_layouts_are_the_originals_masks(plan, synthetic):
    data = golden.tensors("dataset_synthetic")
    prefix = f"{plan}/eval/syn_" if synthetic else f"{plan}/train/"
    cond = golden.condition([plan], synthetic=synthetic)
    n = cond.plan_lens[0]
    for layout, mask in (("rooms", "self_mask"), ("doors", "door_mask"), ("plan", "gen_mask")):
        expected = data[prefix + mask][:n, :n] == 0
        assert torch.equal(dense_mask(cond.layouts[layout]), expected), layout
    assert torch.equal(cond.next_corner, data[prefix + "connections"][:n, 1].long())
    features = torch.cat([data[prefix + k] for k in ("room_types", "corner_indices", "room_indices")], dim=1)
    assert torch.equal(cond.features, features[:n].float())


@pytest.mark.parametrize("key", ["t0", "t0_syn", "t9", "t10", "t31", "t31_syn", "t32", "t500", "t500_syn", "t999"])
def test_small_forward(key):
    data = golden.tensors("forward_small_synthetic")
    cond = golden.condition(PLANS, synthetic=key.endswith("_syn"))
    t = int(key.removeprefix("t").removesuffix("_syn"))
    eps, bits = run(golden.small_net(), golden.packed(data[f"synthetic/{key}/x"], cond), t, cond)
    torch.testing.assert_close(eps, golden.packed(data[f"synthetic/{key}/out_dec"], cond), atol=1e-6, rtol=0)
    if t <= 32:  # above, the original rounds estimates of 1e4 in float32 and the codes depend on the last bit
        torch.testing.assert_close(bits, golden.packed(data[f"synthetic/{key}/out_bin"], cond), atol=2e-6, rtol=0)


def test_intermediate_values():
    data = {k.split("tap/")[1]: v for k, v in golden.tensors("forward_small_synthetic").items() if "tap/" in k}
    net, cond = golden.small_net(), golden.condition(PLANS[:1], synthetic=False)
    n = cond.plan_lens[0]
    x = golden.packed(golden.tensors("forward_small_synthetic")["synthetic/t9/x"][:1], cond)
    seen: dict[str, torch.Tensor] = {}
    names = {
        "time_embed": net.time_in,
        "input_emb": net.coordinate_in,
        "condition_emb": net.condition_in,
        "layer0.norm_1": net.blocks[0].norm1,
        "layer0.self_attn": net.blocks[0].attn_rooms,
        "layer0.door_attn": net.blocks[0].attn_doors,
        "layer0.gen_attn": net.blocks[0].attn_plan,
        "layer0.norm_2": net.blocks[0].norm2,
        "layer0.ff": net.blocks[0].ff,
        **{f"layer{i}": net.blocks[i] for i in range(4)},
        "output_linear_bin2": net.bit_blocks[0],
        "output_linear_bin3": net.bit_blocks[1],
    }
    for name, module in names.items():
        module.register_forward_hook(lambda _m, _i, out, name=name: seen.__setitem__(name, out.detach()))
    net.bits_in.register_forward_hook(lambda _m, i, _o: seen.__setitem__("bin_head_input", i[0].detach()))
    run(net, x, 9, cond)
    torch.testing.assert_close(net.edges(x, cond), data["x_expanded"][:, :n], atol=1e-6, rtol=0)
    assert len(seen) >= 14
    for name, value in seen.items():
        expected = data[name] if name == "time_embed" else data[name][:, :n]
        torch.testing.assert_close(value.reshape(expected.shape), expected, atol=2e-6, rtol=0, msg=name)


def test_discrete_branch_on_recorded_input():
    data = golden.tensors("forward_small_synthetic")
    net, cond = golden.small_net(), golden.condition(PLANS[:1], synthetic=False)
    n = cond.plan_lens[0]
    with torch.no_grad():
        h = net.bits_in(data["synthetic/t9/tap/bin_head_input"][:, :n]).relu()
        for block in net.bit_blocks:
            h = block(h, layouts=cond.layouts)
        got = net.bits_out(h)
    expected = golden.packed(data["synthetic/t9/out_bin"][:1], cond)
    torch.testing.assert_close(got, expected, atol=1e-6, rtol=0)


@pytest.mark.parametrize("name", ["forward_default_hashinit", "forward_default_torchinit"])
def test_default_size_forward(name):
    init = "hash" if "hash" in name else "torch"
    shapes = golden.original_shapes(f"{init}_init_default_fingerprint")
    cfg = golden.notes()["cfg"]
    if init == "hash":
        weights = golden.formula_weights(shapes, cfg["hash_salt"])
    else:
        weights = golden.torch_default_weights(shapes, cfg["model_seed"])
    for key, print_ in golden.notes()[f"{init}_init_default_fingerprint"].items():
        assert weights[key].double().sum().item() == pytest.approx(print_["sum"], abs=1e-3), key
    net = golden.build(weights)
    assert sum(p.numel() for p in net.parameters()) == golden.notes()["params_default"] == 26_541_330
    data = golden.tensors(name)
    for key in sorted({k.split("/")[1] for k in data}):
        t = int(key.removeprefix("t").removesuffix("_syn"))
        cond = golden.condition(PLANS, synthetic=key.endswith("_syn"))
        eps, bits = run(net, golden.packed(data[f"synthetic/{key}/x"], cond), t, cond)
        torch.testing.assert_close(eps, golden.packed(data[f"synthetic/{key}/out_dec"], cond), atol=2e-5, rtol=0)
        if t <= 32:
            torch.testing.assert_close(bits, golden.packed(data[f"synthetic/{key}/out_bin"], cond), atol=2e-5, rtol=0)


def loss_batch(data) -> tuple[PlanBatch, torch.Tensor]:
    cond = golden.condition([*PLANS, "s1"], synthetic=False)
    return PlanBatch(golden.packed(data["x_start"], cond), cond), golden.packed(data["noise"], cond)


def original_loss(losses: HouseLoss, t: torch.Tensor, below: int = 10) -> torch.Tensor:
    """Per-plan loss as the original scales and weights it."""
    weight = (t < below) * len(t) / (t < below).sum().clamp(min=1)
    return (losses.continuous + weight * losses.discrete.nan_to_num()) / SLOTS


def test_small_losses_and_gradients():
    data = golden.tensors("losses_small")
    net = golden.small_net()
    batch, noise = loss_batch(data)
    losses = house_losses(net, path(), batch, data["t"], noise, bits_below=10)
    tight = {"atol": 1e-9, "rtol": 0}
    torch.testing.assert_close(losses.continuous / SLOTS, data["terms/mse_dec"], **tight)
    low = data["t"] < 10
    scale = len(low) / low.sum() / SLOTS
    torch.testing.assert_close(losses.discrete[low] * scale, data["terms/mse_bin"][low], **tight)
    assert losses.discrete[~low].isnan().all()
    loss = original_loss(losses, data["t"])
    torch.testing.assert_close(loss, data["terms/loss"], **tight)
    torch.testing.assert_close(losses.total() / SLOTS, data["terms/loss"].mean(), **tight)
    loss.mean().backward()
    table = rename_keys(golden.tensors("model_small_state_dict"))
    parameters = dict(net.named_parameters())
    norms = golden.notes()["grad_norms"]["small"]
    assert set(norms) == set(table)
    for key, norm in norms.items():
        grad = parameters[table[key]].grad
        assert grad.norm().item() == pytest.approx(norm, rel=2e-4, abs=1e-9), key
        if f"grad/{key}" in data:
            torch.testing.assert_close(grad, data[f"grad/{key}"], atol=1e-7, rtol=1e-4)


def test_default_size_losses():
    data = golden.tensors("losses_default_hashinit")
    shapes = golden.original_shapes("hash_init_default_fingerprint")
    net = golden.build(golden.formula_weights(shapes, golden.notes()["cfg"]["hash_salt"]))
    batch, noise = loss_batch(data)
    losses = house_losses(net, path(), batch, data["t"], noise, bits_below=10)
    loss = original_loss(losses, data["t"])
    torch.testing.assert_close(loss, data["terms/loss"], atol=1e-7, rtol=0)  # 26.5 M float32 weights
    loss.mean().backward()
    for key, name in (("output_linear3.weight", "head.2.weight"), ("output_linear_bin4.bias", "bits_out.bias")):
        grad = dict(net.named_parameters())[name].grad
        torch.testing.assert_close(grad, data[f"grad/{key}"], atol=1e-6, rtol=1e-4)


def test_three_optimiser_steps_and_ema():
    data, net = golden.tensors("train_steps_small"), golden.small_net()
    batch, _ = loss_batch(golden.tensors("losses_small"))
    optimiser = torch.optim.AdamW(net.parameters(), lr=1e-3, weight_decay=0.05)
    ema = EMA(net, 0.9999, power=None)
    for i in range(3):
        t = data[f"step{i}/t"]
        generator = torch.Generator().manual_seed(int(data[f"step{i}/noise_seed"]))
        noise = torch.randn(len(t), 2, SLOTS, generator=generator, dtype=torch.float64)
        losses = house_losses(net, path(), batch, t, golden.packed(noise, batch.cond), bits_below=10)
        loss = original_loss(losses, t)
        torch.testing.assert_close(loss, data[f"step{i}/loss"], atol=1e-7, rtol=1e-5)
        optimiser.zero_grad()
        loss.mean().backward()
        optimiser.step()
        ema.update(net)
    table = rename_keys(golden.tensors("model_small_state_dict"))
    parameters = dict(net.named_parameters())
    for key, print_ in golden.notes()["after3_fingerprint"].items():
        if not key.endswith("k_linear.bias"):  # softmax ignores it: its gradient is rounding, which AdamW amplifies
            assert parameters[table[key]].norm().item() == pytest.approx(print_["l2"], rel=2e-4, abs=1e-4), key
    for key in (k.removeprefix("after3/") for k in data if k.startswith("after3/")):
        torch.testing.assert_close(parameters[table[key]].data, data[f"after3/{key}"], atol=2e-5, rtol=0)
        torch.testing.assert_close(ema.shadow[table[key]], data[f"ema3/{key}"], atol=1e-7, rtol=1e-6)


def test_analog_bits_variant():
    data = golden.tensors("analog_small")
    net = golden.small_net("model_small_analog_state_dict")
    assert net.config.analog_bits
    cond = golden.condition(PLANS, synthetic=False)
    for t in (0, 500):
        with torch.no_grad():
            out = net(golden.packed(data[f"synthetic/t{t}/x"], cond), torch.tensor(t), cond)
        torch.testing.assert_close(out, golden.packed(data[f"synthetic/t{t}/out_dec"], cond), atol=1e-6, rtol=0)
    batch = PlanBatch(golden.packed(data["x_start_bits"], cond).double(), cond)
    noise = golden.packed(data["loss/noise"], cond).double()
    losses = house_losses(net, path(), batch, data["loss/t"], noise, bits_below=10)
    torch.testing.assert_close(losses.continuous / SLOTS, data["loss/mse_dec"], atol=1e-9, rtol=0)
    assert losses.discrete.isnan().all()


def test_renaming_is_a_bijection_onto_our_parameters():
    for name in ("model_small_state_dict", "model_small_analog_state_dict"):
        original = golden.tensors(name)
        net = golden.small_net(name)
        assert sorted(rename_keys(original).values()) == sorted(net.state_dict())
        for theirs, ours in rename_keys(original).items():
            assert torch.equal(convert_state_dict(original)[ours], original[theirs])
