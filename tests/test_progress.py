"""Progress without a terminal: a line after 5 seconds, and every 30."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from loihi_convert.cli.console import log
from loihi_convert.ground.progress import (
    FIRST_SECONDS,
    LINE_SECONDS,
    current_progress,
    progress_bar,
    progress_lines,
    progress_part,
    progress_to,
    quiet,
)


def test_a_line_after_5_seconds_and_every_30(capsys: pytest.CaptureFixture[str]) -> None:
    times: Iterator[float] = iter([0.0, 4.0, 6.0, 35.0, 36.0, 65.0])
    update = progress_lines("a.net: running on \x1b[31mref", lambda: next(times))
    for done in (100, 300, 590, 600, 610):
        update(done, 1000)
    assert (FIRST_SECONDS, LINE_SECONDS) == (5, 30)
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        r"a.net: running on \x1b[31mref: 300 of 1,000 (30 %), 6 s, 14 s left",
        r"a.net: running on \x1b[31mref: 600 of 1,000 (60 %), 36 s, 24 s left",
    ]


def test_short_work_shows_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    with progress_bar("short"):
        for done in range(1000):
            current_progress()(done, 1000)
    assert capsys.readouterr() == ("", "")


def test_parts_of_parts_add_up_and_what_is_quiet_is_not_told() -> None:
    told: list[tuple[int, int]] = []
    with progress_to(lambda done, total: told.append((done, total))):
        with progress_part(1, 4), progress_part(1, 2):
            current_progress()(2, 5)
        with quiet(), progress_part(0, 2):
            current_progress()(1, 2)
    assert told == [(10 + 5 + 2, 4 * 2 * 5)]


def test_work_continues_if_stderr_is_closed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Nothing goes to stdout instead, as `print` does where a file is None."""
    times = iter([0.0, 40.0])
    monkeypatch.setattr("sys.stderr", None)
    progress_lines("x", lambda: next(times))(1, 2)
    log("a note")
    assert capsys.readouterr().out == ""


def test_only_the_outer_of_two_is_shown(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr("loihi_convert.ground.progress.FIRST_SECONDS", -1.0)
    with progress_bar("outer"):
        with progress_bar("inner"):
            current_progress()(1, 2)
        current_progress()(1, 2)
    with progress_bar("later"):
        current_progress()(2, 2)
    assert [line.partition(":")[0] for line in capsys.readouterr().err.splitlines()] == ["outer", "later"]
