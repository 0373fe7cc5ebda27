"""Saving models and finding them again."""

import enum
import json
import os
import sys
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import torch
from safetensors.torch import save_file
from torch import nn
from trifold.common.pretrained import PretrainedModel, WeightsError, config_from_dict, open_pretrained
from trifold.common.weights import read_tensors


class Colour(enum.Enum):
    RED = "red"


@dataclass(frozen=True)
class Part:
    sizes: tuple[int, ...] = (1, 2)
    rate: float = 0.5


@dataclass(frozen=True)
class NetConfig:
    width: int = 4
    kind: Literal["a", "b"] = "a"
    part: Part = field(default_factory=Part)
    pair: tuple[int, float] = (1, 2.0)
    limit: float | None = None
    colour: Colour = Colour.RED
    names: list[str] = field(default_factory=list)
    table: dict[str, int] = field(default_factory=dict)
    folder: Path = Path("x")
    flag: bool = False
    anything: Any = None

    def __post_init__(self):
        if self.width > 1000:
            raise ValueError("width: too wide")


class Net(PretrainedModel):
    config_class = NetConfig
    packaged = {"shipped": "shipped-weights"}  # noqa: RUF012

    def __init__(self, config):
        super().__init__()
        self.config = config
        self.linear = nn.Linear(config.width, 2)
        self.register_buffer("count", torch.tensor(3))


class Other(Net):
    pass


def edit(folder, change):
    path = folder / "config.json"
    saved = json.loads(path.read_text())
    change(saved)
    path.write_text(json.dumps(saved))


# ------------------------------------------------------------------------------------------------------ round trips


def test_round_trip_restores_weights_and_config(tmp_path):
    config = NetConfig(width=3, part=Part(sizes=(4, 5, 6)), limit=2.0)
    net = Net(config)
    assert net.save_pretrained(tmp_path / "a" / "b") == tmp_path / "a" / "b"
    loaded = Net.from_pretrained(tmp_path / "a" / "b")
    assert loaded.config == config
    assert not loaded.training
    assert all(torch.equal(t, loaded.state_dict()[n]) for n, t in net.state_dict().items())
    saved = json.loads((tmp_path / "a" / "b" / "config.json").read_text())
    assert saved["class"] == "Net"
    assert saved["trifold_version"]
    assert sorted(os.listdir(tmp_path / "a" / "b")) == ["config.json", "model.safetensors"]


def test_half_files_come_back_as_float32(tmp_path):
    net = Net(NetConfig())
    net.save_pretrained(tmp_path, half=True)
    assert read_tensors(tmp_path / "model.safetensors")["linear.weight"].dtype is torch.float16
    loaded = Net.from_pretrained(str(tmp_path))
    assert loaded.linear.weight.dtype is torch.float32
    assert torch.equal(loaded.linear.weight, net.linear.weight.half().float())
    assert loaded.count.dtype is torch.int64
    assert Net.from_pretrained(tmp_path, dtype=torch.bfloat16, device="cpu").linear.weight.dtype is torch.bfloat16


def test_half_refuses_to_make_infinities(tmp_path):
    net = Net(NetConfig())
    nn.init.constant_(net.linear.bias, 1e5)
    with pytest.raises(WeightsError, match=r"linear.bias: a value is beyond the float16 range"):
        net.save_pretrained(tmp_path, half=True)
    assert not list(tmp_path.iterdir())


def test_saving_over_an_old_folder_keeps_it_readable(tmp_path):
    Net(NetConfig()).save_pretrained(tmp_path)
    net = Net(NetConfig(width=7))
    net.save_pretrained(tmp_path)
    assert Net.from_pretrained(tmp_path).config.width == 7


def test_packaged_name_comes_first(tmp_path, monkeypatch):
    monkeypatch.setattr(sys.modules[__name__], "__file__", str(tmp_path / "module.py"))
    Net(NetConfig(width=6)).save_pretrained(tmp_path / "shipped-weights")
    monkeypatch.chdir(tmp_path)
    Net(NetConfig(width=9)).save_pretrained("shipped")
    assert Net.from_pretrained("shipped").config.width == 6
    assert Net.from_pretrained("./shipped").config.width == 9
    assert Net.from_pretrained(Path("./shipped")).config.width == 9
    assert open_pretrained("shipped", [Net]).config.width == 6
    assert open_pretrained(Path("shipped"), [Net]).config.width == 9
    assert Net.packaged_folder("shipped") == tmp_path / "shipped-weights"
    assert Net.packaged_folder("unknown") is None


# ----------------------------------------------------------------------------------------------------------- the hub


def test_hub_repository_is_downloaded(tmp_path, monkeypatch):
    Net(NetConfig(width=5)).save_pretrained(tmp_path)
    asked = []

    def download(repo_id, *, revision, allow_patterns):
        asked.append((repo_id, revision, allow_patterns))
        return str(tmp_path)

    monkeypatch.setattr("huggingface_hub.snapshot_download", download)
    assert Net.from_pretrained("owner/name", revision="v1").config.width == 5
    assert asked == [("owner/name", "v1", ["config.json", "model.safetensors"])]


