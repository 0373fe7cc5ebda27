"""Weights that other codebases wrote, and files that appear whole or not at all."""

import argparse
import collections
import os
import pickle
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from safetensors.torch import save_file
from trifold.common.pretrained import WeightsError, load_foreign_state_dict
from trifold.common.weights import remove_folder, replaced_file, replaced_folder, write_json

# ----------------------------------------------------------------------------------------------- foreign checkpoints

WEIGHTS = {"a.weight": torch.arange(3.0), "a.bias": torch.tensor(1)}


@pytest.mark.parametrize(
    "content",
    [
        WEIGHTS,
        collections.OrderedDict(WEIGHTS),
        {"state_dict": WEIGHTS, "args": argparse.Namespace(lr=1e-3), "epoch": 3},
        {"model": {f"module.{name}": tensor for name, tensor in WEIGHTS.items()}},
        {"ema": {f"module._orig_mod.{name}": tensor for name, tensor in WEIGHTS.items()}, "step": 1},
        {f"_orig_mod.module.{name}": tensor for name, tensor in WEIGHTS.items()},
    ],
    ids=["bare", "ordered", "state_dict", "model", "ema", "compiled"],
)
def test_foreign_pickles_are_unwrapped(tmp_path, content):
    torch.save(content, tmp_path / "ckpt.pt")
    found = load_foreign_state_dict(tmp_path / "ckpt.pt")
    assert found.keys() == WEIGHTS.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in WEIGHTS.items())


def test_foreign_safetensors(tmp_path):
    save_file(WEIGHTS, tmp_path / "w.safetensors")
    assert torch.equal(load_foreign_state_dict(str(tmp_path / "w.safetensors"))["a.weight"], WEIGHTS["a.weight"])


def test_several_nested_dicts_need_a_choice(tmp_path):
    path = tmp_path / "ckpt.pt"
    torch.save({"model": WEIGHTS, "ema": {"b": torch.ones(1)}, "generator": {"c": torch.zeros(1)}}, path)
    with pytest.raises(WeightsError, match=r"several state dicts \(model, ema\); choose one by key="):
        load_foreign_state_dict(path)
    assert list(load_foreign_state_dict(path, key="ema")) == ["b"]
    assert list(load_foreign_state_dict(path, key="generator")) == ["c"]
    with pytest.raises(WeightsError, match="no state dict under 'x'; entries: model, ema, generator"):
        load_foreign_state_dict(path, key="x")


class Payload:
    def __reduce__(self):
        return os.system, ("true",)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (Payload(), r"refused to unpickle it \(Trying to load unsupported GLOBAL \w+\.system whose .* is blocked\)$"),
        (collections.deque(), r"refused to unpickle it \(Unsupported global: GLOBAL collections\.deque was not .*\)$"),
        ([torch.zeros(1)], "expected a dict of tensors, found list"),
        ({"lr": 0.1, "w": torch.zeros(1)}, r"entries that are no tensors: lr \(float\)"),
        ({}, "an empty dict"),
    ],
)
def test_pickles_that_are_no_state_dict(tmp_path, content, message):
    torch.save(content, tmp_path / "ckpt.pt")
    with pytest.raises(WeightsError, match=rf"ckpt.pt: .*{message}"):
        load_foreign_state_dict(tmp_path / "ckpt.pt")


@pytest.mark.parametrize(
    ("content", "found"),
    [
        (pickle.dumps([1, 2]), r"a pickle of Python objects that torch.save did not write \(Unsupported operand"),
        (b"hello world\nand more", r"text that begins 'hello world' \(KeyError"),
        (b"version https://git-lfs.github.com/spec/v1\n", "text that begins 'version https://git-lfs"),
        ("<!DOCTYPE html>\n<p>caf\u00e9".encode(), "text that begins '<!DOCTYPE html>'"),
        (bytes(range(255, 155, -1)), r"other bytes \("),
        (b"PK", "a zip archive, cut short or damaged"),
    ],
)
def test_files_that_torch_did_not_write(tmp_path, content, found):
    (tmp_path / "ckpt.pt").write_bytes(content)
    with pytest.raises(
        WeightsError, match=rf"ckpt.pt: not a file of tensors .*\(weights_only\): found {found}"
    ) as told:
        load_foreign_state_dict(tmp_path / "ckpt.pt")
    assert not any(word in str(told.value) for word in ("\x1b", "\n", "False", "trust", "issue"))


@given(st.binary(max_size=64))
def test_no_bytes_make_the_reader_trip(content):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "ckpt.pt"
        path.write_bytes(content)
        with pytest.raises(WeightsError, match=r"ckpt\.pt: "):
            load_foreign_state_dict(path)


@pytest.mark.parametrize("keep", [0, 1, 40, 600])
def test_truncated_pickles(tmp_path, keep):
    path = tmp_path / "ckpt.pt"
    torch.save(WEIGHTS, path)
    path.write_bytes(path.read_bytes()[:keep])
    with pytest.raises(WeightsError, match=r"ckpt.pt: (truncated|not a file of tensors)"):
        load_foreign_state_dict(path)
    with pytest.raises(FileNotFoundError, match="no such checkpoint"):
        load_foreign_state_dict(tmp_path / "none.pt")


# ----------------------------------------------------------------------------------------------------- atomic writes


def test_failed_writes_leave_the_old_state(tmp_path):
    (tmp_path / "file").write_text("old")
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "inside").write_text("old")
    with pytest.raises(KeyError), replaced_file(tmp_path / "file") as temporary:  # noqa: PT012
        temporary.write_text("half")
        raise KeyError
    with pytest.raises(KeyError), replaced_folder(tmp_path / "folder") as temporary:  # noqa: PT012
        (temporary / "inside").write_text("half")
        raise KeyError
    assert (tmp_path / "file").read_text() == (tmp_path / "folder" / "inside").read_text() == "old"
    assert sorted(p.name for p in tmp_path.iterdir()) == ["file", "folder"]


def test_json_refuses_what_it_could_not_read_back(tmp_path):
    with pytest.raises(TypeError, match="cannot be written as JSON"):
        write_json(tmp_path / "file.json", {"bad": object()})
    assert not list(tmp_path.iterdir())


def test_replaced_folder_replaces(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "stale").touch()
    with replaced_folder(tmp_path / "folder") as temporary:
        (temporary / "fresh").touch()
    assert [p.name for p in (tmp_path / "folder").iterdir()] == ["fresh"]
    remove_folder(tmp_path / "folder")
    assert not list(tmp_path.iterdir())
