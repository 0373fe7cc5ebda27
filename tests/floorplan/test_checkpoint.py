"""The original's checkpoints through the console command: exact conversion, and one clear line for every bad file."""

import argparse
import pickle

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from trifold.cli.main import main
from trifold.floorplan import HouseDiffusion
from trifold.floorplan.checkpoint import config_from_tensors, load_original, rename_key
from trifold.floorplan.process import house_path

from . import golden

PLANS = ["s1", "s2", "s3"]


def original() -> dict[str, torch.Tensor]:
    return dict(golden.tensors("model_small_state_dict"))


def convert(checkpoint, out, *flags: str) -> int:
    return main(["floorplan", "convert", str(checkpoint), str(out), *flags])


def outputs(net) -> tuple[torch.Tensor, torch.Tensor, dict[str, torch.Tensor]]:
    """Both heads at t = 9 on the recorded input, and the recording."""
    data = golden.tensors("forward_small_synthetic")
    cond = golden.condition(PLANS, synthetic=False)
    x = golden.packed(data["synthetic/t9/x"], cond)
    with torch.no_grad():
        eps = net(x, torch.tensor(9), cond)
        bits = net.bits(x, eps, house_path().alpha(9), house_path().sigma(9), cond)
    recorded = {k: golden.packed(data[f"synthetic/t9/{k}"], cond) for k in ("out_dec", "out_bin")}
    return eps, bits, recorded


# ------------------------------------------------------------------------------------------------------- good files


@pytest.mark.parametrize("name", ["model250000.pt", "ema_0.9999_250000.pt", "model.safetensors"])
def test_a_converted_model_computes_what_the_original_computed(tmp_path, capsys, name):
    source, folder = tmp_path / name, tmp_path / "new" / "model"
    if source.suffix == ".pt":
        torch.save(original(), source)
    else:
        save_file(original(), source)
    assert convert(source, folder) == 0
    told = capsys.readouterr()
    assert told.err == ""
    assert "width 32, 4 layers" in told.out
    assert sorted(p.name for p in folder.iterdir()) == ["config.json", "model.safetensors"]
    model = HouseDiffusion.from_pretrained(folder)
    reference = outputs(golden.small_net())
    eps, bits, recorded = outputs(model.net)
    assert torch.equal(eps, reference[0])
    assert torch.equal(bits, reference[1])
    torch.testing.assert_close(eps, recorded["out_dec"], atol=1e-6, rtol=0)
    torch.testing.assert_close(bits, recorded["out_bin"], atol=2e-6, rtol=0)
    assert model.config.wrap_bits  # as the original computes
    assert model.config.discrete_below == 32


@pytest.mark.parametrize(
    "wrapped",
    [
        lambda tensors: {"state_dict": tensors, "epoch": 3},
        lambda tensors: {f"module.{k}": v for k, v in tensors.items()},
        lambda tensors: {"model": tensors, "args": argparse.Namespace(lr=1e-3)},
        lambda tensors: {k: v.half() for k, v in tensors.items()},
    ],
    ids=["nested", "ddp", "with arguments", "half"],
)
def test_checkpoints_in_other_wrappings(tmp_path, wrapped):
    torch.save(wrapped(original()), tmp_path / "model.pt")
    weights = load_original(tmp_path / "model.pt").net.state_dict()
    for name, value in golden.small_net().state_dict().items():
        torch.testing.assert_close(weights[name], value, atol=2e-3, rtol=0)
        assert weights[name].dtype == torch.float32


def test_half_precision_folder(tmp_path):
    torch.save(original(), tmp_path / "model.pt")
    assert convert(tmp_path / "model.pt", tmp_path / "half", "--half") == 0
    eps, _, recorded = outputs(HouseDiffusion.from_pretrained(tmp_path / "half").net)
    error = (eps - recorded["out_dec"]).abs().max()
    assert 0 < error < 5e-3


def test_the_analog_bits_checkpoint_is_told_by_its_shapes(tmp_path):
    torch.save(dict(golden.tensors("model_small_analog_state_dict")), tmp_path / "model.pt")
    assert convert(tmp_path / "model.pt", tmp_path / "out") == 0
    assert HouseDiffusion.from_pretrained(tmp_path / "out").config.analog_bits


# -------------------------------------------------------------------------------------------------------- bad files


class Anything:
    """An object that a state dict would never hold."""


def truncated(path):
    torch.save(original(), path)
    path.write_bytes(path.read_bytes()[:20_000])


def without(*names):
    return lambda path: torch.save({k: v for k, v in original().items() if k not in names}, path)


def changed(**tensors):
    return lambda path: torch.save({**original(), **{k.replace("__", "."): v for k, v in tensors.items()}}, path)


