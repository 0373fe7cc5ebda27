"""The original's checkpoints: safe to open, renamed one to one, and believed only where they do not contradict."""

import argparse
import pickle

import pytest
import torch
from safetensors.torch import save_file
from trifold.cli.main import main
from trifold.common.weights import WeightsError
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.luo_hu import AutoEncoder, FlowVAE, GaussianVAE
from trifold.pointcloud.luo_hu.checkpoint import (
    SCHEDULE,
    convert_state_dict,
    load_original,
    model_from_original,
    read_arguments,
    rename_keys,
)

from . import golden
from .luo_hu_models import KINDS, arguments, original_tensors

CASES = golden.notes()["default_sizes"]["cases"]
CLASSES = {"autoencoder": AutoEncoder, "gaussian": GaussianVAE, "flow": FlowVAE}


def told(kind: str, **changes) -> argparse.Namespace:
    return arguments(**({} if kind == "autoencoder" else {"model": kind}), **changes)


def checkpoint(path, kind: str, **changes):
    """A file as the original's CheckpointManager writes it."""
    others = {"optimizer": {"state": {}, "param_groups": [{"lr": 1e-3}]}, "scheduler": {"lr_lambdas": [None]}}
    torch.save({"args": told(kind, **changes), "state_dict": original_tensors(kind), "others": others}, path)
    return path


@pytest.mark.parametrize("name", list(CASES))
def test_the_rename_table_is_a_bijection_onto_our_model(name):
    shapes = {k: tuple(s) for k, s in CASES[name]["state_dict_shapes"].items()}
    kept = {k for k in shapes if not k.startswith(SCHEDULE)}
    table = rename_keys(shapes)
    ours = CLASSES[KINDS[name]]().state_dict()
    assert set(table) == kept
    assert len(set(table.values())) == len(table)
    assert set(table.values()) == set(ours)
    converted = convert_state_dict({k: torch.zeros(s) for k, s in shapes.items()})
    assert all(converted[k].shape == ours[k].shape for k in ours)


def test_the_rename_table_with_spectral_norm_is_a_bijection():
    tensors = original_tensors("flow")
    for name in [k for k in tensors if k.startswith("flow.") and k.endswith("weight")]:
        tensors |= {f"{name}_orig": tensors[name], f"{name}_u": tensors[name][:, 0], f"{name}_v": tensors[name][0]}
    assert {k for k in tensors if k.startswith("flow.chain.0.net_s_t.0")} == set(
        golden.notes()["spectral_state_keys"]
    ) | {"flow.chain.0.net_s_t.0.bias"}
    model = model_from_original(tensors, told("flow", spectral_norm=True))
    table = rename_keys(tensors)
    assert set(table.values()) == set(model.state_dict())
    assert len(set(table.values())) == len(table)


@pytest.mark.parametrize("kind", list(CLASSES))
def test_a_checkpoint_with_its_namespace(tmp_path, kind):
    path = checkpoint(tmp_path / "ckpt_0.000000_1000.pt", kind, scale_mode="shape_bbox", residual=False)
    with pytest.raises(pickle.UnpicklingError):
        torch.load(path, weights_only=True)  # what users of the original meet
    model = load_original(path)
    assert type(model) is CLASSES[kind]
    assert not model.training
    assert model.config.normalisation.mode == "shape_bbox"
    assert (model.config.residual, model.config.latent_dim, model.config.num_steps) == (False, 32, 20)
    assert (model.config.beta_1, model.config.beta_T) == (1e-4, 0.02)
    assert vars(read_arguments(path))["categories"] == ["airplane"]
    for theirs, ours in rename_keys(original_tensors(kind)).items():
        assert torch.equal(model.state_dict()[ours].flatten(), golden.state_dict()[theirs].flatten())


@pytest.mark.parametrize("suffix", [".pt", ".safetensors"])
def test_a_bare_state_dict(tmp_path, suffix):
    path = tmp_path / f"weights{suffix}"
    (torch.save if suffix == ".pt" else save_file)(original_tensors("autoencoder"), path)
    assert read_arguments(path) is None
    with pytest.raises(PointCloudError, match="look alike"):
        load_original(path)
    model = load_original(path, "gaussian")
    assert isinstance(model, GaussianVAE)
    # the table alone says T and both betas; float32 digits are not taken for more than they are
    assert (model.config.num_steps, model.config.beta_1, model.config.beta_T) == (20, 1e-4, 0.02)
    assert model.config.normalisation.mode == "none"
    save_file(original_tensors("flow"), tmp_path / "flow.safetensors")
    assert isinstance(load_original(tmp_path / "flow.safetensors"), FlowVAE)


