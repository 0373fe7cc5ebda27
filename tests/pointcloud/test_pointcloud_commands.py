"""`trifold pointcloud ...` as a user calls it: small random models, real files."""

import json
import sys

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image
from trifold.cli.main import main
from trifold.pointcloud import PointCloud, PointDiffusion
from trifold.pointcloud.commands import paired
from trifold.pointcloud.errors import PointCloudError
from trifold.pointcloud.evaluation import row_names
from trifold.pointcloud.luo_hu import FlowVAE, FlowVAEConfig
from trifold.pointcloud.luo_hu import training as luo_hu_training
from trifold.pointcloud.mesh import Mesh
from trifold.pointcloud.output import save_shapes
from trifold.pointcloud.shapes import ProceduralClouds, make_shape

from .luo_hu_models import arguments, original_tensors
from .tiny_points import SMALL, tiny_model

FEW = ("--num-points", 40, "--steps", 2)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "points"
    tiny_model().save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def luo_hu(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models") / "luo-hu"
    FlowVAE(FlowVAEConfig(latent_dim=8, num_steps=4, flow_depth=2, flow_hidden_dim=8)).save_pretrained(folder)
    return folder


@pytest.fixture
def pointcloud(capsys):
    """Run a command that must succeed; the lines it prints."""

    def run(*words: object) -> list[str]:
        status = main(["pointcloud", *map(str, words)])
        printed = capsys.readouterr()
        assert status == 0, printed.err
        return printed.out.splitlines()

    return run


@pytest.fixture
def refused(capsys):
    """Run a command that must fail with one line; that line."""

    def run(*words: object) -> str:
        assert main(["pointcloud", *map(str, words)]) == 1
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1
        return lines[0]

    return run


def sphere(path, count=300, seed=0):
    points = np.random.default_rng(seed).normal(size=(count, 3))
    cloud = PointCloud((points / np.linalg.norm(points, axis=1, keepdims=True)).astype(np.float32))
    cloud.save(path)
    return path


# ------------------------------------------------------------------------------------------------------ generate


def test_generate_equals_the_python_call(pointcloud, model, tmp_path):
    out = tmp_path / "deep" / "chair.ply"
    assert pointcloud("generate", "-o", out, "--model", model, "-n", 1, "--class-name", "chair", "--seed", 3, *FEW) == [
        str(out)
    ]
    expected = PointDiffusion.from_pretrained(model).generate(1, 40, class_name="chair", steps=2, seed=3)[0]
    np.testing.assert_array_equal(PointCloud.load(out).points, expected.points)


@pytest.mark.parametrize("suffix", [".npz", ".glb", ".png", ".html", ".gif"])
def test_generate_writes_what_the_suffix_says(pointcloud, model, tmp_path, suffix):
    out = tmp_path / f"shapes{suffix}"
    written = pointcloud("generate", "-o", out, "--model", model, "-n", 1 if suffix == ".gif" else 2, *FEW)
    if suffix in (".npz", ".glb"):
        assert written == [str(tmp_path / f"shapes-{i}{suffix}") for i in range(2)]
        assert [PointCloud.load(path).num_points for path in written] == [40, 40]
        return
    assert written == [str(out)]
    if suffix == ".html":
        assert "40 points" in out.read_text()
    else:
        picture = Image.open(out)
        assert picture.width > 300
        assert getattr(picture, "n_frames", 1) == (150 if suffix == ".gif" else 1)


def test_a_folder_gets_clouds_meshes_a_sheet_and_a_page(pointcloud, luo_hu, tmp_path):
    out = tmp_path / "shapes"
    words = ("-n", 1, "--num-points", 200, "--mesh", "--precision", "bfloat16")
    written = pointcloud("generate", "-o", out, "--model", luo_hu, *words)
    assert written == [str(out / name) for name in ("cloud-0.ply", "mesh-0.glb", "sheet.png", "index.html")]
    assert Mesh.load(out / "mesh-0.glb").is_watertight
    assert "ddpm, 4 steps" in (out / "index.html").read_text()
    (out / "cloud-1.ply").write_bytes((out / "cloud-0.ply").read_bytes())
    save_shapes([PointCloud.load(out / "cloud-0.ply")], tmp_path / "other", title="")
    (out / "mine-1.ply").touch()
    with pytest.warns(UserWarning, match=r"shapes: cloud-1\.ply, mesh-0\.glb: there before, not of this run"):
        save_shapes([PointCloud.load(out / "cloud-0.ply")], out, title="")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("--class-name", "boat"), "chair, mug, table"),
        (("-n", 0), "num_clouds"),
        (("--steps", 0), "steps"),
        (("-o", "x.avi"), "unknown suffix '.avi'"),
        (("-o", "x.ply", "--mesh"), "holds a cloud, no mesh"),
    ],
)
def test_what_generate_refuses(refused, model, tmp_path, monkeypatch, words, message):
    monkeypatch.chdir(tmp_path)
    assert message in refused("generate", "--model", model, "--num-points", 64, *words)
    assert not list(tmp_path.iterdir())


