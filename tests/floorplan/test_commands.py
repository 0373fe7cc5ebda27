"""The console command, run in this process: what it writes, what it prints, and that defaults are what help says."""

import inspect
import json
import os
import re
import subprocess
import sys
import warnings
from dataclasses import fields
from importlib.metadata import version
from pathlib import Path

import pytest
from PIL import Image
from trifold.cli.main import main
from trifold.floorplan import BubbleDiagram, FinishSettings, HouseDiffusion
from trifold.floorplan.commands import COMMANDS
from trifold.floorplan.diagram import example_names
from trifold.floorplan.errors import FloorplanError
from trifold.floorplan.rooms import to_rplan_code
from trifold.floorplan.rplan import plan_to_rplan

from .conftest import plans_file


@pytest.fixture
def floorplan(model, capsys):
    """Run `trifold floorplan VERB ...` with the small model; returns the lines it printed. It must succeed."""

    def run(verb: str, *words: object) -> list[str]:
        flags = ["--model", str(model)] if verb in ("generate", "evaluate") else []
        status = main(["floorplan", verb, *map(str, words), *flags])
        told = capsys.readouterr()
        assert (status, told.err) == (0, "")
        return told.out.splitlines()

    return run


# ---------------------------------------------------------------------------------------------------------- generate


@pytest.mark.parametrize("suffix", [".svg", ".png", ".json", ".html", ".gif", ".mp4", ".SVG"])
def test_generate_writes_what_the_suffix_says(floorplan, tmp_path, suffix):
    out = tmp_path / "new" / f"plan{suffix}"
    assert floorplan("generate", "--graph", "two_bedrooms", "--out", out, "--steps", 2) == [str(out)]
    assert [p.name for p in out.parent.iterdir()] == [out.name]
    content = out.read_bytes()
    if suffix == ".json":
        types = [to_rplan_code(t) for t in BubbleDiagram.example("two_bedrooms").node_types()]
        assert json.loads(content)["room_type"] == types
    elif suffix in (".png", ".gif"):
        with Image.open(out) as picture:
            assert picture.format == suffix[1:].upper()
            assert getattr(picture, "n_frames", 1) == (3 if suffix == ".gif" else 1)  # noise, and two steps
    else:
        start = {".svg": b"<svg", ".html": b"<!doctype html", ".mp4": b"ftyp"}[suffix.lower()]
        assert start in content[:64].lower()


def test_generate_equals_the_python_call(floorplan, model, tmp_path):
    words = ["--graph", "entrance_hall", "--out", tmp_path / "p.json", "-n", 2, "--seed", 5, "--sampler", "ddpm"]
    printed = floorplan("generate", *words, "--steps", 3)
    assert printed == [str(tmp_path / "p-0.json"), str(tmp_path / "p-1.json")]
    diagram = BubbleDiagram.example("entrance_hall")
    house = HouseDiffusion.from_pretrained(model)
    for flags, discrete in (([], True), (["--no-discrete"], False)):
        printed = floorplan("generate", *words, "--steps", 3, *flags)
        plans = house.generate(diagram, 2, steps=3, seed=5, sampler="ddpm", discrete=discrete)
        assert [json.loads(Path(p).read_text()) for p in printed] == [plan_to_rplan(plan) for plan in plans]


def test_a_folder_gets_everything(floorplan, model, tmp_path, capsys):
    diagram = tmp_path / "mine.json"
    BubbleDiagram.example("bay_corner_studio").save(diagram)
    printed = floorplan("generate", "-g", diagram, "-o", tmp_path / "all", "-n", 2, "--steps", 2)
    names = ["index.html", "plan-0.json", "plan-0.svg", "plan-1.json", "plan-1.svg", "sheet.png"]
    assert sorted(p.name for p in (tmp_path / "all").iterdir()) == names
    assert sorted(printed) == [str(tmp_path / "all" / name) for name in names]
    words = ["-g", tmp_path / "all" / "plan-1.json", "-o", tmp_path / "all", "--model", model]
    assert main(["floorplan", "generate", *map(str, words)]) == 1
    assert "holds plan-1.json, which is read" in capsys.readouterr().err
    (tmp_path / "all" / "plan.json").touch()
    words = ["-g", diagram, "-o", tmp_path / "all", "--steps", 2, "--model", model]
    assert main(["floorplan", "generate", *map(str, words)]) == 0
    assert "plan-1.json, plan-1.svg: there before, not of this run" in capsys.readouterr().err


def test_a_disconnected_graph_is_drawn_with_a_warning(model, tmp_path, capsys):
    graph = tmp_path / "islands.json"
    graph.write_text(json.dumps({"rooms": [{"type": "living"}, {"type": "study"}], "front_door": 0}))
    words = ["--graph", str(graph), "--out", str(tmp_path / "p.svg"), "--model", str(model), "--steps", "1"]
    assert main(["floorplan", "generate", *words]) == 0
    told = capsys.readouterr()
    assert told.err.count("\n") == 1
    assert told.err.startswith(f"warning: {graph}: doors: the rooms fall into 2 groups that no doors join")
    assert told.out.splitlines() == [str(tmp_path / "p.svg")]


