"""`HouseDiffusion` as a user meets it: seeds, samplers, limits, saving, precision; and the shipped weights."""

import json
from functools import partial
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
import torch
from trifold.common.diffusion import ddim
from trifold.floorplan import BubbleDiagram, HouseDiffusion, HouseDiffusionConfig, Plan, RoomSpec, RoomType
from trifold.floorplan.dataset import collate, sample_from_plan
from trifold.floorplan.errors import FloorplanError, FloorplanWarning
from trifold.floorplan.metrics import graph_errors
from trifold.floorplan.model import PlanNoise, batches
from trifold.floorplan.procedural import generate_plan

from .tiny import tiny_model

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers.*")

FLAT = BubbleDiagram(
    (RoomSpec(RoomType.LIVING, "living"), RoomSpec(RoomType.BEDROOM, "bed", corners=6), RoomSpec(RoomType.KITCHEN)),
    ((0, 1), (0, 2)),
    0,
    "flat",
)
STUDIO = BubbleDiagram((RoomSpec(RoomType.LIVING, corners=8), RoomSpec(RoomType.BATHROOM)), ((0, 1),), 0)


@pytest.fixture(scope="module")
def model() -> HouseDiffusion:
    return tiny_model()


def corners(plans: list[Plan]) -> np.ndarray:
    return np.concatenate([node.polygon for plan in plans for node in plan.nodes])


def on_grid(plans: list[Plan]) -> bool:
    points = corners(plans)
    return bool((points == points.round()).all() and points.min() >= 0 and points.max() <= 255)


# ----------------------------------------------------------------------------------------------- what comes back


def test_plans_are_what_the_diagram_asked_for(model):
    plans = model.generate([FLAT, STUDIO], 2, steps=2)
    assert len(plans) == 4
    for plan, diagram in zip(plans, [FLAT, FLAT, STUDIO, STUDIO], strict=True):
        assert plan.node_types() == diagram.node_types()
        assert plan.doors == diagram.door_rooms()
        assert plan.name == diagram.name
        assert [n.name for n in plan.rooms] == [r.name for r in diagram.rooms]
        assert (plan.frame, plan.metres_per_unit) == (256.0, 18.0 / 256)
    assert [len(n.polygon) for n in plans[0].nodes] == [4, 6, 4, 4, 4, 4]
    assert [len(n.polygon) for n in plans[2].nodes] == [8, 4, 4, 4]


def test_the_same_seed_gives_the_same_plan(model):
    one = model.generate(FLAT, 3, steps=3, seed=7)
    torch.manual_seed(123)  # the global generator is nobody's business
    assert model.generate(FLAT, 3, steps=3, seed=7) == one
    assert model.generate(FLAT, 1, steps=3, seed=9) == one[2:]  # plan i has seed + i
    assert len({corners([plan]).tobytes() for plan in one}) == 3
    assert model.generate(FLAT, 1, steps=3, seed=10) != one[:1]


@pytest.mark.parametrize("sampler", ["ddpm", "ddpm-large", "ddim", "dpmsolver++", "sde-dpmsolver++"])
def test_a_plan_does_not_depend_on_its_batch(model, sampler):
    together = model.generate([FLAT, STUDIO], 3, steps=4, sampler=sampler, discrete=False)
    apart = model.generate([FLAT, STUDIO], 3, steps=4, sampler=sampler, discrete=False, batch_tokens=1)
    assert np.abs(corners(together) - corners(apart)).max() / 128 < 1e-5
    # A decoded bit may flip where its logit is within rounding of zero; hardly any is.
    together, apart = (model.generate([FLAT, STUDIO], 3, steps=4, batch_tokens=n) for n in (8192, 60))
    assert (corners(together) == corners(apart)).mean() > 0.98


def test_batches_keep_the_order_and_the_limit(model):
    requests = [model.request(d, s) for s, d in enumerate([FLAT, STUDIO] * 4)]
    sizes = [r.spec.num_tokens for r in requests]
    for limit in (1, 45, 46, 100, 10_000):
        parts = batches(requests, limit)
        assert [r for part in parts for r in part] == requests
        for part in parts:
            assert len(part) == 1 or sum(r.spec.num_tokens for r in part) <= limit
        for part, following in pairwise(parts):  # no batch could have held the next plan too
            assert sum(r.spec.num_tokens for r in [*part, following[0]]) > limit
    assert len(batches(requests, sum(sizes))) == 1


