"""`trifold video`, run in this process on a tiny model: what it writes, what it prints, and how it refuses."""

import dataclasses
import inspect
import json
import re
import runpy
import subprocess
import sys
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from trifold.cli.main import main
from trifold.common.weights import read_tensors
from trifold.video.clip import Clip
from trifold.video.commands import COMMANDS
from trifold.video.editing import Inversion
from trifold.video.errors import VideoError
from trifold.video.pipeline import TuneAVideo
from trifold.video.read import read_clip
from trifold.video.run_config import EditSettings, Reading, VideoRun
from trifold.video.run_folder import RunFolder, enlarged, reduced, slug

from .tiny import tiny_frames, write_tiny

STEPS = 3
FRAMES = 4

# pytest shows what Python hides from users: other packages' deprecations.
pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning:diffusers.*")


def wave(seed: int = 0, size: int = 16) -> Clip:
    return Clip.from_tensor(tiny_frames(FRAMES + 1, size, seed), fps=Fraction(8), name=f"wave{seed}")


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """A folder with a tiny model, a clip, and a run that was tuned on it and has two edits of nearly the same name."""
    folder = tmp_path_factory.mktemp("video")
    write_tiny(folder / "tiny")
    wave().save(folder / "wave.mp4")
    words = ["--edit-prompts", "A blue circle", "a blue: circle!", "--edit.steps", str(STEPS)]
    assert main(["video", "tune", str(folder / "wave.mp4"), *tuning(folder, "run", 4), *words]) == 0
    return folder


def tuning(folder: Path, name: str, steps: int) -> list[str]:
    model, out = str(folder / "tiny"), str(folder / name)
    flags = {"--prompt": "a red square", "--model": model, "--output-dir": out, "--num-frames": FRAMES}
    flags |= {"--max-train-steps": steps, "--checkpointing-steps": 2, "--learning-rate": 1e-2, "--report-to": "none"}
    return [str(word) for pair in flags.items() for word in pair]


@pytest.fixture
def video(capsys):
    """Run `trifold video VERB ...`, which must succeed; returns the lines it printed."""

    def run(verb: str, *words: object) -> list[str]:
        status = main(["video", verb, *map(str, words)])
        told = capsys.readouterr()
        assert status == 0, told.err
        return told.out.splitlines()

    return run


@pytest.fixture
def refused(capsys):
    """Run a command that must fail; returns the one line that it says."""

    def run(verb: str, *words: object) -> str:
        capsys.readouterr()
        assert main(["video", verb, *map(str, words)]) == 1
        told = capsys.readouterr().err
        assert told.startswith("trifold: ")
        assert told.count("\n") == 1
        return told.strip().removeprefix("trifold: ")

    return run


# -------------------------------------------------------------------------------------------------------------- tune


def test_a_run_folder_holds_everything(place):
    run = place / "run"
    assert {p.name for p in run.iterdir()} >= {
        *("config.json", "delta.safetensors", "source.mp4", "source.json", "comparison.mp4", "sheet.png", "index.html"),
        *("inversion", "samples"),
    }
    assert sorted(p.name for p in (run / "samples").glob("*.mp4")) == ["a-blue-circle-0-2.mp4", "a-blue-circle-0.mp4"]
    config = RunFolder(run).run_config()
    assert (config.clip, config.prompt, config.model) == (place / "wave.mp4", "a red square", str(place / "tiny"))
    assert (config.reading.num_frames, config.edit.steps, config.learning_rate) == (FRAMES, STEPS, 1e-2)
    assert [s.prompt for s in RunFolder(run).samples()] == ["A blue circle", "a blue: circle!"]
    source = RunFolder(run).read_video(run / "source.mp4")
    assert source.frames.shape == (FRAMES, 16, 16, 3)
    assert source.fps == 8
    # Every pixel is stored as a block, so that H.264 hardly changes the small clip.
    read = read_clip(place / "wave.mp4", num_frames=FRAMES)
    assert np.abs(source.frames.astype(int) - read.frames).mean() < 2
    page = (run / "index.html").read_text()
    for text in ("A blue circle", "a blue: circle!", "a red square", "guidance scale 12.5"):
        assert text in page
    assert page.count("data:video/mp4;base64,") == 3


