"""The benchmark of the floorplan head: its plain network is the packed one, its numbers mean what they say, it runs."""

import dataclasses
import json

import numpy as np
import pytest
import torch
import tyro
from trifold.floorplan.checkpoint import config_from_tensors, rename_keys
from trifold.floorplan.dataset import collate, sample_from_plan
from trifold.floorplan.finishing import finish
from trifold.floorplan.metrics import graph_errors, overlap_share, validity
from trifold.floorplan.model import HouseDiffusion, HouseDiffusionConfig
from trifold.floorplan.procedural import ProceduralConfig, ProceduralPlans
from trifold.floorplan.tokens import pack

from ..scripts import imported_scripts
from .tiny import random_spec, tiny_model

NAMES = ("bench_floorplan", "bench_floorplan_plans", "bench_measure", "plain_house_diffusion")


@pytest.fixture(scope="module")
def scripts():
    """The benchmark's modules by name."""
    with imported_scripts(*NAMES) as modules:
        yield modules


def batch_of(*seeds, with_sizes=False):
    source = ProceduralPlans(ProceduralConfig(num_rooms=(4, 7)))
    rng = np.random.default_rng(0)
    samples = [sample_from_plan(source[seed], None, rng, 18.0) for seed in seeds]
    return collate(samples, index_encoding="sincos", with_sizes=with_sizes)


def noise_like(x, seed):
    return torch.randn(x.shape, generator=torch.Generator().manual_seed(seed), dtype=x.dtype)


@pytest.mark.parametrize("lazy_bits", [False, True])
@pytest.mark.parametrize("changes", [{}, {"num_heads": 2, "edge_points": 0}, {"with_sizes": True}])
def test_plain_outputs_are_those_of_the_packed_network(scripts, lazy_bits, changes):
    plain_module = scripts["plain_house_diffusion"]
    model = tiny_model(**changes)
    plain = plain_module.PlainHouse.like(model.net, lazy_bits=lazy_bits)
    batch = batch_of(0, 1, 2, with_sizes=bool(changes.get("with_sizes")))
    lens = batch.cond.plan_lens
    plans, x = plain_module.PaddedPlans.of(batch.cond), noise_like(batch.x0, 1)
    assert len(set(lens)) > 1
    t = torch.tensor([3, 400, 999])
    with torch.no_grad():
        expected = model.net(x.float(), t, batch.cond)
        eps, edges, cond = plain(plain_module.padded(x, lens).float(), t, plans)
        torch.testing.assert_close(eps[plans.valid], expected[0], atol=2e-6, rtol=1e-5)
        assert expected.std() > 1e-3
        time = torch.full((3,), 9)
        level = model.path.alpha(9), model.path.sigma(9)
        logits = model.net.bits(x.float(), expected, *level, batch.cond)
        said = plain.bits(eps, edges, cond, time, plans)
    torch.testing.assert_close(said[plans.valid], logits[0], atol=2e-5, rtol=1e-4)
    for at in (500, 10):
        with torch.no_grad():
            wanted = model.denoiser()(x, at, batch.cond)
        found = plain.denoise(plain_module.padded(x, lens), at, plans)
        torch.testing.assert_close(found[plans.valid], wanted[0], atol=1e-5, rtol=1e-5, check_dtype=False)


@pytest.mark.parametrize("lazy_bits", [False, True])
@pytest.mark.parametrize("times", [(3, 400, 7), (10, 400, 999)])
def test_plain_loss_and_gradients_are_those_of_the_packed_network(scripts, lazy_bits, times):
    plain_module = scripts["plain_house_diffusion"]
    model = tiny_model()
    plain = plain_module.PlainHouse.like(model.net, lazy_bits=lazy_bits)
    batch, t = batch_of(3, 4, 5), torch.tensor(times)
    noise = noise_like(batch.x0, 2)
    rows = [plain_module.padded(v, batch.cond.plan_lens) for v in (batch.x0, noise)]
    expected = model(batch, t, noise, 10).total()
    found = plain.loss(rows[0], t, rows[1], plain_module.PaddedPlans.of(batch.cond))
    torch.testing.assert_close(found, expected, atol=1e-9, rtol=1e-6)
    expected.backward()
    found.backward()
    names = rename_keys(plain.state_dict())
    ours = dict(model.net.named_parameters())
    assert sorted(names.values()) == sorted(ours)
    whole = torch.cat([p.grad.flatten() for p in ours.values() if p.grad is not None]).norm()
    for theirs, parameter in plain.named_parameters():
        own = ours[names[theirs]].grad
        zero = torch.zeros_like(parameter)
        error = (zero if own is None else own) - (zero if parameter.grad is None else parameter.grad)
        assert error.norm() / whole < 1e-6, theirs


