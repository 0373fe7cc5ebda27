"""Bad input at the console: exit code 1, one line that names the file and the field, no traceback, no output."""

import json
import os
import re
import subprocess
import sys

import pytest
from trifold.cli.main import main
from trifold.floorplan.procedural import generate_plan
from trifold.floorplan.rplan import plan_to_rplan

from .tiny import tiny_model

ROOMS = [{"type": "living", "name": "living"}, {"type": "bedroom", "name": "bed"}]
GOOD = {"rooms": ROOMS, "doors": [["living", "bed"]], "front_door": "living"}


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return tiny_model().save_pretrained(tmp_path_factory.mktemp("model"))


@pytest.fixture
def fails(capsys):
    """Run a command that must fail with one line; returns that line."""

    def run(*words: object) -> str:
        status = main(["floorplan", *map(str, words)])
        told = capsys.readouterr()
        assert (status, told.out) == (1, ""), told.err
        assert told.err.startswith("trifold: ")
        assert told.err.count("\n") == 1
        assert "Traceback" not in told.err
        return told.err.removeprefix("trifold: ").rstrip("\n")

    return run


def write(path, content) -> object:
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


# ---------------------------------------------------------------------------------------------------------- diagrams

DIAGRAMS = {
    "truncated": ('{"rooms": [{"type": "living"}, {"ty', r"not valid json at line 1 column \d+: .*cut off"),
    "empty file": ("", "not valid json at line 1 column 1: .*cut off"),
    "not json": ("rooms: [living]", "not valid json at line 1 column 1"),
    "a list": ([1, 2], "expected an object with rooms, doors, front_door, name; found list"),
    "no rooms key": ({"doors": []}, "rooms: required, but missing"),
    "no rooms": ({"rooms": []}, "rooms: no rooms; expected at least one"),
    "misspelt key": ({"rooms": ROOMS, "door": []}, "unknown key 'door'; did you mean 'doors'?"),
    "room without type": ({"rooms": [{"name": "a"}]}, r"rooms\[0\].type: required, but missing"),
    "unknown type": ({"rooms": [{"type": "ballroom"}]}, r"rooms\[0\].type: .*'ballroom'"),
    "door as room": ({"rooms": [{"type": "front_door"}]}, r"rooms\[0\].type: "),
    "door to nowhere": ({**GOOD, "doors": [["living", "attic"]]}, r"doors\[0\]: no room is named 'attic'"),
    "door to number 7": ({**GOOD, "doors": [[0, 7]]}, r"doors\[0\]: no room 7; rooms are numbered 0 to 1"),
    "door to itself": ({**GOOD, "doors": [[0, 0]]}, r"doors\[0\]: joins 'living' with itself"),
    "door of three": ({**GOOD, "doors": [[0, 1, 0]]}, r"doors\[0\]: expected two rooms"),
    "front door nowhere": ({**GOOD, "front_door": "gate"}, "front_door: no room is named 'gate'"),
    "nan area": ('{"rooms": [{"type": "living", "area": NaN}]}', r"rooms\[0\].area: expected a positive, finite"),
    "negative size": ({"rooms": [{"type": "living", "size": [3, -4]}]}, r"rooms\[0\].size\[1\]: expected a positive"),
    "text area": ({"rooms": [{"type": "living", "area": "big"}]}, r"rooms\[0\].area: expected a number .*'big'"),
    "two corners": ({"rooms": [{"type": "living", "corners": 2}]}, r"rooms\[0\].corners: expected a whole number"),
    "same name": ({"rooms": [ROOMS[0], ROOMS[0]]}, r"rooms\[1\].name: 'living' is already the name of rooms\[0\]"),
}


@pytest.mark.parametrize("kind", list(DIAGRAMS))
def test_bad_diagrams(fails, tmp_path, model, kind):
    content, message = DIAGRAMS[kind]
    graph = write(tmp_path / "graph.json", content)
    line = fails("generate", "--graph", graph, "--out", tmp_path / "new" / "plan.svg", "--model", model)
    assert re.match(f"{re.escape(str(graph))}: {message}", line), line
    assert not (tmp_path / "new").exists()


