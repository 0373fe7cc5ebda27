"""The progress bar of the commands, on a terminal and in a log."""

from trifold.common import command_line


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