def test_push_uploads_the_folder(tmp_path, monkeypatch):
    calls = []

    class Api:
        def create_repo(self, repo_id, *, exist_ok):
            calls.append((repo_id, exist_ok))

        def upload_folder(self, *, repo_id, folder_path, allow_patterns):
            calls.append((repo_id, folder_path, sorted(p.name for p in folder_path.iterdir())))

    monkeypatch.setattr("huggingface_hub.HfApi", Api)
    Net(NetConfig()).save_pretrained(tmp_path, push_to_hub=True, repo_id="owner/name")
    assert calls == [("owner/name", True), ("owner/name", tmp_path, ["config.json", "model.safetensors"])]
    with pytest.raises(ValueError, match="repo_id"):
        Net(NetConfig()).save_pretrained(tmp_path, push_to_hub=True)


# ------------------------------------------------------------------------------------------------------------ errors


def test_places_that_hold_no_model(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no config\.json"):
        Net.from_pretrained(tmp_path)
    for name in (tmp_path / "missing", "missing", "./a/b", "some/deep/folder"):
        with pytest.raises(
            FileNotFoundError, match="packaged names: shipped; a hub repository is written 'owner/name'"
        ):
            Net.from_pretrained(name)
    Net(NetConfig()).save_pretrained(tmp_path)
    with pytest.raises(ValueError, match="revision='v1' is for hub repositories"):
        Net.from_pretrained(tmp_path, revision="v1")
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"model.safetensors: no such weight file"):
        Net.from_pretrained(tmp_path)


def test_another_class_is_named(tmp_path):
    Net(NetConfig()).save_pretrained(tmp_path)
    with pytest.raises(WeightsError, match=r"config.json: 'class' is Net, expected Other"):
        Other.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda c: c["config"].update(depth=3, heads=1), "NetConfig has no field depth, heads; fields: width"),
        (lambda c: c["config"].update(width="wide"), "config.json: width: expected int, found 'wide'"),
        (lambda c: c["config"].update(width=True), "width: expected int, found True"),
        (lambda c: c["config"].update(kind="z"), "kind: expected"),
        (lambda c: c["config"]["part"].update(sizes=[1, "b"]), r"part: sizes\[1\]: expected int, found 'b'"),
        (lambda c: c["config"].update(part=3), "part: expected an object for Part, found 3"),
        (lambda c: c["config"].update(pair=[1]), "pair: expected"),
        (lambda c: c["config"].update(limit="x"), "limit: expected"),
        (lambda c: c["config"].update(colour="blue"), "colour: expected Colour, found 'blue'"),
        (lambda c: c["config"].update(width=2000), "config.json: width: too wide"),
        (lambda c: c.pop("config"), "expected the fields 'class' and 'config'"),
    ],
)
def test_bad_config_fields_are_named(tmp_path, change, message):
    Net(NetConfig()).save_pretrained(tmp_path)
    edit(tmp_path, change)
    with pytest.raises(WeightsError, match=message):
        Net.from_pretrained(tmp_path)


def test_config_values_of_every_kind():
    config = config_from_dict(
        NetConfig,
        {
            "width": 2,
            "pair": [3, 4],
            "limit": None,
            "colour": "red",
            "names": ["n"],
            "table": {"k": 1},
            "folder": "f/g",
            "flag": True,
            "anything": {"x": [1]},
        },
        "here",
    )
    expected = NetConfig(
        width=2,
        pair=(3, 4.0),
        names=["n"],
        table={"k": 1},
        folder=Path("f/g"),
        flag=True,
        anything={"x": [1]},
    )
    assert config == expected
    assert type(config.pair[1]) is float

    @dataclass(frozen=True)
    class Strict:
        width: int

    Strict.__annotations__["width"] = int
    with pytest.raises(WeightsError, match=r"here: .*width"):
        config_from_dict(Strict, {}, "here")


def test_broken_json_is_named(tmp_path):
    Net(NetConfig()).save_pretrained(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(WeightsError, match=r"config.json: not valid JSON"):
        Net.from_pretrained(tmp_path)


def test_weights_that_do_not_fit_are_listed_and_nothing_is_loaded(tmp_path):
    net = Net(NetConfig())
    net.save_pretrained(tmp_path)
    tensors = {"linear.weight": torch.zeros(2, 5), "count": torch.tensor(1.0)}
    tensors |= {f"extra{i}": torch.zeros(1) for i in range(10)}
    save_file(tensors, tmp_path / "model.safetensors")
    with pytest.raises(WeightsError) as caught:
        Net.from_pretrained(tmp_path)
    message = str(caught.value)
    assert "model.safetensors does not fit Net: 1 missing: linear.bias; 10 unexpected: extra0" in message
    assert "and 2 more" in message
    assert "linear.weight (file float32[2, 5], Net float32[2, 4])" in message
    assert "count (file float32[], Net int64[])" in message


def test_truncated_weights_are_named(tmp_path):
    Net(NetConfig()).save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-8])
    with pytest.raises(WeightsError, match=r"model.safetensors: not a complete safetensors file"):
        Net.from_pretrained(tmp_path)