def test_what_meshes_lack_is_told_before_the_work(refused, tmp_path, monkeypatch):
    nothing = tmp_path / "none"
    draw = ("generate", "--model", nothing, "--mesh", "-o")
    assert "holds a cloud, no mesh" in refused(*draw, "x.ply")
    assert "none: no such folder" in refused(*draw, tmp_path / "shapes")
    monkeypatch.setitem(sys.modules, "open3d", None)
    assert "needs open3d" in refused("mesh", nothing, "--method", "poisson")
    monkeypatch.setitem(sys.modules, "trimesh", None)
    for words in ((*draw, tmp_path / "shapes"), ("mesh", nothing), ("mesh", nothing, "-o", tmp_path / "shapes")):
        assert "mesh files need trimesh" in refused(*words)
    assert "none: no such folder" in refused(*draw, tmp_path / "x.html")
    monkeypatch.setitem(sys.modules, "scipy.fft", None)
    assert "surfaces of clouds need scipy" in refused(*draw, tmp_path / "x.html")


def test_what_a_model_of_luo_and_hu_does_not_know(refused, luo_hu, tmp_path):
    def told(*words):
        return refused("generate", "-o", tmp_path / "x", "--model", luo_hu, *FEW, *words)

    assert "knows no classes" in told("--class-name", "chair")
    assert "no guidance" in told("--guidance-scale", 2)
    assert "has ddpm" in told("--sampler", "heun")


# --------------------------------------------------------------------------------------------------- interpolate


def test_interpolate_takes_clouds_and_meshes(pointcloud, model, tmp_path):
    make_shape("mug", 1).mesh.save(tmp_path / "mug.glb")
    sphere(tmp_path / "ball.ply", 50)
    out = tmp_path / "between"
    written = pointcloud(
        "interpolate", tmp_path / "mug.glb", tmp_path / "ball.ply", "-o", out, "--model", model, "-n", 3, *FEW
    )
    assert [path for path in written if path.endswith(".ply")] == [str(out / f"cloud-{i}.ply") for i in range(3)]
    ends = [PointCloud.load(tmp_path / "mug.glb", num_points=40), PointCloud.load(tmp_path / "ball.ply")]
    loaded = PointDiffusion.from_pretrained(model)
    again = loaded.reconstruct([ends[1]], 40, sampling=None)[0]
    last = PointCloud.load(out / "cloud-2.ply")
    assert last.num_points == again.num_points
    assert np.abs(last.points.mean(0) - ends[1].points.mean(0)).max() < 10


# ------------------------------------------------------------------------------------------------------ evaluate