def test_a_graph_that_is_not_there(fails, tmp_path, model):
    line = fails("generate", "--graph", "two_bedroms", "--out", tmp_path / "p.svg", "--model", model)
    assert line.startswith("two_bedroms: no such file, and no example of that name (examples: bay_corner_studio")
    line = fails("generate", "--graph", tmp_path, "--out", tmp_path / "p.svg", "--model", model)
    assert line == f"{tmp_path}: cannot read: Is a directory"


def test_binary_graph(fails, tmp_path, model):
    graph = tmp_path / "graph.json"
    graph.write_bytes(bytes(range(128, 256)))
    line = fails("generate", "--graph", graph, "--out", tmp_path / "p.svg", "--model", model)
    assert line == f"{graph}: not UTF-8 text (byte 0); expected json"


# ------------------------------------------------------------------------------------------------------------- plans


def plan_json(**changes):
    return {**plan_to_rplan(generate_plan(1)), **changes}


def with_edge(edge):
    plan = plan_json()
    return {**plan, "edges": [edge, *plan["edges"][1:]]}


def without_edges_of(room):
    plan = plan_json()
    kept = [i for i, owners in enumerate(plan["ed_rm"]) if owners[0] != room]
    return {**plan, "edges": [plan["edges"][i] for i in kept], "ed_rm": [plan["ed_rm"][i] for i in kept]}


def with_first_type(room_type):
    plan = plan_json()
    return {**plan, "room_type": [room_type, *plan["room_type"][1:]]}


PLANS = {
    "truncated": (lambda: json.dumps(plan_json())[:200], r"not valid json at line 1 column \d+: .*cut off"),
    "a diagram": (lambda: GOOD, "rooms: a diagram without geometry, not a plan"),
    "something else": (lambda: {"a": 1}, r"expected RPLAN plans \(room_type\) or ProcTHOR plans"),
    "empty list": (lambda: [], "expected RPLAN plans"),
    "a room without corners": (
        lambda: without_edges_of(0),
        r"ed_rm: room_type\[0\] \(\w+\) has no edges, so no corners",
    ),
    "nan coordinate": (
        lambda: json.dumps(with_edge([float("nan"), 1, 2, 3, 1, 0])),
        r"edges\[0\]: expected six finite numbers",
    ),
    "text coordinate": (lambda: with_edge(["a", 1, 2, 3, 1, 0]), r"edges\[0\]: expected six finite numbers"),
    "short edge": (lambda: with_edge([1, 2, 3]), r"edges\[0\]: expected \[x0, y0, x1, y1, type, type across\]"),
    "open loop": (lambda: with_edge([0, 0, 1, 1, 1, 0]), r"edges: room_type\[0\] .*the loop does not close"),
    "unknown type": (lambda: with_first_type(99), r"room_type\[0\]: .*99"),
    "unknown owner": (
        lambda: {**plan_json(), "ed_rm": [[77], *plan_json()["ed_rm"][1:]]},
        r"ed_rm\[0\]: no node 77; room_type has \d+ entries",
    ),
    "owners missing": (lambda: {**plan_json(), "ed_rm": [[0]]}, r"ed_rm: 1 entries for \d+ edges"),
    "no edges": (lambda: {"room_type": [1]}, "edges: required, but missing"),
    "edges no list": (lambda: {**plan_json(), "edges": "none"}, "edges: expected a list, found str"),
}


@pytest.mark.parametrize("kind", list(PLANS))
@pytest.mark.parametrize("verb", ["render", "evaluate"])
def test_bad_plans(fails, tmp_path, model, kind, verb):
    make, message = PLANS[kind]
    path = write(tmp_path / "plans.json", make())
    if verb == "render":
        line = fails("render", path, tmp_path / "new" / "plan.svg")
    else:
        line = fails("evaluate", "--data", path, "--num-plans", 1, "--model", model)
    assert re.match(f"{re.escape(str(path))}: {message}", line), line
    assert not (tmp_path / "new").exists()


def test_the_bad_plan_of_a_list_is_named(fails, tmp_path):
    path = write(tmp_path / "plans.json", [plan_json(), with_edge([1, 2])])
    line = fails("render", path, tmp_path / "plan.svg")
    assert line.startswith(f"{path}[1]: edges[0]: expected [x0, y0")


def test_plans_that_are_not_there(fails, tmp_path):
    missing, empty = tmp_path / "missing.json", tmp_path / "empty"
    empty.mkdir()
    line = fails("render", missing, tmp_path / "plan.svg")
    assert line == f"{missing}: cannot read: No such file or directory"
    line = fails("render", empty, tmp_path / "plan.svg")
    assert line == f"{empty}: no .json or .json.gz file in this folder"


