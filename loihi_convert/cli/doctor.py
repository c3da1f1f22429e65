"""`loihi-convert doctor`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Annotated

from loihi_convert.backends import BackendOptions
from loihi_convert.cli import options
from loihi_convert.cli.console import echo, say_json
from loihi_convert.errors import PlatformError
from loihi_convert.ground.dependencies import MODULES, OPTIONAL
from loihi_convert.ground.options import Flag

if TYPE_CHECKING:
    from loihi_convert.checks.environment import Check

_INDENT = "\n        "


def doctor(
    run_lava: Annotated[bool, Flag(name="--lava")] = False,
    *,
    lava: Annotated[BackendOptions, Flag(only=("lava_python",))],
    as_json: options.AsJson = False,
) -> None:
    """Show what is installed, what is missing, and how to install it (packages, Lava, Loihi).

    Parameters
    ----------
    run_lava
        Also run a small network on Lava and compare it with ref; takes some seconds.
    """
    from loihi_convert.checks.environment import examine

    checks = examine(lava.lava_python, run_lava=run_lava)
    if as_json:
        say_json({"checks": [asdict(check) for check in checks]})
    else:
        _say(checks)
    if broken := [check.name for check in checks if check.state == "broken"]:
        raise PlatformError("does not work; see above for what to do", where=", ".join(broken))


def _say(checks: Sequence[Check]) -> None:
    """Print one line per check; installed packages share a line."""
    packages = [f"{check.name} {check.found}" for check in checks if _is_package(check)]
    for check in checks:
        if packages and check.name in MODULES:
            echo(f"ok      Packages: {', '.join(packages)}")
            packages = []
        if _is_package(check):
            continue
        mark = {"ok": "ok     ", "absent": "absent ", "broken": "BROKEN "}[check.state]
        advice = f"{_INDENT}{check.advice.replace(chr(10), _INDENT)}" if check.advice else ""
        echo(f"{mark} {check.name}: {check.found}{advice}")


def _is_package(check: Check) -> bool:
    return check.name in (*MODULES, *OPTIONAL) and check.state == "ok"
