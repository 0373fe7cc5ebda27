"""Who may import whom, read from the syntax trees: common <- heads <- cli and scripts, and no other arrow."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
HEADS = ("floorplan", "video", "pointcloud")
# What a file of each folder may import of the project.
ALLOWED = {
    "common": {"common"},
    **{head: {"common", head} for head in HEADS},
    "cli": {"common", *HEADS, "cli"},
    "scripts": {"common", *HEADS, "cli"},
}
XFORMERS = Path("common/attention/gpu.py")


def files(folder: str) -> list[Path]:
    return sorted(path.relative_to(ROOT) for path in (ROOT / folder).rglob("*.py"))


SOURCES = [path for folder in ALLOWED for path in files(folder)]


def imported(path: Path, text: str) -> list[tuple[int, str]]:
    """(line, absolute module name) of every import statement, wherever it stands; relative ones are resolved."""
    package = ["trifold", *path.with_suffix("").parts[:-1]]
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            found += [(node.lineno, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            if node.level > len(package):
                found.append((node.lineno, "beyond the project"))
                continue
            base = package[: len(package) + 1 - node.level] if node.level else []
            base += node.module.split(".") if node.module else []
            # `from .. import video` names a module as much as `from ..video import x` does.
            found += [(node.lineno, ".".join([*base, alias.name])) for alias in node.names]
    return found


def faults(path: Path, text: str) -> list[str]:
    """What is wrong with a file's imports, one line each."""
    folder = path.parts[0]
    wrong = []
    for line, module in imported(path, text):
        first, *rest = module.split(".")
        if module == "beyond the project" or first in {*ALLOWED, "tests"}:
            wrong.append(f"{path}:{line}: {module} is not imported by that name; the package is trifold")
        elif first == "trifold" and rest and rest[0] not in ALLOWED[folder]:
            wrong.append(f"{path}:{line}: {folder} must not import {module}")
        elif first == "xformers" and path != XFORMERS:
            wrong.append(f"{path}:{line}: only {XFORMERS} imports xformers")
    for node in ast.walk(ast.parse(text)):
        absolute = (
            isinstance(node, ast.ImportFrom) and not node.level and (node.module or "").split(".")[0] == "trifold"
        )
        if absolute and folder != "scripts":
            wrong.append(f"{path}:{node.lineno}: inside the package imports are relative")
    return wrong


@pytest.mark.parametrize("path", SOURCES, ids=str)
def test_arrows(path):
    assert faults(path, (ROOT / path).read_text()) == []


def test_everything_is_looked_at():
    assert {path.parts[0] for path in SOURCES} >= {"common", "floorplan", "cli"}
    assert len(SOURCES) > 50
    assert "xformers" in {module.split(".")[0] for _, module in imported(XFORMERS, (ROOT / XFORMERS).read_text())}
    known = {"tests", "docs", *ALLOWED}
    found = {path.parent.name for path in ROOT.glob("*/*.py")} - {"build", "dist"}
    assert {name for name in found if not name.startswith(".")} <= known, "a new folder needs its place here"


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("common/a.py", "from ..floorplan import plan"),
        ("common/attention/a.py", "from ...cli.main import main"),
        ("floorplan/a.py", "from ..video import clip"),
        ("floorplan/a.py", "from .. import pointcloud"),
        ("floorplan/a.py", "def f():\n    from ..cli import main"),
        ("video/a.py", "from ..floorplan.plan import Plan"),
        ("floorplan/a.py", "import trifold.cli.main"),
        ("floorplan/a.py", "from trifold.common import nn"),
        ("floorplan/a.py", "import xformers.ops"),
        ("cli/a.py", "from xformers.ops import fmha"),
        ("floorplan/a.py", "from tests.floorplan import golden"),
        ("common/a.py", "import floorplan"),
        ("cli/a.py", "from ...outside import x"),
        ("cli/a.py", "from ..tests import x"),
    ],
)
def test_wrong_arrows_are_seen(path, text):
    assert len(faults(Path(path), text)) == 1


@pytest.mark.parametrize(
    ("path", "text"),
    [
        ("common/attention/gpu.py", "from xformers.ops import fmha"),
        ("floorplan/a.py", "from ..common.nn import Block\nfrom .plan import Plan\nimport torch"),
        ("cli/main.py", "from ..floorplan.commands import run"),
        ("scripts/a.py", "from trifold.floorplan import Plan\nimport trifold.cli.main"),
    ],
)
def test_right_arrows_pass(path, text):
    assert faults(Path(path), text) == []
