"""`loihi-convert doctor`."""

from __future__ import annotations

from dataclasses import asdict
from typing import Annotated

from loihi_convert.cli import options
from loihi_convert.cli.console import echo, say_json
from loihi_convert.errors import PlatformError


def doctor(
    lava_python: Annotated[str | None, options.lava_python()] = None,
    as_json: Annotated[bool, options.as_json()] = False,
) -> None:
    """Say what is installed, what is missing, and what to do (Python, Lava, Loihi)."""

    from loihi_convert.checks.environment import examine

    checks = examine(lava_python)
    if as_json:
        say_json({"checks": [asdict(check) for check in checks]})
    else:
        for check in checks:
            mark = {"ok": "ok     ", "absent": "absent ", "broken": "BROKEN "}[check.state]
            echo(f"{mark} {check.name}: {check.found}" + (f"\n        {check.advice}" if check.advice else ""))
    broken = [check.name for check in checks if check.state == "broken"]
    if broken:
        raise PlatformError("does not work; see above for what to do", where=", ".join(broken))