BAD = {
    "another model": (
        lambda path: torch.save(nn.Linear(3, 4).state_dict(), path),
        "not a HouseDiffusion checkpoint; found weight, bias, expected names like transformer_layers",
    ),
    "another transformer": (
        lambda path: torch.save(nn.TransformerEncoderLayer(8, 2).state_dict(), path),
        "not a HouseDiffusion checkpoint; found self_attn.in_proj_weight",
    ),
    "torch list": (lambda path: torch.save([1, 2, 3], path), "expected a dict of tensors, found list"),
    "pickled list": (lambda path: path.write_bytes(pickle.dumps([1, 2, 3])), ""),
    "pickled object": (lambda path: torch.save(Anything(), path), "not a plain state dict; refused to unpickle"),
    "whole module": (lambda path: torch.save(nn.Linear(2, 2), path), "not a plain state dict; refused to unpickle"),
    "entries": (lambda path: torch.save({"a": 1, "b": "x"}, path), "found entries that are no tensors: a (int), b"),
    "empty dict": (lambda path: torch.save({}, path), "found an empty dict"),
    "truncated": (truncated, "truncated or not a torch checkpoint"),
    "empty file": (lambda path: path.write_bytes(b""), "truncated or not a torch checkpoint (ends too early"),
    "text": (lambda path: path.write_text("not a checkpoint\n"), ""),
    "folder": (lambda path: path.mkdir(), "no such checkpoint file"),
    "not there": (lambda path: None, "no such checkpoint file"),
    "missing tensor": (
        without("transformer_layers.1.gen_attn.q_linear.weight"),
        "1 missing: blocks.1.attn_plan.to_q.weight",
    ),
    "missing input": (without("input_emb.weight"), "tensor input_emb.weight is missing"),
    "missing layer": (
        lambda path: torch.save({k: v for k, v in original().items() if "layers.1." not in k}, path),
        "missing: blocks.1.attn",
    ),
    "misshapen tensor": (
        changed(transformer_layers__0__ff__linear_1__weight=torch.zeros(3, 3)),
        "1 wrong shape or kind: blocks.0.ff.net.0.proj.weight (file float32[3, 3], HouseNet float32[64, 32])",
    ),
    "other conditions": (
        changed(condition_emb__weight=torch.zeros(32, 80)),
        "condition_emb.weight reads 80 features",
    ),
    "flat input": (changed(input_emb__weight=torch.zeros(32)), "input_emb.weight has shape [32], expected two axes"),
    "odd width": (changed(input_emb__weight=torch.zeros(33, 18)), "width 33 must be even"),
}


@pytest.mark.parametrize("kind", list(BAD))
def test_bad_checkpoints_get_one_clear_line(tmp_path, capsys, kind):
    write, message = BAD[kind]
    source = tmp_path / "model250000.pt"
    write(source)
    assert convert(source, tmp_path / "out") == 1
    told = capsys.readouterr()
    assert told.out == ""
    assert told.err.startswith(f"trifold: {source}")
    assert message in told.err
    assert told.err.count("\n") == 1
    assert not (tmp_path / "out").exists()


def test_every_bad_checkpoint_gets_a_line_of_its_own(tmp_path, capsys):
    lines = []
    for kind in ("another model", "torch list", "pickled object", "truncated", "missing tensor", "not there"):
        source = tmp_path / f"{kind.replace(' ', '_')}.pt"
        BAD[kind][0](source)
        assert convert(source, tmp_path / "out") == 1
        lines.append(capsys.readouterr().err.removeprefix(f"trifold: {source}").split("(")[0])
    assert len(set(lines)) == len(lines)


@pytest.mark.parametrize("half", [False, True])
def test_weights_beyond_half_precision(tmp_path, capsys, half):
    tensors = original()
    tensors["output_linear1.bias"] = torch.full((32,), 1e5)
    torch.save(tensors, tmp_path / "model.pt")
    assert convert(tmp_path / "model.pt", tmp_path / "out", *(["--half"] if half else [])) == int(half)
    if half:
        assert "net.head.0.bias: a value is beyond the float16 range" in capsys.readouterr().err
        assert not (tmp_path / "out").exists()


def test_output_that_cannot_be_written(tmp_path, capsys):
    torch.save(original(), tmp_path / "model.pt")
    (tmp_path / "file").write_text("")
    assert convert(tmp_path / "model.pt", tmp_path / "file" / "out") == 1
    assert f"{tmp_path / 'file' / 'out'}: cannot write: {tmp_path / 'file'} is a file" in capsys.readouterr().err


# ------------------------------------------------------------------------------------------------------ rename table


def test_names_that_are_not_the_originals():
    assert rename_key("transformer_layers.2.door_attn.out.bias") == "blocks.2.attn_doors.to_out.0.bias"
    for key in ("weight", "xtransformer_layers.0.self_attn.q_linear.weight", "time_embed.1.weight", ""):
        with pytest.raises(KeyError):
            rename_key(key)


def test_the_shape_is_read_off_the_tensors():
    config = config_from_tensors(original())
    assert (config.width, config.num_layers, config.num_bit_layers, config.edge_points) == (32, 4, 2, 8)
    fewer = {k: v for k, v in original().items() if "layers.3." not in k}
    assert config_from_tensors(fewer).num_layers == 3