def test_resuming_equals_going_through(place, video, tmp_path):
    for steps, more in ((2, []), (4, ["--resume-from-checkpoint", "latest"])):
        video("tune", place / "wave.mp4", *tuning(place, "resumed", steps), *more)
    whole, resumed = (read_tensors(place / name / "delta.safetensors") for name in ("run", "resumed"))
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_an_interrupted_run_is_told_and_keeps_its_place(place, video, refused, monkeypatch):
    from trifold.common.train import loop

    monkeypatch.setattr(loop.StopRequest, "agreed", lambda self: True)
    words = tuning(place, "stopped", 4)
    assert video("tune", place / "wave.mp4", *words)[-1] == (
        "stopped at step 1; go on with --resume-from-checkpoint latest"
    )
    assert "finish the tuning" in refused("edit", place / "stopped", "--prompt", "a blue circle")
    monkeypatch.undo()
    assert "lies ahead of this start" in refused("tune", place / "wave.mp4", *words)
    video("tune", place / "wave.mp4", *words, "--resume-from-checkpoint", "latest")
    whole, resumed = (read_tensors(place / name / "delta.safetensors") for name in ("run", "stopped"))
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)


def test_the_script_is_the_command(monkeypatch, capsys):
    script = Path(__file__).parents[2] / "scripts" / "train_video.py"
    monkeypatch.setattr(sys, "argv", [str(script), "--help"])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(script), run_name="__main__")
    assert stop.value.code == 0
    assert "trifold video tune" in capsys.readouterr().out


# -------------------------------------------------------------------------------------------------------------- edit


@pytest.fixture
def run_copy(place, tmp_path):
    """The tuned run without its edits."""
    import shutil

    copy = tmp_path / "copy"
    shutil.copytree(place / "run", copy, ignore=shutil.ignore_patterns("samples", "inversion", "checkpoint-*"))
    return copy


def test_edit_equals_the_python_call(place, run_copy, video, tmp_path):
    out = tmp_path / "frames.gif"
    words = ["--steps", STEPS, "--seed", 4, "--guidance-scale", 3, "--negative-prompt", "sand", "--sampler", "ddpm"]
    printed = video("edit", run_copy, "--prompt", "a blue circle", *words, "--out", out)
    assert printed == [
        str(run_copy / "samples" / "a-blue-circle-4.mp4"),
        str(out),
        *(str(run_copy / name) for name in ("comparison.mp4", "sheet.png", "index.html")),
    ]
    pipe = TuneAVideo.from_delta(place / "run" / "delta.safetensors")
    clip = read_clip(place / "wave.mp4", num_frames=FRAMES)
    made = pipe.edit(
        clip, "a blue circle", steps=STEPS, seed=4, guidance_scale=3, negative_prompt="sand", sampler="ddpm"
    )
    stored = RunFolder(run_copy).read_video(run_copy / "samples" / "a-blue-circle-4.mp4")
    assert np.abs(stored.frames.astype(int) - made.frames).mean() < 3
    record = json.loads((run_copy / "samples" / "a-blue-circle-4.json").read_text())
    assert record["settings"]["sampler"] == "ddpm"
    assert read_clip(out).num_frames == FRAMES


def test_an_inversion_is_kept_and_used_again(run_copy, video):
    edit = ["edit", run_copy, "--steps", STEPS, "--prompt"]
    video(*edit, "a blue circle")
    (kept,) = (run_copy / "inversion").iterdir()
    Inversion(torch.zeros_like(Inversion.load(kept).latents), STEPS).save(kept)
    video(*edit, "a red circle")
    assert [p.name for p in (run_copy / "inversion").iterdir()] == [kept.name]
    first, second = (RunFolder(run_copy).read_video(s.video) for s in RunFolder(run_copy).samples())
    assert np.abs(first.frames.astype(int) - second.frames).mean() > 1  # it started from the zeros
    video(*edit, "a red circle", "--strength", 0.5)
    assert len(list((run_copy / "inversion").iterdir())) == 2


def test_edits_that_differ_are_kept_and_equal_ones_replaced(run_copy, video):
    for more in ([], ["--guidance-scale", 2], []):
        video("edit", run_copy, "--prompt", "a blue circle", "--steps", 2, "--start", "noise", *more)
    assert [(s.video.name, s.settings["guidance_scale"]) for s in RunFolder(run_copy).samples()] == [
        ("a-blue-circle-0.mp4", 12.5),
        ("a-blue-circle-0-2.mp4", 2.0),
    ]
    assert not (run_copy / "inversion").exists()