def test_evaluate_prints_every_model_and_saves(pointcloud, model, luo_hu, tmp_path):
    out = tmp_path / "scores.json"
    words = ("--num-clouds", 3, "--num-points", 32, "--metrics", "cd", "--classes", "chair", "mug", "--seeds", 0, 1)
    lines = pointcloud("evaluate", model, luo_hu, "--steps", 2, *words, "--out", out)
    rows = [[cell.strip() for cell in line.split("|")[1:4]] for line in lines if line.startswith("|")][2:]
    names = ["ground truth", "points: dpmsolver++, 2 steps", "luo-hu: ddpm, 2 steps"]
    assert rows == [
        *([kind, name, "3 / 3"] for kind in ("chair", "mug") for name in names),
        *(["**mean**", name, ""] for name in names),
    ]
    found = json.loads(out.read_text())
    assert [len(found["rows"]["mug"][name]) for name in names] == [2, 2, 2]
    assert set(found["seconds_per_cloud"]) == set(names[1:])


def test_two_runs_that_end_in_model_have_rows_of_their_own(pointcloud, refused, tmp_path):
    for run, scale in (("a", 1.0), ("b", 3.0)):
        (tmp_path / run / "model").mkdir(parents=True)
        for i in range(2):
            cloud = PointCloud(scale * np.random.default_rng(i).normal(size=(16, 3)).astype(np.float32))
            cloud.save(tmp_path / run / "model" / f"{i}.ply")
    words = ("--num-clouds", 2, "--num-points", 16, "--metrics", "cd", "--classes", "mug", "--out", tmp_path / "s.json")
    pointcloud("evaluate", tmp_path / "a" / "model", tmp_path / "b" / "model", *words)
    rows = json.loads((tmp_path / "s.json").read_text())["rows"]["mug"]
    assert {name: len(found) for name, found in rows.items()} == {"ground truth": 1, "a/model": 1, "b/model": 1}
    small, large = (rows[name][0]["scores"]["mmd_cd"]["value"] for name in ("a/model", "b/model"))
    assert small < large
    assert "is named twice" in refused("evaluate", tmp_path / "a" / "model", tmp_path / "a" / "model", *words)


def test_rows_are_named_as_shortly_as_they_differ():
    assert row_names(["procedural"]) == ["procedural"]
    assert row_names(["runs/a/model", "runs/b/model", "other", "model"]) == ["a/model", "b/model", "other", "model"]
    assert row_names(["x/runs/model", "y/runs/model"]) == ["x/runs/model", "y/runs/model"]


def test_ground_truth_against_itself_is_at_chance_and_noise_is_not(pointcloud, model, tmp_path):
    out = tmp_path / "scores.json"
    words = ("--num-clouds", 12, "--num-points", 64, "--metrics", "cd", "--classes", "table", "--steps", 1)
    pointcloud("evaluate", model, *words, "--out", out)
    rows = json.loads(out.read_text())["rows"]["table"]
    truth, drawn = (rows[name][0]["scores"]["1nna_cd"] for name in ("ground truth", "points: dpmsolver++, 1 steps"))
    assert truth["low"] < truth["ideal"] < truth["high"]
    assert drawn["low"] > truth["value"]


def test_evaluate_takes_a_folder_of_clouds_and_other_data(pointcloud, tmp_path):
    points = np.random.default_rng(0).normal(size=(8, 20, 3)).astype(np.float32)
    data = tmp_path / "data.npz"
    np.savez(data, points=points, split=np.array([0, 0, 0, 0, 0, 1, 1, 1]))
    (tmp_path / "mine").mkdir()
    for i in range(3):
        PointCloud(points[5 + i]).save(tmp_path / "mine" / f"{i}.ply")
    out = tmp_path / "scores.json"
    words = ("--data", data, "--classes", "data", "--num-points", 20, "--metrics", "cd", "emd")
    pointcloud("evaluate", tmp_path / "mine", *words, "--out", out)
    (rows,) = json.loads(out.read_text())["rows"].values()
    assert rows["mine"][0]["scores"]["mmd_cd"]["value"] == pytest.approx(0, abs=1e-12)
    assert rows["mine"][0]["scores"]["1nna_emd"]["value"] == 0.5
    assert rows["ground truth"][0]["scores"]["mmd_cd"]["value"] > 0.1


