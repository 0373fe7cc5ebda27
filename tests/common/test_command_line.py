"""What the commands share: words, places to write to, the progress bar on a terminal and in a log."""

import importlib.util
import warnings
from pathlib import Path

import pytest
from trifold.cli.main import main
from trifold.common import command_line
from trifold.common.command_line import check_output, check_sources, first_paragraph, gathered, warn_of_others


def test_a_repeated_flag_gives_all_its_values():
    words = ["edit", "run", "--prompt", "a", "b", "--steps", "2", "--prompt", "c", "--steps", "3", "--seed", "-1"]
    merged = ["edit", "run", "--prompt", "a", "b", "c", "--steps", "2", "--steps", "3", "--seed", "-1"]
    assert gathered(words, ["--prompt"]) == merged
    assert gathered([], ["--prompt"]) == []
    assert gathered(["--seeds=0", "--out=a", "--seeds", "1"], ["--seeds"]) == ["--seeds", "0", "1", "--out=a"]
    assert gathered(["--prompt=-x"], ["--prompt"]) == ["--prompt=-x"]
    both = ["-p", "a", "-o", "x.mp4", "--prompt=b", "-p", "c"]
    assert gathered(both, ["--prompt/-p"]) == ["--prompt", "a", "b", "c", "-o", "x.mp4"]


@pytest.mark.parametrize(("suffix", "module"), [(".mp4", "av"), (".dxf", "ezdxf"), (".ifc", "ifcopenshell")])
def test_a_missing_library_is_told_before_the_work(tmp_path, monkeypatch, suffix, module):
    there = importlib.util.find_spec
    check_output(tmp_path / f"a{suffix}", (suffix,))
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == module else there(name))
    with pytest.raises(ImportError, match=rf"a\{suffix}: \{suffix} needs {module}: pip install 'trifold\["):
        check_output(tmp_path / f"a{suffix}", (suffix,))
    check_output(tmp_path / "a.svg", (".svg",))


def test_numbered_files_of_an_earlier_run_are_told(tmp_path):
    for name in ("cloud-0.ply", "cloud-x.ply", "mine.ply", "cloud-1.ply.bak"):
        (tmp_path / name).touch()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        warn_of_others(tmp_path, r"cloud-\d+\.ply", [Path("elsewhere/cloud-0.ply")])
    (tmp_path / "cloud-12.ply").touch()
    with pytest.warns(UserWarning, match=r"cloud-12\.ply: there before, not of this run"):
        warn_of_others(tmp_path, r"cloud-\d+\.ply", [Path("elsewhere/cloud-0.ply")])
    assert (tmp_path / "cloud-12.ply").exists()


def test_what_is_read_is_not_replaced(tmp_path):
    check_sources(tmp_path, r"cloud-\d+\.ply", [tmp_path / "mine.ply", tmp_path.parent / "cloud-1.ply"])
    with pytest.raises(ValueError, match=r"holds cloud-1\.ply, which is read and would be replaced; write elsewhere"):
        check_sources(tmp_path / ".." / tmp_path.name, r"cloud-\d+\.ply", [tmp_path / "cloud-1.ply"])


def test_first_paragraph_is_one_line():
    assert first_paragraph("One\n    in two lines. Another.\n\n    More.") == "One in two lines. Another."
    assert first_paragraph(None) == ""


def test_doctor_takes_no_words(capfd):
    assert main(["doctor", "--help"]) == 0
    assert capfd.readouterr().out.startswith("usage: trifold doctor")
    assert main(["doctor", "foo"]) == 2
    assert "doctor takes no words, found 'foo'" in capfd.readouterr().err


def test_a_log_gets_progress_of_long_work_only(monkeypatch, capfd):
    assert list(command_line.show_progress(range(5))) == [0, 1, 2, 3, 4]
    assert capfd.readouterr().err == ""
    monkeypatch.setattr(command_line, "LOG_SECONDS", 0.0)
    assert list(command_line.show_progress(range(5))) == [0, 1, 2, 3, 4]
    written = capfd.readouterr().err
    assert "denoising" in written
    assert "/5 [" in written


def test_a_terminal_gets_it_at_once(monkeypatch, capfd):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    bar = iter(command_line.show_progress(range(5)))
    next(bar)
    assert "0/5 [" in capfd.readouterr().err
