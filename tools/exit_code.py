"""How the tools end: errors of ours in one sentence, with their exit code, as the command line's do."""

from __future__ import annotations

import argparse
from collections.abc import Callable

from loihi_convert.cli.console import log
from loihi_convert.errors import LoihiConvertError


def exit_code(work: Callable[[argparse.Namespace], int | None], arguments: argparse.Namespace) -> int:
    """Do ``work``; return its exit code, 0 where it has none, or that of the error, which is noted on stderr."""
    try:
        return work(arguments) or 0
    except LoihiConvertError as error:
        log(f"error: {error}")
        return error.exit_code
