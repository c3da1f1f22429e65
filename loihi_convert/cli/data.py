"""`loihi-convert data`."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from loihi_convert.cli import options
from loihi_convert.cli.console import echo, log, say_json


def data(
    names: Annotated[
        list[str] | None,
        typer.Argument(
            help="Data sets to download: mnist, fashion-mnist, cifar10. Without any: say what is there.",
            metavar="NAME",
        ),
    ] = None,
    data_root: Annotated[Path | None, options.data_root(options.BASICS)] = None,
    as_json: Annotated[bool, options.as_json()] = False,
) -> None:
    """Download benchmark data sets, or say which are there; every file is checked by its SHA-256."""
    from loihi_convert.data import default_root
    from loihi_convert.data.benchmarks import require_dataset
    from loihi_convert.data.fetch import datasets_there, fetch

    root = data_root or default_root()
    for name in names or ():
        require_dataset(name)
    downloaded = [name for name in names or () if fetch(name, root, partial(_say_source, name))]
    there = dict.fromkeys(names, True) if names else datasets_there(root)
    if as_json:
        say_json({"data_root": str(root), "there": there, "downloaded": downloaded})
        return
    for name, is_there in there.items():
        missing = f"not in {root}; download it: loihi-convert data {name}"
        found = "embedded" if name == "digits" else f"in {root}, every SHA-256 is right"
        echo(f"{name:13} {found if is_there else missing}")


def _say_source(name: str, source: str) -> None:
    log(f"downloading {name}: {source}")