def test_a_file_that_runs_code_is_refused(tmp_path):
    class Trap:
        def __reduce__(self):
            return (open, (str(tmp_path / "sprung"), "w"))

    torch.save({"args": Trap(), "state_dict": original_tensors("flow")}, tmp_path / "ckpt.pt")
    with pytest.raises(WeightsError, match=r"ckpt\.pt"):
        load_original(tmp_path / "ckpt.pt")
    assert not (tmp_path / "sprung").exists()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"latent_dim": 64}, "latent_dim: the arguments say 64, the tensors 32"),
        ({"num_steps": 100}, "num_steps: the arguments say 100, the tensors 20"),
        ({"beta_T": 0.05}, "beta_T: the arguments say 0.05"),
        ({"latent_flow_depth": 14}, "latent_flow_depth: the arguments say 14, the tensors 4"),
        ({"latent_flow_hidden_dim": 256}, "latent_flow_hidden_dim"),
        ({"spectral_norm": True}, "spectral_norm"),
        ({"sched_mode": "cosine"}, "sched_mode"),
        ({"scale_mode": "unit"}, "scale_mode"),
        ({"scale_mode": "global"}, "scale_mode: found 'global', expected one of shape_unit"),
        ({"model": "gaussian"}, "model: the arguments say 'gaussian', the file has a flow"),
    ],
)
def test_contradictions_are_named(tmp_path, changes, message):
    path = tmp_path / "ckpt.pt"
    checkpoint(path, "flow")
    args = argparse.Namespace(**{**vars(told("flow")), **changes})
    torch.save({"args": args, "state_dict": original_tensors("flow")}, path)
    with pytest.raises(PointCloudError, match=message) as raised:
        load_original(path)
    assert str(path) in str(raised.value)


def test_the_scale_of_a_data_set_must_be_told(tmp_path):
    """scale_mode global_unit divides by a number that the checkpoint does not hold."""
    path = checkpoint(tmp_path / "ckpt.pt", "flow", scale_mode="global_unit")
    with pytest.raises(PointCloudError, match=r"ckpt\.pt: scale: .*std; global_unit: none is given"):
        load_original(path)
    normalisation = load_original(path, scale=0.25).config.normalisation
    assert (normalisation.mode, normalisation.scale) == ("global_unit", 0.25)
    main(["pointcloud", "convert", str(path), str(tmp_path / "out"), "--scale", "0.25"])
    assert FlowVAE.from_pretrained(tmp_path / "out").config.normalisation == normalisation
    with pytest.raises(PointCloudError, match="scale: expected a positive number"):
        load_original(path, scale=-1.0)
    other = checkpoint(tmp_path / "other.pt", "flow", scale_mode="shape_unit")
    with pytest.raises(PointCloudError, match=r"scale: .*no other.*shape_unit: found 0\.25"):
        load_original(other, scale=0.25)


def test_other_models_and_missing_tensors_are_named(tmp_path):
    with pytest.raises(PointCloudError, match=r"not a checkpoint of Luo & Hu.*found transformer\.weight"):
        model_from_original({"transformer.weight": torch.zeros(2)}, told("flow"))
    tensors = original_tensors("flow")
    del tensors["encoder.bn2.weight"]
    with pytest.raises(WeightsError, match=r"1 missing: encoder\.norms\.1\.weight"):
        model_from_original(tensors, told("flow"))
    tensors = {k: v for k, v in original_tensors("autoencoder").items() if not k.startswith(SCHEDULE)}
    with pytest.raises(PointCloudError, match="num_steps: neither"):
        model_from_original(tensors, kind="autoencoder")
    with pytest.raises(FileNotFoundError):
        load_original(tmp_path / "none.pt")
    with pytest.raises(PointCloudError, match="asked for autoencoder"):
        model_from_original(original_tensors("flow"), told("flow"), "autoencoder")