@pytest.mark.parametrize("sampler", ["ddpm", "ddpm-large", "ddim", "dpmsolver++", "sde-dpmsolver++"])
@pytest.mark.parametrize("steps", [2, 20])
def test_discrete_corners_lie_on_the_256_grid(model, sampler, steps):
    assert on_grid(model.generate(FLAT, 2, steps=steps, sampler=sampler))
    continuous = model.generate(FLAT, 2, steps=steps, sampler=sampler, discrete=False)
    assert not on_grid(continuous)
    assert np.abs(corners(continuous) - 128).max() <= 128 + 1e-3  # estimates are clipped to the frame


def test_any_sampler_of_the_core_will_do(model):
    assert model.generate(FLAT, steps=3, sampler=ddim) == model.generate(FLAT, steps=3, sampler="ddim")
    noisy = model.generate(FLAT, steps=3, sampler=partial(ddim, eta=1.0), discrete=False)
    assert noisy != model.generate(FLAT, steps=3, sampler=ddim, discrete=False)


def test_training_mode_is_given_back(model):
    dropping = tiny_model(dropout=0.5)
    dropping.train()
    assert dropping.generate(FLAT, steps=2) == dropping.generate(FLAT, steps=2)  # no dropout while sampling
    assert dropping.training
    with pytest.raises(ValueError, match="sampler"):
        dropping.generate(FLAT, steps=2, sampler="euler")  # type: ignore[arg-type]
    assert dropping.training


def test_progress_wraps_the_steps(model):
    seen = []
    model.generate(FLAT, steps=5, progress=lambda steps: seen.append(len(steps)) or steps)
    assert seen == [5]


def test_progress_counts_the_steps_of_all_batches(model):
    totals, done = [], []

    def progress(steps):
        totals.append(len(steps))
        for step in steps:
            done.append(step)
            yield step

    model.generate(FLAT, 3, steps=4, batch_tokens=1, progress=progress)
    assert totals == [12]
    assert done == list(range(12))


# ------------------------------------------------------------------------------------------------- bad arguments


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"steps": 0}, "steps: expected 1 to 1000, found 0"),
        ({"steps": -5}, "steps: expected 1 to 1000, found -5"),
        ({"steps": 1001}, "steps: expected 1 to 1000, found 1001"),
        ({"num_plans": 0}, "num_plans: expected at least 1, found 0"),
        ({"sampler": "euler"}, r"sampler: expected one of ddpm, ddpm-large, .*, found 'euler'"),
        ({"seed": -1}, "seed: expected 0 to"),
        ({"seed": 2**64}, "seed: expected 0 to"),
    ],
)
def test_arguments_that_mean_nothing(model, changes, message):
    with pytest.raises(ValueError, match=message):
        model.generate(FLAT, **{"num_plans": 1, **changes})


def chain(rooms: int) -> BubbleDiagram:
    specs = (RoomSpec(RoomType.LIVING), *[RoomSpec(RoomType.BEDROOM)] * (rooms - 1))
    return BubbleDiagram(specs, tuple((i, i + 1) for i in range(rooms - 1)), 0)


def test_one_hot_models_say_how_many_rooms_they_can_tell_apart(model):
    one_hot = tiny_model(index_encoding="one_hot")
    assert len(one_hot.generate(chain(15), steps=1)[0].nodes) == 30
    with pytest.raises(ValueError, match=r"number 32, but a one_hot model counts to 31; .*sincos"):
        one_hot.generate(chain(16), steps=1)
    assert len(model.generate(chain(60), steps=1)[0].nodes) == 120


def test_widths_that_do_not_fit():
    with pytest.raises(ValueError, match="width 30 must be even and a multiple of num_heads 4"):
        HouseDiffusion(HouseDiffusionConfig(width=30))
    net, x, one = tiny_model(num_bit_layers=0).net, torch.zeros(1, 4, 2), torch.ones(())
    with pytest.raises(ValueError, match="no discrete branch"):
        net.bits(x, x, one, one, None)  # type: ignore[arg-type]


# ----------------------------------------------------------------------------------------------------- requests