def test_new_references_are_others_for_every_seed(pointcloud, refused, tmp_path):
    """A folder of clouds, the same for all seeds, scores the same against one set and differently against several."""
    (tmp_path / "mine").mkdir()
    for i in range(3):
        PointCloud(ProceduralClouds("test", classes=("mug",), num_points=32)[i].points).save(tmp_path / f"mine/{i}.ply")
    words = ("--num-clouds", 3, "--num-points", 32, "--metrics", "cd", "--classes", "mug", "--seeds", 0, 1, 2)
    found = {}
    for name, more in (("one", ()), ("new", ("--new-references",))):
        pointcloud("evaluate", tmp_path / "mine", *words, *more, "--out", tmp_path / "scores.json")
        rows = json.loads((tmp_path / "scores.json").read_text())["rows"]["mug"]
        found[name] = [[run["scores"]["mmd_cd"]["value"] for run in rows[row]] for row in ("ground truth", "mine")]
    (truth, mine), (new_truth, new_mine) = found["one"], found["new"]
    assert mine == [pytest.approx(0, abs=1e-9)]  # they are the references themselves
    assert len(set(new_mine)) == 3
    assert min(new_mine) > 0
    assert len(truth) == len(new_truth) == 3
    assert not set(truth) & set(new_truth)
    assert "one test split" in refused("evaluate", tmp_path / "mine", *words, "--data", tmp_path, "--new-references")


def test_what_evaluate_refuses(refused, model, luo_hu, tmp_path):
    assert "knows chair, mug, table" in " ".join(refused("evaluate", model, "--classes", "car", *FEW).split())
    assert "knows none" in refused("evaluate", luo_hu)
    (tmp_path / "empty").mkdir()
    assert "no clouds" in refused("evaluate", tmp_path / "empty")
    assert "expected .json" in refused("evaluate", model, "--out", tmp_path / "x.txt")
    for words, message in (
        (("--seeds", 0, 1, 1), "seeds: 1 is there twice"),
        (("--seeds", 1, "--seeds", 0, "--seeds=1"), "seeds: 1 is there twice"),
        (("--classes", "mug", "mug"), "classes: mug is there twice"),
        (("--steps", 2, 2), "drawings: dpmsolver++, 2 steps is there twice"),
    ):
        assert message in " ".join(refused("evaluate", model, "--num-points", 40, *words).split())


def test_steps_and_samplers_pair():
    assert paired((), ()) == [(None, None)]
    assert paired((5, 20), ()) == [(5, None), (20, None)]
    assert paired((5, 20), ("ddpm",)) == [(5, "ddpm"), (20, "ddpm")]
    assert paired((5, 20), ("ddpm", "heun")) == [(5, "ddpm"), (20, "heun")]
    with pytest.raises(PointCloudError, match="samplers: 2 for 1"):
        paired((5,), ("ddpm", "heun"))


# ----------------------------------------------------------------------------------------------- mesh and convert


def test_mesh_writes_files_and_a_folder(pointcloud, tmp_path):
    one, two = sphere(tmp_path / "one.ply"), sphere(tmp_path / "two.xyz", seed=1)
    assert pointcloud("mesh", one, "-o", tmp_path / "ball.obj", "--resolution", 24) == [str(tmp_path / "ball.obj")]
    ball = trimesh.load(tmp_path / "ball.obj")
    assert ball.is_watertight
    assert ball.volume == pytest.approx(4 / 3 * np.pi, rel=0.05)
    written = pointcloud("mesh", one, two, "-o", tmp_path / "meshes.stl", "--method", "alpha")
    assert [Mesh.load(path).is_watertight for path in written] == [True, True]
    folder = pointcloud("mesh", one, "-o", tmp_path / "all", "--method", "alpha")
    assert "watertight" in (tmp_path / "all" / "index.html").read_text()
    assert str(tmp_path / "all" / "mesh-0.glb") in folder


def test_mesh_refuses_what_is_no_cloud(refused, tmp_path):
    make_shape("mug", 1).mesh.save(tmp_path / "mug.glb")
    assert "expected points, found a surface" in refused("mesh", tmp_path / "mug.glb")
    (tmp_path / "none.ply").write_bytes(b"")
    assert "none.ply" in refused("mesh", tmp_path / "none.ply")


