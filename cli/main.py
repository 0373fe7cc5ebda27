"""`trifold <head> <verb>`: hands the words that follow to the head that was named."""

from __future__ import annotations

import sys
import warnings
from collections.abc import Sequence
from importlib.metadata import version

USAGE = """usage: trifold COMMAND ...

commands:
  floorplan  train | generate | finish | evaluate | convert | render
  video      tune | edit | invert | evaluate | convert | info
  pointcloud train | generate | interpolate | evaluate | mesh | convert
  doctor     what hardware is here, and which attention kernels run on it

options:
  --version  print the version
  --help     print this; every command has its own --help"""


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status. Errors of the user's making are one line, not a traceback."""
    words = list(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help"):
        print(USAGE)
        return 0 if words else 2
    if words[0] == "--version":
        print(f"trifold {version('trifold')}")
        return 0
    with warnings.catch_warnings():
        # One line per warning, without the source line that means nothing to a user of the command.
        warnings.showwarning = lambda message, *_: print(f"warning: {one_line(message)}", file=sys.stderr)
        try:
            return dispatch(words)
        except KeyboardInterrupt:
            print("trifold: interrupted", file=sys.stderr)
            return 130
        except (ValueError, OSError, RuntimeError, ImportError) as error:
            print(f"trifold: {one_line(error)}", file=sys.stderr)
            return 1


def dispatch(words: Sequence[str]) -> int:
    """Import the command that is named, and only that, and run it."""
    if words[0] == "floorplan":
        from ..floorplan.commands import run

        run(words[1:])
    elif words[0] == "video":
        from ..video.commands import run

        run(words[1:])
    elif words[0] == "pointcloud":
        from ..pointcloud.commands import run

        run(words[1:])
    elif words[0] == "doctor":
        if words[1:] in (["-h"], ["--help"]):
            print("usage: trifold doctor\n\nPrint versions, hardware, and which attention kernels run here.")
            return 0
        if words[1:]:
            print(f"trifold: doctor takes no words, found {' '.join(words[1:])!r}", file=sys.stderr)
            return 2
        from .doctor import doctor

        doctor()
    else:
        print(f"trifold: unknown command {words[0]!r}\n\n{USAGE}", file=sys.stderr)
        return 2
    return 0


def one_line(message: object) -> str:
    """A message without its line breaks, never empty, and with control characters (a file's names can hold them,
    and terminals obey them) as escapes."""
    words = " ".join(str(message).split()) or type(message).__name__
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in words)


if __name__ == "__main__":
    sys.exit(main())