def test_requests_settle_what_the_diagram_leaves_open():
    model = tiny_model(with_sizes=True, corner_counts={"1:3": [10], "1": [12], "3": [6], "12": [4]})
    rooms = (
        RoomSpec(RoomType.LIVING, area=32.4),
        RoomSpec(RoomType.BEDROOM, size=(4.5, 3.0)),
        RoomSpec(RoomType.BEDROOM, corners=5),
    )
    spec = model.request(BubbleDiagram(rooms, ((0, 1), (0, 2)), 0), 0).spec
    assert spec.corners == (10, 6, 5, 4, 4, 4)  # the living room has three doors
    assert spec.areas[0] == pytest.approx(32.4 / 18**2)
    assert spec.sizes[1] == pytest.approx([4.5 / 18, 3.0 / 18])
    assert np.isnan(spec.areas[1:]).all()
    assert spec.links == {(0, 3), (1, 3), (0, 1), (0, 4), (2, 4), (0, 2), (0, 5)}


def test_drawn_corner_counts_follow_the_seed():
    model = tiny_model(corner_counts={"3": [4, 5, 6, 7, 8]})
    diagram = BubbleDiagram((RoomSpec(RoomType.BEDROOM),), (), 0)
    drawn = [model.request(diagram, seed).spec.corners[0] for seed in range(40)]
    assert drawn == [model.request(diagram, seed).spec.corners[0] for seed in range(40)]
    assert set(drawn) == {4, 5, 6, 7, 8}


def test_sizes_a_model_cannot_hear_are_told(model):
    wanted = BubbleDiagram((RoomSpec(RoomType.LIVING, area=20.0),), (), 0)
    with pytest.warns(FloorplanWarning, match="trained without sizes"):
        model.generate(wanted, steps=1)
    hearing = tiny_model(with_sizes=True)
    too_large = RoomSpec(RoomType.LIVING, area=1e300), RoomSpec(RoomType.LIVING, size=(3.0, 18.1))
    for room, field in zip(too_large, ("area", "size"), strict=True):
        with pytest.raises(FloorplanError, match=rf"rooms\[0\]\.{field}: larger than the 18 m x 18 m"):
            hearing.generate(BubbleDiagram((room,), (), 0), steps=1)
    other = BubbleDiagram((RoomSpec(RoomType.LIVING, area=60.0),), (), 0)
    drawn = [hearing.generate(d, steps=2, discrete=False) for d in (wanted, other)]
    assert drawn[0] != drawn[1]


def test_noise_belongs_to_the_plan():
    both = PlanNoise([3, 4], [5, 2])
    x = torch.zeros(1, 7, 2)
    first, second = both.randn_like(x), both.randn_like(x)
    alone = PlanNoise([4], [2])
    assert torch.equal(first[:, 5:], alone.randn_like(x[:, 5:]))
    assert torch.equal(second[:, 5:], alone.randn_like(x[:, 5:]))
    assert not torch.equal(first, second)


# -------------------------------------------------------------------------------------------------------- frames


@pytest.mark.parametrize("sampler", ["ddpm", "ddpm-large", "ddim", "dpmsolver++", "sde-dpmsolver++"])
def test_frames_go_from_the_noise_to_the_plan(model, sampler):
    frames = model.frames(FLAT, steps=6, sampler=sampler, seed=2)
    assert len(frames) == 7
    assert frames[-1] == model.generate(FLAT, steps=6, sampler=sampler, seed=2)[0]
    count = sum(len(n.polygon) for n in frames[0].nodes)
    noise = PlanNoise([2], [count]).randn_like(torch.zeros(1, count, 2))[0].double().numpy()
    assert np.allclose(corners(frames[:1]), (noise + 1) * 128)
    assert model.frames(FLAT, steps=6, sampler=sampler, seed=2, discrete=False)[-1] != frames[-1]


# ------------------------------------------------------------------------------------------- saving and precision


def test_round_trip_is_exact(tmp_path):
    model = tiny_model(with_sizes=True, fourier_bands=3, prediction="v", corner_counts={"1": [4, 6]})
    folder = model.save_pretrained(tmp_path / "model")
    again = HouseDiffusion.from_pretrained(folder)
    assert again.config == model.config
    assert not again.training
    assert all(torch.equal(v, again.state_dict()[k]) for k, v in model.state_dict().items())
    assert again.generate(FLAT, 2, steps=4) == model.generate(FLAT, 2, steps=4)
    saved = json.loads((folder / "config.json").read_text())
    assert (saved["class"], saved["config"]["width"]) == ("HouseDiffusion", 32)


