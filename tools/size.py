"""Print how much there is to understand: code, imports, long and wide functions, the files that a command enters.

    python tools/size.py               # exit code 5 above a limit of tools/size-limits.json
    python tools/size.py --no-walks    # leave the commands out, which take half a minute

Code lines are those with a token that is neither a comment nor a docstring. A function is long above 60 lines and wide
above six parameters without self or cls. A command enters a file by calling a function in it; it runs on digits.
"""

from __future__ import annotations

import argparse
import ast
import contextlib
import inspect
import io
import json
import multiprocessing
import os
import sys
import tempfile
import threading
import tokenize
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from types import FrameType
from typing import Final

ROOT: Final = Path(__file__).parents[1]
PACKAGE: Final = ROOT / "loihi_convert"
LIMITS: Final = ROOT / "tools/size-limits.json"
FIGURES: Final = ("code lines", "files", "import lines", "long functions", "wide functions", "long docstrings")
_LAYOUT: Final = {tokenize.COMMENT, tokenize.NL, tokenize.NEWLINE, tokenize.INDENT, tokenize.DEDENT, tokenize.ENDMARKER}


def measured(path: Path) -> tuple[Counter[str], set[str]]:
    """Return the figures of a file, and the folders of the package that it imports."""
    text = path.read_text(encoding="utf-8")
    docstrings, folders, found = set[int](), set[str](), Counter[str]({"files": 1, "lines": text.count("\n")})
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant) and isinstance(node.value.value, str):
            docstrings.update(_lines(node))
        elif isinstance(node, ast.Import | ast.ImportFrom):
            found["import lines"] += len(_lines(node))
            modules = [node.module or ""] if isinstance(node, ast.ImportFrom) else [each.name for each in node.names]
            rooms = {name.split(".")[1] for name in modules if name.startswith(f"{PACKAGE.name}.")}
            folders.update(room for room in rooms if (PACKAGE / room).is_dir())
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            names = [each.arg for each in (*node.args.posonlyargs, *node.args.args, *node.args.kwonlyargs)]
            whole, first = _lines(node), _lines(node.body[0])
            found["long functions"] += len(whole) > 60
            found["wide functions"] += len(names) - (names[:1] in (["self"], ["cls"])) > 6
            found["long docstrings"] += ast.get_docstring(node) is not None and len(first) > whole.stop - first.stop
    tokens = tokenize.generate_tokens(io.StringIO(text).readline)
    code = {line for each in tokens if each.type not in _LAYOUT for line in range(each.start[0], each.end[0] + 1)}
    found["code lines"] = len(code - docstrings)
    return found, folders


def _lines(node: ast.stmt) -> range:
    return range(node.lineno, (node.end_lineno or node.lineno) + 1)


def summed(paths: Sequence[Path]) -> tuple[Counter[str], set[str]]:
    """Return `measured` of several files."""
    total, folders = Counter[str](), set[str]()
    for found, imported in map(measured, paths):
        total.update(found)
        folders |= imported
    return total, folders


def entered() -> dict[str, int]:
    """Return the number of the package's files that each command enters."""
    # What other packages do when they are imported costs nothing then, as each command runs in a copy of this process.
    import numba  # noqa: F401
    import torch
    import typer  # noqa: F401
    from torch import nn

    def convert() -> None:
        import loihi_convert as lc

        model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 3))
        lc.convert(model, torch.rand(64, 1, 8, 8), timesteps=4)

    with tempfile.TemporaryDirectory() as folder:
        os.chdir(folder)
        _files_entered(lambda: _command("train --data digits --epochs 1"))
        return {
            "export": _files_entered(lambda: _command("export model.pt -T 4 -o model.net")),
            "run": _files_entered(lambda: _command("run model.net")),
            "check": _files_entered(lambda: _command("check model.net")),
            "lc.convert": _files_entered(convert),
        }


def _command(words: str) -> None:
    from loihi_convert.__main__ import main

    sys.argv = ["loihi-convert", *words.split()]
    main()


def _files_entered(work: Callable[[], None]) -> int:
    process = multiprocessing.get_context("fork").Process(target=_traced, args=(work,))
    process.start()
    process.join()
    if process.exitcode:
        raise ChildProcessError(Path("log").read_text(encoding="utf-8"))
    return int(Path("entered").read_text())


def _traced(work: Callable[[], None]) -> None:
    files = set[str]()

    def called(frame: FrameType, event: str, argument: object) -> None:
        # Bodies of modules and classes are not optimized.
        if frame.f_code.co_flags & inspect.CO_OPTIMIZED and frame.f_code.co_filename.startswith(str(PACKAGE)):
            files.add(frame.f_code.co_filename)

    with Path("log").open("w") as log, contextlib.redirect_stdout(log), contextlib.redirect_stderr(log):
        sys.settrace(called)
        threading.settrace(called)
        try:
            work()
        finally:
            sys.settrace(None)
            Path("entered").write_text(str(len(files)))


def main() -> int:
    """Print the figures; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--no-walks", action="store_true")
    chosen = parser.parse_args()
    rooms = {room.name: sorted(room.rglob("*.py")) for room in sorted(PACKAGE.iterdir()) if room.is_dir()}
    print(f"{'folder':16}{'files':>6}{'code':>8}{'imports':>9}  imports from")
    for room, paths in {"(beside them)": sorted(PACKAGE.glob("*.py")), **rooms}.items():
        found, folders = summed(paths)
        if paths:
            counts = f"{found['files']:6,}{found['code lines']:8,}{found['import lines']:9,}"
            print(f"{room:16}{counts}  {' '.join(sorted(folders - {room}))}")
    package, tools, tests = (summed([*(ROOT / name).rglob("*.py")])[0] for name in (PACKAGE.name, "tools", "tests"))
    figures = {name: package[name] for name in FIGURES}
    figures |= {"lines of tools": tools["lines"], "lines of tests": tests["lines"]}
    figures |= {} if chosen.no_walks else {f"files entered by {name}": count for name, count in entered().items()}
    limits = json.loads(LIMITS.read_text(encoding="utf-8"))
    print(f"\n{'':28}{'now':>8}{'limit':>8}{'in tools':>10}")
    for name, found_here in figures.items():
        beside = f"{tools[name]:10,}" if name in FIGURES else ""
        over = "  above the limit" if found_here > limits[name] else ""
        print(f"{name:28}{found_here:8,}{limits[name]:8,}{beside}{over}")
    return 5 if any(found > limits[name] for name, found in figures.items()) else 0


if __name__ == "__main__":
    sys.exit(main())
