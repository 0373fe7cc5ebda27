"""Programs of the scripts folder as modules, for tests of them."""

import importlib
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType

import pytest


@contextmanager
def imported_scripts(*names: str) -> Iterator[dict[str, ModuleType]]:
    """The modules by name; afterwards they are forgotten."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(Path(__file__).parents[1] / "scripts"))
        yield {name: importlib.import_module(name) for name in names}
        for name in names:
            del sys.modules[name]