def test_warnings_are_left_as_they_were(tmp_path):
    before = (warnings.showwarning, list(warnings.filters))
    assert main(["floorplan", "render", str(tmp_path / "none.json"), "x.svg"]) == 1
    assert (warnings.showwarning, list(warnings.filters)) == before


def test_the_shipped_model_is_the_default(monkeypatch, model, tmp_path, capsys):
    monkeypatch.setattr(HouseDiffusion, "packaged", {"procedural": str(model)})
    assert main(["floorplan", "generate", "--graph", "two_bedrooms", "--out", str(tmp_path / "p.svg")]) == 0
    assert (tmp_path / "p.svg").is_file()
    assert capsys.readouterr().err == ""


# ------------------------------------------------------------------------------------------------- render, evaluate


@pytest.mark.parametrize(
    ("count", "name", "flags"),
    [
        (1, "one.svg", []),
        (1, "one.png", ["--no-labels"]),
        (1, "one.html", ["--palette", "house_diffusion"]),
        (1, "paper.png", ["--original-style"]),
        (3, "three.svg", []),
        (3, "three.html", []),
    ],
)
def test_render(floorplan, tmp_path, count, name, flags):
    source = plans_file(tmp_path / "plans.json", count)
    out = tmp_path / "pictures" / name
    assert floorplan("render", source, out, *flags) == [str(out)]
    if out.suffix == ".png":
        with Image.open(out) as picture:
            assert picture.size[0] == (256 if "--original-style" in flags else 1024)
    else:
        text = out.read_text()
        assert text.count('data-type="front_door"') >= count


def test_evaluate_prints_and_saves(floorplan, tmp_path):
    out = tmp_path / "scores" / "e.json"
    words = ["--num-plans", 2, "--steps", 1, 2, "--samplers", "ddim", "dpmsolver++", "--seeds", 0, 1, "--sizes"]
    printed = floorplan("evaluate", *words, "--out", out)
    assert sum(line.startswith("| ") for line in printed) == 5 + 5  # scores, and graph errors by number of rooms
    saved = json.loads(out.read_text())
    assert list(saved["scores"]) == ["ground truth", "ddim, 1 steps", "dpmsolver++, 2 steps"]
    assert saved["data"] == "procedural"
    assert (saved["plans"], saved["seeds"], saved["sizes_told"]) == (2, [0, 1], True)
    assert saved["scores"]["dpmsolver++, 2 steps"]["graph_errors"]["count"] == 4


def test_evaluate_takes_a_flag_twice(floorplan, tmp_path):
    words = ["--num-plans", 1, "--steps", 1, "--steps", 2, "--seeds", 0, "--seeds", 3, "--out", tmp_path / "e.json"]
    floorplan("evaluate", *words)
    saved = json.loads((tmp_path / "e.json").read_text())
    assert saved["seeds"] == [0, 3]
    assert len(saved["scores"]) == 3


def test_evaluate_on_a_file(floorplan, tmp_path):
    printed = floorplan("evaluate", "--data", plans_file(tmp_path / "p.json", 2), "--num-plans", 2, "--steps", 1)
    assert any(line.startswith("| ground truth | 2 |") for line in printed)


# ------------------------------------------------------------------------------------------------------------- train


def test_train_writes_a_model_that_generates(tmp_path, monkeypatch, capfd):
    from trifold.floorplan import training

    monkeypatch.setattr(training, "CORNER_SAMPLE", 10)
    monkeypatch.setattr(training, "validate", None)
    flags = ["--output-dir", str(tmp_path / "run"), "--max-train-steps", "2", "--train-batch-size", "2"]
    flags += [
        "--model.width",
        "32",
        "--model.num-layers",
        "1",
        "--report-to",
        "none",
        "--exclude-rooms",
        "4",
        "--exclude-rooms=5",
    ]
    assert main(["floorplan", "train", "procedural-small", *flags]) == 0
    assert f"trained at step 2; see {tmp_path / 'run'}" in capfd.readouterr().out
    model = HouseDiffusion.from_pretrained(tmp_path / "run" / "model")
    assert (model.config.width, model.config.num_layers, model.config.prediction) == (32, 1, "v")
    saved = json.loads((tmp_path / "run" / "config.json").read_text())
    assert (saved["exclude_rooms"], saved["lr_scheduler"]) == ([4, 5], "cosine")
    words = ["--graph", "two_bedrooms", "--out", str(tmp_path / "p.json"), "--model", str(tmp_path / "run" / "model")]
    assert main(["floorplan", "generate", *words, "--steps", "2"]) == 0


# -------------------------------------------------------------------------------------------------- help and version