def test_the_plain_network_shares_the_weights_it_was_given(scripts):
    model = tiny_model()
    plain = scripts["plain_house_diffusion"].PlainHouse.like(model.net.train())
    assert plain.training
    ours = model.net.state_dict()
    for theirs, name in rename_keys(plain.state_dict()).items():
        assert plain.get_parameter(theirs).data_ptr() == ours[name].data_ptr()


def test_padding_is_never_read(scripts):
    plain_module = scripts["plain_house_diffusion"]
    plain = plain_module.PlainHouse.like(tiny_model().net)
    batch = batch_of(0, 1)
    plans = plain_module.PaddedPlans.of(batch.cond)
    x = plain_module.padded(batch.x0, batch.cond.plan_lens).float()
    t = torch.tensor([100, 500])
    with torch.no_grad():
        clean, _, _ = plain(x, t, plans)
        x[~plans.valid] = 7.0
        dirty, _, _ = plain(x, t, plans)
    assert torch.equal(clean[plans.valid], dirty[plans.valid])
    assert not torch.equal(clean[~plans.valid], dirty[~plans.valid])


def test_the_plain_network_is_the_published_one(scripts):
    config = HouseDiffusionConfig()
    plain = scripts["plain_house_diffusion"].PlainHouse(config)
    assert sum(p.numel() for p in plain.parameters()) == 26_541_330
    found = config_from_tensors(plain.state_dict())
    for name in ("width", "num_layers", "num_bit_layers", "edge_points", "analog_bits"):
        assert getattr(found, name) == getattr(config, name)


@pytest.mark.parametrize("changes", [{"prediction": "v"}, {"fourier_bands": 3}, {"wrap_bits": True}])
def test_plain_refuses_what_it_would_get_wrong(scripts, changes):
    with pytest.raises(ValueError, match="that of the default network"):
        scripts["plain_house_diffusion"].PlainHouse.like(tiny_model(**changes).net)


def test_a_plan_without_room_in_its_row_is_refused(scripts):
    cond = pack([random_spec(0)])
    with pytest.raises(ValueError, match=f"{cond.plan_lens[0]} corners, but a row has 8 slots"):
        scripts["plain_house_diffusion"].PaddedPlans.of(cond, slots=8)


def test_each_training_step_gets_a_batch_without_tables(scripts):
    program = scripts["bench_floorplan"]
    bench = program.Bench(quick=True, threads=1).sized()
    step = program.TrainingStep("packed", "float32", bench, "cpu")
    assert len(step.batches) == bench.repeats + 2
    before = [weight.clone() for weight in step.model.parameters()]
    assert not any(layout._memo for batch in step.batches for layout in batch.cond.layouts.values())
    step()
    assert len(step.batches) == bench.repeats + 1
    assert any(not torch.equal(a, b) for a, b in zip(before, step.model.parameters(), strict=True))


def test_what_is_wanted_is_said_of_the_packed_network_alone(scripts, monkeypatch):
    program, timing = scripts["bench_floorplan"], scripts["bench_measure"].Timing
    monkeypatch.setattr(scripts["bench_measure"], "multiplies_bfloat16", lambda kind: True)
    seconds = dict(zip(program.candidates("cpu"), (8.0, 6.0, 2.0, 5.0, 4.0, 1.0), strict=True))
    timings = {c: timing(s, s, None) for c, s in seconds.items()}
    errors = dict.fromkeys(timings, 1e-6)
    for amx in (False, True):
        monkeypatch.setattr(program, "has_amx", lambda amx=amx: amx)
        rows = {(r["version"], r["dtype"]): r for r in program._versions("x", timings, errors, 1e-5, 4.5)}
        packed = rows["packed", "float32"]
        assert (packed["times plain"], packed["wanted"], packed["reached"], packed["within"]) == (4.0, 4.5, False, True)
        half = rows["packed", "bfloat16"]
        assert (half["times plain"], half["times plain float32"]) == (5.0, 8.0)
        assert (half["wanted"], half["reached"]) == ((6.0, True) if amx else (None, None))
        others = [row for key, row in rows.items() if key[0] != "packed"]
        assert all(row["wanted"] is None and row["reached"] is None for row in others)


def test_bfloat16_is_left_out_where_it_is_imitated(scripts, monkeypatch):
    program = scripts["bench_floorplan"]
    for units in (True, False):
        monkeypatch.setattr(scripts["bench_measure"], "multiplies_bfloat16", lambda kind, units=units: units)
        found = program.candidates("cpu")
        assert found[0] == program.FIRST
        assert {dtype for _, dtype in found} == ({"float32", "bfloat16"} if units else {"float32"})


