"""What a user installs: a wheel with all that the commands need and nothing else, and a README that tells the truth."""

import ast
import functools
import importlib
import os
import re
import shlex
import shutil
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
from trifold.cli.main import main
from trifold.floorplan import training
from trifold.floorplan.commands import COMMANDS
from trifold.pointcloud import training as cloud_training
from trifold.pointcloud.commands import COMMANDS as CLOUD_COMMANDS
from trifold.video.commands import COMMANDS as VIDEO_COMMANDS

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
HEADS = [name for name in ("floorplan", "video", "pointcloud") if (ROOT / name).is_dir()]


def run(*words: object, cwd: Path, **env: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, *map(str, words)],
        cwd=cwd,
        env={**os.environ, **env},
        capture_output=True,
        text=True,
        timeout=200,
        check=False,
    )


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    """Built from a copy: building writes `build/` and `*.egg-info` beside the sources."""
    pytest.importorskip("build")
    pytest.importorskip("setuptools", minversion="77")
    folder = tmp_path_factory.mktemp("source")
    for name in ("common", "cli", "tests", "scripts", *HEADS):
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, folder / name, ignore=shutil.ignore_patterns("__pycache__", "golden"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).is_file():
            shutil.copy(ROOT / name, folder)
    done = run("-m", "build", "--wheel", "--no-isolation", "--outdir", folder / "dist", cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    (path,) = (folder / "dist").glob("*.whl")
    return path


def test_the_wheel_holds_what_the_commands_need(wheel):
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    sources = [path for folder in ("common", "cli", *HEADS) for path in (ROOT / folder).rglob("*.py")]
    data = [ROOT / "floorplan" / "bubble_diagram.schema.json", *(ROOT / "floorplan" / "examples").glob("*.json")]
    for head in HEADS:
        data += [path for path in (ROOT / head / "pretrained").rglob("*") if path.is_file()]
    expected = {f"trifold/{path.relative_to(ROOT).as_posix()}" for path in (*sources, *data)}
    inside = {name for name in names if ".dist-info/" not in name}
    assert inside == expected  # and so no tests, scripts or caches
    assert len(data) >= 4
    assert f"trifold-{PROJECT['version']}.dist-info/licenses/LICENSE" in names


def test_the_wheel_runs_from_anywhere(wheel, tmp_path):
    site, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    done = run("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", site, wheel, cwd=elsewhere)
    assert done.returncode == 0, done.stderr[-2000:]
    done = run("-m", "trifold.cli.main", "floorplan", "generate", "--help", cwd=elsewhere, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr[-2000:]
    assert "--graph" in done.stdout
    # Where that came from, and that data files are found beside the code.
    code = (
        "import trifold.cli.main as cli, trifold.floorplan.diagram as diagram\n"
        "print(cli.__file__, diagram.__file__, *diagram.example_names(), sep='\\n')\n"
        "raise SystemExit(cli.main(['--version']))"
    )
    done = run("-c", code, cwd=elsewhere, PYTHONPATH=str(site))
    assert done.returncode == 0, done.stderr[-2000:]
    cli, diagram, *rest = done.stdout.splitlines()
    assert Path(cli) == site / "trifold" / "cli" / "main.py"
    assert Path(diagram) == site / "trifold" / "floorplan" / "diagram.py"
    examples = sorted(path.stem for path in (ROOT / "floorplan" / "examples").glob("*.json"))
    assert rest == [*examples, f"trifold {PROJECT['version']}"]
    (script,) = (site / "bin").glob("trifold*")
    assert "trifold.cli.main" in script.read_text()


def test_version_is_that_of_pyproject(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"trifold {PROJECT['version']}\n"


def test_pyproject_lists_every_package():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    folders = {path.parent for folder in ("common", "cli", *HEADS) for path in (ROOT / folder).rglob("*.py")}
    assert set(setuptools["packages"]) == {"trifold." + ".".join(folder.relative_to(ROOT).parts) for folder in folders}


# ------------------------------------------------------------------------------------------------------------ README


@pytest.fixture
def readme() -> str:
    path = ROOT / "README.md"
    if not path.is_file():
        pytest.skip("there is no README.md in this tree")
    return path.read_text()


def parts(text: str) -> list[tuple[str, str]]:
    """(language, content) of every fenced block, in order; what stands between blocks is of language "prose"."""
    found = []
    for number, part in enumerate(re.split(r"^```", text, flags=re.MULTILINE)):
        language, _, content = part.partition("\n")
        found.append((language.strip(), content) if number % 2 else ("prose", part))
    return found


def shell_lines(text: str) -> list[list[str]]:
    """The words of every command in a block of commands or in `inline code`, without comments and prompts."""
    lines = []
    for language, content in parts(text):
        if language in ("", "bash", "sh", "shell", "console"):
            lines += content.replace("\\\n", " ").splitlines()
        elif language == "prose":
            lines += [
                " ".join(c.split()) for c in re.findall(r"`((?:trifold|make|python|accelerate)\s[^`]+)`", content)
            ]
    return [words for line in lines if (words := shlex.split(line.strip().removeprefix("$ "), comments=True))]


@pytest.fixture
def called(monkeypatch) -> list[str]:
    """Instead of running, a head's command only notes its name: its words are parsed for real."""
    names: list[str] = []

    def noting(verb: str, function: Callable[..., None]) -> Callable[..., None]:
        return functools.wraps(function)(lambda *_, **__: names.append(verb))

    for commands in (COMMANDS, VIDEO_COMMANDS, CLOUD_COMMANDS):
        for verb, function in commands.items():
            monkeypatch.setitem(commands, verb, noting(verb, function))
    stopped = SimpleNamespace(interrupted=False, step=0)
    for module in (training, cloud_training):
        monkeypatch.setattr(module, "run_training", lambda config: names.append("train") or stopped)
    return names


def test_commands_of_the_readme_exist(readme, called):
    commands = shell_lines(readme)
    targets = set(re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    verbs = []
    for words in commands:
        told = " ".join(words)
        if words[0] == "make":
            assert {word for word in words[1:] if "=" not in word} <= targets, told
        for script in (word for word in words if word.startswith("scripts/")):
            assert (ROOT / script).is_file(), told
        if words[0] == "trifold" and words[1] in ("floorplan", "video", "pointcloud"):
            try:
                assert main(words[1:]) == 0, told
            except SystemExit as stop:
                pytest.fail(f"{told}: exit {stop.code}")
            verbs.append(words[2])
        elif words[0] == "trifold":
            assert words[1] in ("doctor", "--version", "--help"), told
    assert called == verbs
    assert {"generate", "tune", "edit", "interpolate", "mesh"} <= set(verbs)


def test_python_of_the_readme_is_python(readme):
    blocks = [content for language, content in parts(readme) if language == "python"]
    assert blocks
    for block in blocks:
        for node in ast.walk(ast.parse(block)):
            if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("trifold"):
                module = importlib.import_module(str(node.module))
                assert all(hasattr(module, alias.name) for alias in node.names), ast.unparse(node)


def test_files_the_readme_points_to_exist(readme):
    targets = re.findall(r"\]\((?!https?:|#|mailto:)([^)#\s]+)", readme)
    missing = [target for target in targets if not (ROOT / target).exists()]
    assert not missing