def test_half_precision_halves_the_file(tmp_path):
    model = tiny_model()
    whole, half = model.save_pretrained(tmp_path / "whole"), model.save_pretrained(tmp_path / "half", half=True)
    sizes = [(folder / "model.safetensors").stat().st_size for folder in (whole, half)]
    assert sizes[1] < 0.6 * sizes[0]
    again = HouseDiffusion.from_pretrained(half)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    for name, weight in model.state_dict().items():
        assert torch.equal(again.state_dict()[name], weight.half().float()), name
    plans = [m.generate(FLAT, 2, steps=3, discrete=False) for m in (model, again)]
    assert np.abs(corners(plans[0]) - corners(plans[1])).max() < 1.0  # units of 256


def test_half_precision_weights_generate(tmp_path):
    folder = tiny_model(fourier_bands=3).save_pretrained(tmp_path)
    exact = HouseDiffusion.from_pretrained(folder)
    model = HouseDiffusion.from_pretrained(folder, dtype=torch.bfloat16)
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}
    assert on_grid(model.generate(FLAT, steps=4))
    plans = [m.generate(FLAT, steps=4, discrete=False) for m in (exact, model)]
    assert np.abs(corners(plans[0]) - corners(plans[1])).max() < 16


def loss_of(model: HouseDiffusion) -> torch.Tensor:
    samples = [sample_from_plan(generate_plan(seed), None, np.random.default_rng(0)) for seed in (0, 1)]
    batch = collate(samples, index_encoding="sincos")
    noise = torch.randn(batch.x0.shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return model(batch, torch.tensor([5, 600]), noise, 32).total()


def test_bfloat16_autocast_is_close():
    model = tiny_model(fourier_bands=3)
    exact = loss_of(model)
    with torch.autocast("cpu", torch.bfloat16):
        rounded = loss_of(model)
        plans = model.generate(FLAT, steps=3)
    rounded.backward()
    assert rounded.dtype == torch.float64
    assert rounded.item() == pytest.approx(exact.item(), rel=0.02)
    assert rounded.item() != exact.item()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())
    assert on_grid(plans)


@pytest.mark.parametrize("dropout", [0.0, 0.3])
def test_gradient_checkpointing_changes_no_gradient(dropout):
    gradients = []
    for checkpointing in (False, True):
        model = tiny_model(dropout=dropout).train()
        if checkpointing:
            model.enable_gradient_checkpointing()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            loss_of(model).backward()
        gradients.append([p.grad for p in model.parameters()])
    for plain, recomputed in zip(*gradients, strict=True):
        assert plain.abs().max() > 0 or plain.numel() == 32  # softmax ignores the bias of k
        assert torch.equal(plain, recomputed)


# ------------------------------------------------------------------------------------------------------- variants


@pytest.mark.parametrize(
    "changes",
    [
        {"analog_bits": True},
        {"prediction": "v", "fourier_bands": 4, "with_sizes": True},
        {"prediction": "x0", "num_bit_layers": 1, "edge_points": 0},
        {"door_attention": False, "num_train_steps": 200},
        {"index_encoding": "one_hot", "wrap_bits": True},
    ],
    ids=lambda changes: next(iter(changes)),
)
def test_every_variant_generates_on_the_grid(changes):
    model = tiny_model(**changes)
    for sampler in ("ddpm", "ddim", "dpmsolver++"):
        assert on_grid(model.generate(FLAT, 2, steps=3, sampler=sampler))


def test_without_a_discrete_branch_corners_are_continuous():
    model = tiny_model(num_bit_layers=0)
    assert not on_grid(model.generate(FLAT, steps=3))
    assert model.generate(FLAT, steps=3) == model.generate(FLAT, steps=3, discrete=False)


# ---------------------------------------------------------------------------------------------- the shipped model


def test_the_shipped_model_draws_the_examples():
    folder = HouseDiffusion.packaged_folder("procedural")
    assert folder is not None
    if not (Path(folder) / "config.json").is_file():
        pytest.skip(f"the shipped weights are not in this tree ({folder})")
    model = HouseDiffusion.from_pretrained("procedural")
    errors = []
    for name in ("two_bedrooms", "family_eight_rooms", "bay_corner_studio"):
        diagram = BubbleDiagram.example(name)
        for plan in model.generate(diagram, 4, steps=20):
            assert plan.node_types() == diagram.node_types()
            points = corners([plan])
            assert np.isfinite(points).all()
            assert points.min() >= 0
            assert points.max() <= 256
            errors.append(graph_errors(plan, diagram).total)
    assert np.mean(errors) < 3