def test_one_plan_for_the_papers_style(fails, tmp_path):
    path = write(tmp_path / "plans.json", [plan_json(), plan_json()])
    line = fails("render", path, tmp_path / "plan.svg", "--original-style")
    assert line == f"{path}: holds 2 plans; the original style draws one"
    line = fails("render", path, tmp_path / "plan.svg", "--palette", "pink")
    assert line.startswith("palette: expected one of")


# ----------------------------------------------------------------------------------------------------------- outputs


@pytest.mark.parametrize("verb", ["generate", "render", "evaluate"])
def test_outputs_that_cannot_be_written(fails, tmp_path, model, verb):
    write(tmp_path / "file", "a regular file")
    plans = write(tmp_path / "plans.json", plan_json())
    words = {
        "generate": ["--graph", "two_bedrooms", "--model", model, "--steps", 1],
        "render": [plans],
        "evaluate": ["--model", model, "--num-plans", 1, "--steps", 1],
    }[verb]
    suffix = ".json" if verb == "evaluate" else ".svg"
    words += [] if verb == "render" else ["--out"]
    below = tmp_path / "file" / "deep" / f"plan{suffix}"
    line = fails(verb, *words, below)
    assert line == f"{below}: cannot write: {tmp_path / 'file'} is a file, not a folder"
    folder = tmp_path / f"folder{suffix}"
    folder.mkdir()
    assert fails(verb, *words, folder) == f"{folder}: cannot write: it is a folder"
    odd = tmp_path / "new" / "plan.docx"
    assert fails(verb, *words, odd).startswith(f"{odd}: unknown suffix '.docx'; expected .")
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize(("verb", "name"), [("render", "plan.gif"), ("render", "plan.json"), ("render", "plan")])
def test_render_makes_no_animations_or_folders(fails, tmp_path, verb, name):
    plans = write(tmp_path / "plans.json", plan_json())
    line = fails(verb, plans, tmp_path / name)
    assert "expected .svg, .png, .html" in line
    assert not (tmp_path / name).exists()


def test_no_permission(fails, tmp_path, monkeypatch):
    plans = write(tmp_path / "plans.json", plan_json())
    monkeypatch.setattr(os, "access", lambda path, mode: False)  # tests may run as root, who may write anywhere
    line = fails("render", plans, tmp_path / "p.svg")
    assert line == f"{tmp_path / 'p.svg'}: cannot write: no permission to write in {tmp_path}"


# --------------------------------------------------------------------------------------------------- numbers, models


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--steps", 0], "steps: expected 1 to 1000, found 0"),
        (["--steps", -4], "steps: expected 1 to 1000, found -4"),
        (["--steps", 1001], "steps: expected 1 to 1000, found 1001"),
        (["--num-plans", 0], "num_plans: expected at least 1, found 0"),
        (["--num-plans", -1], "num_plans: expected at least 1, found -1"),
        (["--best-of", 0], "best_of: expected at least 1, found 0"),
        (["--seed", -1], r"seed: expected 0 to 2^63 - 1, found -1"),
        (["--seed", 2**70], f"seed: expected 0 to 2^63 - 1, found {2**70}"),
    ],
)
def test_numbers_that_mean_nothing(fails, tmp_path, model, flags, message):
    words = ["--graph", "entrance_hall", "--out", tmp_path / "new" / "p.svg", "--model", model]
    assert fails("generate", *words, *flags) == message
    assert not (tmp_path / "new").exists()
    if flags[0] == "--steps":
        assert fails("generate", *words[:3], tmp_path / "new" / "p.gif", *words[4:], *flags) == message
        assert fails("evaluate", "--model", model, "--num-plans", 1, *flags) == message
    elif flags[0] == "--num-plans":
        assert fails("evaluate", "--model", model, *flags) == message


def test_animations_show_one_plan(fails, tmp_path, model):
    out = tmp_path / "p.gif"
    line = fails("generate", "--graph", "entrance_hall", "--out", out, "--model", model, "--num-plans", 3)
    assert line == f"{out}: num_plans: an animation shows one plan, found 3"


