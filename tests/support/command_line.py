"""Run the command line in this process, as a user would, without a traceback."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from loihi_convert.__main__ import main


class Done(NamedTuple):
    """The exit code of a command, and what it printed."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """The object that ``--json`` printed."""
        return json.loads(self.out)


Invoke = Callable[..., Done]


def invoker(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Invoke:
    """Return a function that runs ``loihi-convert`` with the given words."""
    monkeypatch.setattr(signal, "signal", lambda *_: None)

    def run(*words: object) -> Done:
        monkeypatch.setattr(sys, "argv", ["loihi-convert", *map(str, words)])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        assert "Traceback" not in out + err
        return Done(int(stop.value.code or 0), out, err)

    return run