def test_several_prompts_from_a_delta(place, video, tmp_path):
    base = ["edit", place / "run" / "delta.safetensors", "--clip", place / "wave.mp4", "--steps", 2]
    base += ["--prompt", "a blue circle", "--read.num-frames", 3, "--prompt", "a red circle"]
    assert video(*base, "--out", tmp_path / "new" / "x.mp4") == [str(tmp_path / "new" / f"x-{i}.mp4") for i in (0, 1)]
    first, second = (read_clip(tmp_path / "new" / f"x-{i}.mp4") for i in (0, 1))
    assert first.frames.shape == second.frames.shape == (3, 16, 16, 3)
    video(*base, "--out", tmp_path / "folder")
    assert {p.name for p in (tmp_path / "folder" / "samples").glob("*.mp4")} == {
        *("a-blue-circle-0.mp4", "a-red-circle-0.mp4")
    }
    assert RunFolder(tmp_path / "folder").read_source().prompt == "a red square"


def test_a_folder_of_edits_belongs_to_one_clip(place, refused, video, tmp_path):
    other = tmp_path / "other.mp4"
    wave(seed=1).save(other)
    words = ["edit", place / "run", "--prompt", "a blue circle", "--steps", 2, "--out", tmp_path / "out"]
    video(*words)
    assert "holds edits of another clip" in refused(*words, "--clip", other)


# ------------------------------------------------------------------------------------------------- invert, evaluate


def test_invert_a_run_and_a_file(place, video, tmp_path):
    printed = video("invert", place / "run", "--steps", STEPS, "--out", tmp_path / "a")
    assert printed[-2:] == [str(tmp_path / "a" / name) for name in ("inversion.safetensors", "reconstruction.mp4")]
    inversion = Inversion.load(tmp_path / "a" / "inversion.safetensors")
    assert (inversion.latents.shape, inversion.steps) == ((1, 4, FRAMES, 8, 8), STEPS)
    scores = json.loads((tmp_path / "a" / "scores.json").read_text())["scores"]
    assert list(scores) == ["VAE alone", f"{STEPS} steps, guidance 1"]
    assert any(line.startswith("| latent error") for line in printed)
    flags = ["--model", place / "tiny", "--num-frames", 3, "--size", 12, "--strength", 0.5, "--steps", 4]
    video("invert", place / "wave.mp4", *flags, "--refinements", 1, "--out", tmp_path / "b")
    inversion = Inversion.load(tmp_path / "b" / "inversion.safetensors")
    assert (inversion.latents.shape, inversion.strength) == ((1, 4, 3, 6, 6), 0.5)
    again = read_clip(tmp_path / "b" / "reconstruction.mp4")
    assert again.frames.shape == (3, 12, 12, 3)


def test_the_round_trip_improves_with_steps(place, video, tmp_path):
    """With the prompt of the inversion and without guidance, inversion is exact in the limit."""
    words = ["invert", place / "wave.mp4", "--model", place / "tiny", "--num-frames", 3]
    errors = []
    for steps in (5, 50):
        video(*words, "--steps", steps, "--prompt", "a red square", "--out", tmp_path / str(steps))
        scores = json.loads((tmp_path / str(steps) / "scores.json").read_text())["scores"]
        errors.append(scores[f"{steps} steps, guidance 1"]["latent_error"])
    assert errors[1] < 0.6 * errors[0]


def test_evaluate(run_copy, video, tmp_path):
    video("edit", run_copy, "--prompt", "a blue circle", "--steps", 2)
    mask = tmp_path / "mask.png"
    Image.fromarray(np.pad(np.full((4, 4), 255, np.uint8), ((0, 12), (0, 12)))).save(mask)
    words = ["evaluate", run_copy, "--mask", mask, "--out", tmp_path / "scores" / "x.json"]
    printed = video(*words, "--reconstruction", 1, "--reconstruction", 2)
    assert re.fullmatch(r"\| +\| +source \| a-blue-circle-0 \|", printed[0])
    saved = json.loads((tmp_path / "scores" / "x.json").read_text())
    assert saved["scores"]["source"]["psnr"] == saved["scores"]["source"]["background_psnr"] == "inf"
    assert saved["scores"]["source"]["flow_correlation"] == pytest.approx(1)
    assert saved["scores"]["a-blue-circle-0"]["psnr"] < 40
    rows = [f"{steps} steps, guidance {guidance}" for steps in (1, 2) for guidance in (1, 12.5)]
    assert list(saved["reconstruction"]["scores"]) == ["VAE alone", *rows]
    assert "<td>∞</td>" in (run_copy / "index.html").read_text()
    assert video("evaluate", run_copy)[-1] == str(run_copy / "scores.json")


# ------------------------------------------------------------------------------------------------- convert and info