def test_a_folder_that_is_read_is_not_written_to(refused, tmp_path):
    one = sphere(tmp_path / "cloud-3.ply")
    assert "holds cloud-3.ply, which is read" in refused("mesh", one, "-o", tmp_path)
    assert "holds cloud-3.ply, which is read" in refused("interpolate", one, one, "-o", tmp_path)
    assert one.is_file()


def test_convert_an_original_checkpoint_and_draw_with_it(pointcloud, refused, tmp_path):
    torch.save({"args": arguments(model="flow"), "state_dict": original_tensors("flow")}, tmp_path / "GEN_airplane.pt")
    out = tmp_path / "airplane"
    (line,) = pointcloud("convert", tmp_path / "GEN_airplane.pt", out)
    assert line.startswith(f"{out}: FlowVAE, ")
    expected = FlowVAE.from_pretrained(out).generate(1, 30, seed=2)[0]
    pointcloud("generate", "-o", tmp_path / "plane.npy", "--model", out, "-n", 1, "--num-points", 30, "--seed", 2)
    np.testing.assert_array_equal(PointCloud.load(tmp_path / "plane.npy").points, expected.points)
    torch.save(original_tensors("autoencoder"), tmp_path / "AE_all.pt")
    assert "kind" in refused("convert", tmp_path / "AE_all.pt", tmp_path / "ae")
    assert not (tmp_path / "ae").exists()


# --------------------------------------------------------------------------------------------------------- train

RUN = ("--train-batch-size", 2, "--max-train-steps", 2, "--report-to", "none", "--mixed-precision", "no")
DATA = ("--num-clouds", 4, "--num-points", 32)


def test_train_a_point_transformer_that_generates(pointcloud, tmp_path):
    net = [word for name, value in SMALL.items() for word in (f"--model.net.{name.replace('_', '-')}", value)]
    data = (*DATA, "--stored-points", 48, "--classes", "mug", "--classes", "table", "--validation-clouds", 2)
    folder = tmp_path / "run"
    prior = ("--prior-stage.steps", 2, "--prior-stage.batch-size", 2)
    (line,) = pointcloud("train", "procedural-small", "--output-dir", folder, *RUN, *data, *net, *prior)
    assert line == f"trained at step 2; see {folder}"
    model = PointDiffusion.from_pretrained(folder / "model")
    assert model.config.class_names == ("mug", "table")
    words = ("--model", folder / "model", "--class-name", "mug", "-n", 1)
    assert pointcloud("generate", "-o", tmp_path / "mug.ply", *words, *FEW) == [str(tmp_path / "mug.ply")]


@pytest.mark.parametrize("preset", ["procedural-small", "luo-hu-published-autoencoder", "luo-hu-published-generator"])
def test_what_comes_from_the_data_is_no_flag(capsys, preset):
    with pytest.raises(SystemExit) as stop:
        main(["pointcloud", "train", preset, "--help"])
    told = capsys.readouterr().out
    assert stop.value.code == 0
    assert "--model.latent-dim" in told
    for name in ("class-names", "class-counts", "normalisation"):
        assert f"--model.{name}" not in told


def test_train_a_model_of_luo_and_hu(pointcloud, refused, tmp_path):
    small = ("--model.latent-dim", 8, "--model.num-steps", 5)
    folder = tmp_path / "run"
    words = ("--output-dir", folder, "--classes", "mug", *DATA, *RUN)
    pointcloud("train", "luo-hu-published-autoencoder", *words, *small)
    assert (folder / "model" / "config.json").is_file()
    endless = refused("train", "luo-hu-published-generator", "--output-dir", tmp_path / "none", *RUN)
    assert "num_clouds: procedural shapes have no end" in endless


def test_the_data_of_a_luo_and_hu_run_is_what_was_asked_for():
    config = luo_hu_training.LuoHuTraining(num_clouds=3, num_points=20, classes=("lamp",), seed=5)
    items = luo_hu_training.read_clouds(config)
    assert [item.points.shape for item in items] == [(20, 3)] * 3
    assert len({item.name for item in items}) == 3
