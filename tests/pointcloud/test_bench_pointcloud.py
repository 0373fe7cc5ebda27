"""The benchmark of the point cloud head: its plain network is ours, its numbers mean what they say, all of it runs."""

import json
from functools import partial

import numpy as np
import pytest
import torch
import tyro
from trifold.pointcloud.luo_hu import FlowVAE, FlowVAEConfig
from trifold.pointcloud.metrics import chamfer_matrix

from ..scripts import imported_scripts
from .tiny_points import awake

NAMES = ("bench_pointcloud", "bench_measure", "bench_point_metrics", "plain_luo_hu")


@pytest.fixture(scope="module")
def scripts():
    """The benchmark's modules by name."""
    with imported_scripts(*NAMES) as modules:
        yield modules


def pair(scripts, **changes):
    """(ours, plain) with the same weights, none of which is 0 or 1."""
    settings = {"latent_dim": 16, "num_steps": 10, "flow_depth": 3, "flow_hidden_dim": 24, **changes}
    model = FlowVAE(FlowVAEConfig(**settings))
    awake(model, std=0.05)
    for name, buffer in model.named_buffers():
        if name.endswith("running_var"):
            buffer.uniform_(0.5, 2.0)
    return model, scripts["plain_luo_hu"].PlainFlowVAE.like(model)


def normal(*shape, seed):
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("residual", [True, False])
def test_plain_loss_and_gradients_are_ours(scripts, residual):
    ours, plain = pair(scripts, residual=residual)
    batch = normal(6, 40, 3, seed=1), torch.tensor([1, 3, 5, 7, 9, 10]), normal(6, 40, 3, seed=2), normal(6, 16, seed=3)
    said, expected = ours.train()(*batch).total, plain.train()(*batch)
    torch.testing.assert_close(said, expected, atol=1e-6, rtol=1e-5)
    said.backward()
    expected.backward()
    found = dict(ours.named_parameters())
    assert {name for name, _ in plain.named_parameters()} == set(found)
    whole = torch.cat([p.grad.flatten() for p in plain.parameters()]).norm()
    for name, parameter in plain.named_parameters():
        error = (found[name].grad - parameter.grad.view_as(found[name])).norm() / whole
        assert error < scripts["bench_pointcloud"].GRADIENT, name
    buffers = dict(ours.named_buffers())
    for name, buffer in plain.named_buffers():
        if name in buffers:
            torch.testing.assert_close(buffers[name], buffer, atol=1e-5, rtol=1e-5)
    assert "encoder.norms.3.running_mean" in buffers


def test_plain_chain_is_ours(scripts):
    ours, plain = pair(scripts)
    w = normal(3, 16, seed=4)
    drawn = plain.sample(w, 50, torch.Generator().manual_seed(5))
    with torch.no_grad():
        expected = ours.decode(ours.from_prior(w), 50, generator=torch.Generator().manual_seed(5))
    torch.testing.assert_close(drawn, expected, atol=5e-5, rtol=5e-5)
    other = plain.sample(w + 0.5, 50, torch.Generator().manual_seed(5))
    assert (other - drawn).abs().max() > 1e-3  # so the latent, and with it the flow, matters here


@pytest.mark.parametrize("changes", [{"latent_dim": 15}, {"spectral_norm": True}])
def test_plain_refuses_what_it_would_get_wrong(scripts, changes):
    with pytest.raises(ValueError, match="even latents and no spectral norm"):
        pair(scripts, **changes)


def test_matrix_products_give_the_chamfer_matrix(scripts, monkeypatch):
    metrics = scripts["bench_point_metrics"]
    monkeypatch.setitem(metrics.BLOCK, "cpu", 2 * 30 * 20)  # two columns a block, and one left over
    rows, columns = normal(3, 30, 3, seed=1), normal(5, 20, 3, seed=2)
    expected = torch.from_numpy(chamfer_matrix(rows, columns))
    for formula in (metrics.chamfer_by_products, metrics.chamfer_by_three_products):
        torch.testing.assert_close(formula(rows, columns).double(), expected, atol=1e-5, rtol=1e-5)