def test_convert_to_a_folder_and_to_a_delta(place, video, refused, tmp_path):
    pipe = TuneAVideo.from_delta(place / "run" / "delta.safetensors")
    pipe.save_pretrained(tmp_path / "original")  # in the original program's layout
    (printed,) = video("convert", tmp_path / "original", tmp_path / "whole")
    assert printed.endswith(f"{sum(p.numel() for p in pipe.unet.parameters()):,} parameters")
    video("convert", tmp_path / "original", tmp_path / "d.safetensors", "--base", place / "tiny")
    again = TuneAVideo.from_pretrained(tmp_path / "whole"), TuneAVideo.from_delta(tmp_path / "d.safetensors")
    for other in again:
        for (name, a), b in zip(pipe.unet.named_parameters(), other.unet.parameters(), strict=True):
            assert torch.equal(a, b), name
    assert len(read_tensors(tmp_path / "d.safetensors")) < len(list(pipe.unet.parameters())) / 2
    video("edit", tmp_path / "whole", "--clip", place / "wave.mp4", "-p", "a", "--steps", 2, "-o", tmp_path / "x.mp4")
    assert read_clip(tmp_path / "x.mp4").num_frames == FRAMES + 1
    write_tiny(tmp_path / "relative", seed=3)
    told = refused("convert", tmp_path / "original", tmp_path / "e.safetensors", "--base", tmp_path / "relative")
    assert "convert it without --base" in told
    assert not (tmp_path / "e.safetensors").exists()


def test_info(place, video):
    (line,) = video("info", place / "wave.mp4", "--stride", 2)
    assert line.startswith(f"{place / 'wave.mp4'}: 16x16, {FRAMES + 1} frames at 8 fps -> 3 frames, stride 2, 4 fps")


# -------------------------------------------------------------------------------------------------- files and names


def test_slugs():
    assert slug("A panda, skiing on the Moon!") == "a-panda-skiing-on-the-moon"
    assert slug("Café Übergröße") == "cafe-ubergroe"
    assert slug("../../etc/passwd") == "etc-passwd"
    assert slug("一只熊猫").startswith("prompt-")
    assert slug("一只熊猫") != slug("一只猫")
    assert re.fullmatch(r"prompt-[0-9a-f]{8}", slug("!?"))
    long = slug("word " * 40)
    assert len(long) <= 60
    assert long.endswith("word")
    assert len(slug("w" * 300)) == 60


def test_enlarging_is_undone():
    clip = Clip(np.random.default_rng(0).integers(0, 256, (2, 4, 6, 3), np.uint8), Fraction(8), name="x")
    assert enlarged(clip, 3).frames.shape == (2, 12, 18, 3)
    assert np.array_equal(reduced(enlarged(clip, 3), 3).frames, clip.frames)
    assert enlarged(clip, 1) is clip


def test_config_survives_json(tmp_path):
    config = VideoRun(
        clip=tmp_path / "x.mp4",
        prompt="a",
        selection=("attn_temp",),
        reading=Reading(size=(64, 96), fps=12.5),
        edit=EditSettings(sampler="euler", start="noise"),
    )
    (tmp_path / "config.json").write_text(json.dumps({**config.to_dict(), "versions": {"torch": "2"}}))
    assert RunFolder(tmp_path).run_config() == config


def test_broken_records_are_named(tmp_path):
    run = RunFolder(tmp_path)
    with pytest.raises(FileNotFoundError, match=r"source\.json: no such file; a folder of edits has one"):
        run.read_source()
    (tmp_path / "samples").mkdir()
    (tmp_path / "samples" / "a-0.json").write_text('{"prompt": "a"}')
    with pytest.raises(VideoError, match=r"a-0\.json: not the record of a sample \(KeyError: 'seed'\)"):
        run.samples()
    (tmp_path / "source.json").write_text("[")
    with pytest.raises(VideoError, match=r"source\.json: not valid JSON"):
        run.read_source()


# ---------------------------------------------------------------------------------------------------- help and faults