@pytest.mark.parametrize(("words", "status"), [([], 2), (["--help"], 0), (["-h"], 0)])
def test_usage(words, status, capsys):
    assert main(words) == status
    assert "floorplan  train | generate | finish | evaluate | convert | render" in capsys.readouterr().out


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"trifold {version('trifold')}\n"


@pytest.mark.parametrize("verb", list(COMMANDS))
def test_help_explains_every_flag(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as stop:
        main(["floorplan", verb, "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Args:" not in text
    for name in inspect.signature(COMMANDS[verb]).parameters:
        if name == "settings":  # a flag for each of its fields
            assert all(f"--{field.name.replace('_', '-')} FLOAT" in text for field in fields(FinishSettings))
            assert "Thickness of walls between rooms (m)." in text
            continue
        explained = re.search(rf"^        {name}: (\S+ \S+ \S+)", COMMANDS[verb].__doc__ or "", re.MULTILINE)
        assert explained, f"{name} has no explanation"
        assert explained[1] in text
        assert f"--{name.replace('_', '-')}" in text or name.upper() in text


def test_the_module_runs_as_a_program(tmp_path):
    """Once for real: exit code, one line on stderr, no traceback; off-line, a hub id is an error and not a wait."""
    words = ["--graph", "two_bedrooms", "--out", str(tmp_path / "p.svg"), "--model", "no/where"]
    done = subprocess.run(
        [sys.executable, "-m", "trifold.cli.main", "floorplan", "generate", *words],
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env={**os.environ, "HF_HUB_OFFLINE": "1", "HF_HOME": str(tmp_path / "hub")},
        timeout=120,
        check=False,
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith("trifold: ")
    assert done.stderr.count("\n") == 1
    assert not (tmp_path / "p.svg").exists()


# ------------------------------------------------------------------------------------------------- bad flags, faults


@pytest.mark.parametrize(
    "words",
    [
        ["generate", "--bogus"],
        ["generate"],
        ["generate", "--graph", "two_bedrooms", "--sampler", "euler"],
        ["generate", "--graph", "two_bedrooms", "--steps", "many"],
        ["render", "x.json"],
        ["train"],
        ["train", "nosuch"],
        ["train", "procedural-small", "--max-train-steps", "0"],
        ["train", "procedural-small", "--low-noise-share", "2"],
        ["train", "procedural-small", "--model.corner-counts", "living", "1"],
        ["nosuch"],
        [],
    ],
    ids=" ".join,
)
def test_bad_flags_are_told_without_a_traceback(capsys, words):
    with pytest.raises(SystemExit) as stop:
        main(["floorplan", *words])
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert "Traceback" not in told.out + told.err
    assert "help" in told.out + told.err


def test_unknown_commands(capsys):
    assert main(["florplan"]) == 2
    assert capsys.readouterr().err.startswith("trifold: unknown command 'florplan'\n\nusage: trifold COMMAND")


def test_interruption_and_errors_without_words(monkeypatch, capsys):
    for error, status, line in (
        (KeyboardInterrupt(), 130, "trifold: interrupted\n"),
        (OSError(), 1, "trifold: OSError\n"),
        (RuntimeError("one\n  two"), 1, "trifold: one two\n"),
        (ImportError("needs PyAV"), 1, "trifold: needs PyAV\n"),
    ):

        def raising(words, error=error):
            raise error

        monkeypatch.setattr("trifold.floorplan.commands.run", raising)
        assert main(["floorplan", "generate"]) == status
        assert capsys.readouterr().err == line

    def broken(words):
        raise KeyError("a fault of ours")

    monkeypatch.setattr("trifold.floorplan.commands.run", broken)
    with pytest.raises(KeyError):  # faults of the program keep their traceback
        main(["floorplan", "generate"])


# ---------------------------------------------------------------------------------------------------------- examples


@pytest.mark.parametrize("name", example_names())
def test_packaged_examples_load_without_a_warning(name):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        diagram = BubbleDiagram.example(name)
    assert len(diagram.components()) == 1
    assert diagram.front_door is not None
    assert diagram.name
    assert BubbleDiagram.from_dict(diagram.to_dict()) == diagram


def test_packaged_examples_satisfy_the_schema():
    jsonschema = pytest.importorskip("jsonschema")
    from importlib import resources

    folder = resources.files("trifold.floorplan")
    schema = json.loads((folder / "bubble_diagram.schema.json").read_text())
    jsonschema.Draft202012Validator.check_schema(schema)
    validator = jsonschema.Draft202012Validator(schema)
    assert len(example_names()) >= 3
    for name in example_names():
        validator.validate(json.loads((folder / "examples" / f"{name}.json").read_text()))
    assert not validator.is_valid({"rooms": []})
    with pytest.raises(FloorplanError, match="no example diagram 'nope'; there are: bay_corner_studio"):
        BubbleDiagram.example("nope")