def test_pairs_are_counted_as_the_masks_have_them(scripts):
    from trifold.common.attention import dense_mask

    layouts = list(pack([random_spec(1), random_spec(2, isolated=1)]).layouts.values())
    assert scripts["bench_floorplan_plans"].pairs(layouts) == sum(int(dense_mask(one).sum()) for one in layouts)


@pytest.mark.parametrize("rooms", [5, 15])
def test_flats_in_a_row_finish_to_what_was_meant(scripts, rooms):
    plan = scripts["bench_floorplan_plans"].row_of_flats(rooms)
    assert plan.num_rooms == rooms
    assert len({frozenset(d) for d in plan.doors}) == len(plan.doors) >= rooms
    done = finish(plan)
    assert graph_errors(done.plan).total == 0
    assert (done.report.problems, overlap_share(done.plan), validity(done.plan)) == ((), 0, 1)


def test_toothed_rooms_keep_their_teeth(scripts):
    plan = scripts["bench_floorplan_plans"].toothed_rooms(120, num_rooms=3)
    assert sum(len(node.polygon) for node in plan.nodes) == pytest.approx(120, abs=8)
    done = finish(plan)
    assert graph_errors(done.plan).total == 0
    assert done.report.problems == ()
    assert sum(len(node.polygon) for node in done.plan.rooms) >= 90


def test_diagrams_have_the_size_asked_for(scripts):
    growth = scripts["bench_floorplan_plans"]
    model = tiny_model()
    for rooms in (5, 40):
        diagram = growth.large_diagram(rooms)
        assert (diagram.num_rooms, len(diagram.components())) == (rooms, 1)
    diagram = growth.cornered_diagram(300)
    assert len(diagram.components()) == 1
    assert model.request(diagram, 0).spec.num_tokens == 300


def test_exponents_tell_how_cost_grows(scripts):
    growth = scripts["bench_floorplan_plans"]
    rows = [{"corners": n, "s": n**1.5, "e": None} for n in (80, 20, 40, 85)]
    growth._add_exponents(rows, {"s": "e"})
    assert [row["e"] for row in rows] == [pytest.approx(1.5), None, pytest.approx(1.5), None]


def test_all_tables_at_tiny_sizes(scripts, monkeypatch, capsys, tmp_path):
    program = scripts["bench_floorplan"]
    monkeypatch.setattr(scripts["bench_measure"], "multiplies_bfloat16", lambda kind: True)
    for module in (program, scripts["bench_floorplan_plans"]):
        monkeypatch.setattr(module, "in_fresh_process", lambda function, *args: function(*args))
    arguments = ["--quick", "--devices", "cpu", "--threads", str(torch.get_num_threads())]
    program.main(tyro.cli(program.Bench, args=[*arguments, "--json", str(tmp_path / "bench.json")]))
    printed, written = capsys.readouterr().out, json.loads((tmp_path / "bench.json").read_text())
    assert f"torch {torch.__version__}" in printed
    rows = {table["name"]: table["rows"] for table in written["tables"]}
    assert list(rows) == ["network", "memory", "plans", "drawing", "finishing"]
    for table in written["tables"]:
        assert f"### {table['title']}\n\n| {' | '.join(table['rows'][0])} |" in printed
    assert [len(rows[name]) for name in rows] == [18, 12, 4, 3, 6]
    checked = [row for row in rows["network"] if row["within"] is not None]
    assert [row["within"] for row in checked] == [True] * 3
    assert {row["version"] for row in checked} == {"packed"}
    steps = [(row["steps"], row["time"]) for row in rows["plans"]]
    assert steps == [*[(2, "measured")] * 3, (1000, "from 4 steps")]
    assert rows["plans"][-1]["times faster"] == 1
    assert all(row["s per finished plan"] == row["s drawing"] + row["s finishing"] for row in rows["plans"])


def test_one_table_alone(scripts, capsys):
    program = scripts["bench_floorplan"]
    program.main(program.Bench(only=("network",), devices=("cpu",), quick=True, threads=torch.get_num_threads()))
    assert capsys.readouterr().out.count("###") == 1


def test_whole_plans_come_from_the_shipped_model(scripts):
    program = scripts["bench_floorplan"]
    model = program.Bench().shipped("cpu")
    assert isinstance(model, HouseDiffusion)
    assert model.config.width > program.TINY.width
    shape = program.Bench().model
    assert (shape.width, shape.index_encoding, dataclasses.asdict(shape)) == (
        512,
        "one_hot",
        dataclasses.asdict(HouseDiffusionConfig()),
    )