@pytest.mark.parametrize("verb", list(COMMANDS))
def test_help_explains_every_flag(verb, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")
    with pytest.raises(SystemExit) as stop:
        main(["video", verb, "--help"])
    assert stop.value.code == 0
    text = " ".join(capsys.readouterr().out.replace("│", " ").split())
    assert "Args:" not in text
    for name, parameter in inspect.signature(COMMANDS[verb], eval_str=True).parameters.items():
        if verb == "tune":
            names = [f.name for f in dataclasses.fields(VideoRun) if f.name not in ("reading", "edit", "clip")]
            names += [*Reading.__dataclass_fields__, *(f"edit.{n}" for n in EditSettings.__dataclass_fields__)]
        elif dataclasses.is_dataclass(parameter.default) and f"--{name}." not in text:
            names = [f.name for f in dataclasses.fields(parameter.default)]
        elif dataclasses.is_dataclass(parameter.default):
            names = [f"{name}.{f.name}" for f in dataclasses.fields(parameter.default)]
        else:
            explained = re.search(rf"^        {name}: (\S+ \S+ \S+)", COMMANDS[verb].__doc__ or "", re.MULTILINE)
            assert explained, f"{name} has no explanation"
            assert explained[1] in text
            names = [] if parameter.default is inspect.Parameter.empty and name != "prompt" else [name]
        for flag in names:
            assert f"--{flag.replace('_', '-')}" in text, flag


@pytest.mark.parametrize(
    "words",
    [
        ["tune"],
        ["tune", "x.mp4"],
        ["edit", "run"],
        ["edit", "run", "--prompt", "a", "--sampler", "magic"],
        ["invert", "x.mp4", "--fit", "bend"],
        ["nosuch"],
        [],
    ],
    ids=" ".join,
)
def test_bad_flags_are_told_without_a_traceback(capsys, words):
    with pytest.raises(SystemExit) as stop:
        main(["video", *words])
    assert stop.value.code == 2
    told = capsys.readouterr()
    assert "Traceback" not in told.out + told.err
    assert "help" in told.out + told.err


def test_faults_are_one_line(place, refused, tmp_path):
    run, clip, tiny = place / "run", place / "wave.mp4", place / "tiny"
    assert "no such run folder" in refused("edit", tmp_path / "none", "-p", "a", "-o", tmp_path / "x.mp4")
    assert "give --out" in refused("edit", run / "delta.safetensors", "-p", "a")
    assert "name it by --clip" in refused("edit", run / "delta.safetensors", "-p", "a", "-o", tmp_path / "x.mp4")
    assert "unknown suffix '.avi'" in refused("edit", run, "-p", "a", "-o", tmp_path / "x.avi")
    assert "expected a text, found none" in refused("edit", run, "-p", " ")
    assert "finish the tuning" in refused("edit", unfinished(run, tmp_path), "-p", "a")
    assert "no edits to measure" in refused("evaluate", without_edits(run, tmp_path))
    assert "source.json: no such file" in refused("evaluate", tmp_path)
    assert "no such file or folder" in refused("tune", tmp_path / "no.mp4", *tuning(place, "never", 1))
    assert "found none" in refused("tune", clip, *tuning(place, "never", 1), "--prompt", "")
    assert "max_train_steps: must be at least 1" in refused("tune", clip, *tuning(place, "never", 0))
    blocked = tmp_path / "file"
    blocked.touch()
    assert "is a file, not a folder" in refused("tune", clip, *tuning(place, "never", 1), "--output-dir", blocked / "x")
    assert "expected a Stable Diffusion" in refused("invert", clip, "--model", tmp_path, "-o", tmp_path / "y")
    assert "expected a folder" in refused("invert", clip, "--model", tiny, "-o", tmp_path / "y.mp4")
    assert "expected .safetensors" in refused("convert", tiny, tmp_path / "folder", "--base", tiny)
    assert "expected an inflated UNet3DConditionModel" in refused("convert", tiny, tmp_path / "folder")
    assert "steps" in refused("edit", run, "-p", "a", "--steps", 0)
    if not torch.cuda.is_available():
        assert "torch finds no CUDA GPU here" in refused("edit", run, "-p", "a", "--device", "cuda")
    assert not (place / "never").exists()


def test_a_missing_library_is_told_before_the_work(place, refused, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "av", None)
    assert "needs PyAV" in refused("invert", tmp_path, "--model", tmp_path / "none", "-o", tmp_path / "y")
    assert "needs PyAV" in refused("tune", tmp_path, *tuning(place, "never", 1), "--model", tmp_path / "none")


def test_help_takes_no_network_libraries():
    """They take seconds, and xformers among them warns where it does not fit."""
    text = "import sys, trifold.video.commands; print({'xformers', 'diffusers.models'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True)
    assert (done.stdout, done.stderr) == ("set()\n", "")


def unfinished(run: Path, tmp_path: Path) -> Path:
    (tmp_path / "unfinished").mkdir()
    (tmp_path / "unfinished" / "config.json").write_text((run / "config.json").read_text())
    return tmp_path / "unfinished"


def without_edits(run: Path, tmp_path: Path) -> Path:
    (tmp_path / "fresh").mkdir()
    for name in ("config.json", "source.json", "source.mp4"):
        (tmp_path / "fresh" / name).write_bytes((run / name).read_bytes())
    return tmp_path / "fresh"


def test_usage_names_the_command(capsys):
    assert main(["--help"]) == 0
    assert "video      tune | edit | invert | evaluate | convert | info" in capsys.readouterr().out