def test_evaluations_that_cannot_be(fails, tmp_path, model):
    words = ["--model", model, "--num-plans", 1]
    assert fails("evaluate", *words, "--steps", 1, 2, 3, "--samplers", "ddim", "ddpm") == (
        "samplers: 2 samplers for 3 entries of steps"
    )
    assert fails("evaluate", *words, "--seeds") == "seeds: expected at least one, found none"
    assert fails("evaluate", *words, "--steps") == "runs: expected at least one, found none"
    assert fails("evaluate", *words, "--steps", 2, 2).startswith("runs: each gets a row of its own")
    plans = write(tmp_path / "plans.json", plan_json())
    assert fails("evaluate", "--model", model, "--data", plans, "--num-plans", 2) == (
        f"{plans}: holds 1 plans, fewer than num_plans=2"
    )


def model_with(folder, **files: str):
    tiny_model().save_pretrained(folder)
    for name, content in files.items():
        (folder / {"config": "config.json", "weights": "model.safetensors"}[name]).write_text(content)
    return folder


MODELS = {
    "unknown name": (lambda path: "nosuch", "nosuch: no such folder; packaged names: procedural"),
    "not a model": (lambda path: path.mkdir() or path, "no config.json; expected a folder written by save_pretrained"),
    "broken config": (lambda path: model_with(path, config="{"), "config.json: not valid JSON"),
    "other model": (
        lambda path: model_with(path, config='{"class": "VideoUNet", "config": {}}'),
        "config.json: 'class' is VideoUNet, expected HouseDiffusion",
    ),
    "unknown field": (
        lambda path: model_with(path, config='{"class": "HouseDiffusion", "config": {"depth": 3}}'),
        "config.json: HouseDiffusionConfig has no field depth",
    ),
    "wrong field": (
        lambda path: model_with(path, config='{"class": "HouseDiffusion", "config": {"width": "wide"}}'),
        "config.json: width: expected int, found 'wide'",
    ),
    "other size": (
        lambda path: model_with(path, config='{"class": "HouseDiffusion", "config": {"width": 64, "num_layers": 2}}'),
        "model.safetensors does not fit HouseDiffusion: ",
    ),
    "broken weights": (lambda path: model_with(path, weights="x"), "model.safetensors: not a complete safetensors"),
}


@pytest.mark.parametrize("kind", list(MODELS))
def test_bad_models(fails, tmp_path, kind):
    make, message = MODELS[kind]
    folder = make(tmp_path / "model")
    line = fails("generate", "--graph", "entrance_hall", "--out", tmp_path / "p.svg", "--model", folder)
    assert line.startswith(str(folder))
    assert message in line
    assert not (tmp_path / "p.svg").exists()
    assert fails("evaluate", "--num-plans", 1, "--model", folder) == line


def test_more_rooms_than_the_model_can_number(fails, tmp_path):
    folder = tiny_model(index_encoding="one_hot").save_pretrained(tmp_path / "model")
    rooms = [{"type": "bedroom"}] * 20
    graph = write(tmp_path / "g.json", {"rooms": rooms, "doors": [[i, i + 1] for i in range(19)], "front_door": 0})
    line = fails("generate", "--graph", graph, "--out", tmp_path / "p.svg", "--model", folder)
    assert line.startswith("a room or corner has number 40, but a one_hot model counts to 31")


def test_a_gpu_that_is_not_there(fails, tmp_path, model, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    words = ["--graph", "entrance_hall", "--out", tmp_path / "p.svg", "--model", model, "--device", "cuda"]
    assert fails("generate", *words).startswith("device: asked for cuda, but torch finds no CUDA GPU here")


def test_training_data_that_is_not_there(fails, tmp_path):
    flags = ["--data", tmp_path / "none.json", "--output-dir", tmp_path / "run"]
    assert (
        fails("train", "procedural-small", *flags)
        == f"{tmp_path / 'none.json'}: cannot read: No such file or directory"
    )
    assert not (tmp_path / "run").exists()


def test_as_a_program(tmp_path):
    graph = write(tmp_path / "graph.json", {**GOOD, "doors": [["living", "attic"]]})
    words = ["floorplan", "generate", "--graph", str(graph), "--out", str(tmp_path / "p.svg")]
    done = subprocess.run(
        [sys.executable, "-m", "trifold.cli.main", *words], capture_output=True, text=True, timeout=120, check=False
    )
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (f"trifold: {graph}: doors[0]: no room is named 'attic' (named rooms: 'living', 'bed')\n")