def test_candidates_take_turns(scripts):
    called: list[str] = []
    timings = scripts["bench_measure"].interleaved({"a": partial(called.append, "a"), "b": lambda: 7}, 2, "cpu")
    assert called == ["a"] * 3
    assert timings["b"].result == 7
    runs = {name: partial(called.append, name) for name in "xy"}
    called.clear()
    scripts["bench_measure"].interleaved(runs, 3, "cpu", warm_up=False)
    assert "".join(called) == "xyxyxy"


def test_memory_is_that_of_a_fresh_process(scripts):
    measure = scripts["bench_measure"]
    here = np.ones(96 << 17)  # 96 MiB in this process must not count in the other
    make = partial(partial, np.ones, 64 << 17)
    held = measure.in_fresh_process(measure.memory, make, "cpu", 1)
    assert 60 / 1024 < held["growth GiB"] < 90 / 1024
    assert held["peak GiB"] == pytest.approx(held["before GiB"] + held["growth GiB"])
    assert measure.peak_rss() > here.nbytes


def test_exponents_tell_how_cost_grows(scripts, monkeypatch):
    program, timing = scripts["bench_pointcloud"], scripts["bench_measure"].Timing
    powers = {"latents": 1.0, "local": 1.5, "full": 2.0}
    monkeypatch.setattr(program, "growing_step", lambda reading, size, device: size ** powers[reading])
    monkeypatch.setattr(program, "interleaved", lambda runs, *_: {r: timing(s, s, None) for r, s in runs.items()})
    monkeypatch.setattr(program, "in_fresh_process", lambda *_: {"peak GiB": 1.0})
    rows = program.growth_table(program.Bench(growth_points=(8, 16, 64), full_limit=16), "cpu").rows
    assert [row["reading"] for row in rows] == ["latents"] * 3 + ["local"] * 3 + ["full"] * 2
    for row in rows:
        assert row["exponent"] == (None if row["points"] == 8 else pytest.approx(powers[row["reading"]]))


def test_all_tables_at_tiny_sizes(scripts, monkeypatch, capsys, tmp_path):
    program = scripts["bench_pointcloud"]
    monkeypatch.setattr(scripts["bench_measure"], "multiplies_bfloat16", lambda kind: True)
    monkeypatch.setattr(program, "in_fresh_process", lambda function, *args: function(*args))
    monkeypatch.setattr(torch.backends.cudnn, "allow_tf32", False)  # the program sets it; afterwards it is as before
    arguments = ["--quick", "--devices", "cpu", "--threads", str(torch.get_num_threads())]
    program.main(tyro.cli(program.Bench, args=[*arguments, "--json", str(tmp_path / "bench.json")]))
    printed, written = capsys.readouterr().out, json.loads((tmp_path / "bench.json").read_text())
    assert f"torch {torch.__version__}" in printed
    assert f"threads: {torch.get_num_threads()}" in printed
    rows = {table["name"]: table["rows"] for table in written["tables"]}
    assert list(rows) == ["network", "chain", "growth", "chamfer", "emd", "nearest", "memory"]
    for table in written["tables"]:
        assert f"### {table['title']}\n\n| {' | '.join(table['rows'][0])} |" in printed
    checked = [row for name in ("network", "chain") for row in rows[name] if row["within"] is not None]
    assert [row["within"] for row in checked] == [True] * 3
    assert all(0 < row["difference"] <= row["tolerance"] for row in checked)
    assert len(rows["network"]) == 8
    assert len(rows["chain"]) == 10
    assert len(rows["growth"]) == 8
    assert all(row["difference"] is None or row["difference"] < 1e-5 for row in rows["chamfer"])
    assert [row["all scores equal"] for row in rows["nearest"]] == [True, True]
    assert len(rows["memory"]) == 4


def test_one_table_alone(scripts, capsys):
    program = scripts["bench_pointcloud"]
    program.main(program.Bench(only=("chamfer",), devices=("cpu",), quick=True, threads=torch.get_num_threads()))
    assert capsys.readouterr().out.count("###") == 1
