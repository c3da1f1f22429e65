"""`loihi-convert data`."""

from __future__ import annotations

import shlex
from collections.abc import Collection, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from loihi_convert.cli import options
from loihi_convert.cli.console import Fact, aligned, log, say_answer, say_json
from loihi_convert.cli.images import DataRequest
from loihi_convert.errors import rendered
from loihi_convert.ground.options import BASICS, Flag

if TYPE_CHECKING:
    from loihi_convert.data.fetch import DataState

_HEADS = ("data set", "", "size", "training", "test", "pixels")


def data(
    names: Annotated[list[str] | None, Flag("NAME", is_argument=True)] = None,
    *,
    images: Annotated[DataRequest, Flag(panel=BASICS, only=("data_root",))],
    as_json: options.AsJson = False,
) -> None:
    """Download benchmark data sets, or list them; every file is checked by its SHA-256.

    Parameters
    ----------
    names
        Data sets to download: mnist, fashion-mnist, cifar10. Default: list all data sets.
    """
    from loihi_convert.data import DATASETS, default_root
    from loihi_convert.data.benchmarks import require_dataset
    from loihi_convert.data.fetch import fetch, state

    root = images.data_root or default_root()
    for name in names or ():
        require_dataset(name)
    downloaded = [name for name in dict.fromkeys(names or ()) if fetch(name, root, partial(_say_source, name))]
    states = {name: state(name, root) for name in names or DATASETS}
    if as_json:
        there = {name: found.is_there for name, found in states.items()}
        say_json({"data_root": str(root), "there": there, "downloaded": downloaded, "data_sets": _described(states)})
        return
    here = sum(found.is_there for found in states.values())
    verdict = _downloaded(states, downloaded) if names else f"{here} of {len(states)} data sets are here"
    problems = [Fact("damaged", rendered(found.problem, {})) for found in states.values() if found.problem]
    say_answer(verdict, (f"folder: {root}",), _table(states), [*problems, *_next(states, images.data_root)])


def _downloaded(states: Collection[str], downloaded: Collection[str]) -> str:
    """Return the answer to ``data NAME``, in which every data set is there."""
    if not downloaded:
        return f"{' and '.join(states)}: already here; nothing was downloaded"
    others = [name for name in states if name not in downloaded]
    return f"downloaded {' and '.join(downloaded)}" + (f"; {' and '.join(others)}: already here" if others else "")


def _table(states: Mapping[str, DataState]) -> list[str]:
    """Return a line for each data set."""
    from loihi_convert.data.benchmarks import DESCRIPTIONS

    rows = [_HEADS]
    for name, found in states.items():
        shape, training, test, size = DESCRIPTIONS[name]
        mark = "here" if found.is_there else "damaged" if found.problem else "missing"
        pixels = " x ".join(map(str, shape[1:])) + (f" x {shape[0]}" if shape[0] > 1 else "")
        weight = f"{size / 1e6:.0f} MB" if size else "embedded"
        rows.append((name, mark, weight, f"{training:,}", f"{test:,}", pixels))
    return aligned(rows, (0, 1))


def _next(states: Mapping[str, DataState], data_root: Path | None) -> list[Fact]:
    """Return what to type next: the download of missing data sets, or commands that use one that is here."""
    root = "" if data_root is None else f" --data-root {shlex.quote(str(data_root))}"
    missing = [name for name, found in states.items() if not found.is_there and not found.problem]
    if missing:
        return [Fact("next", f"loihi-convert data {' '.join(missing)}{root}")]
    here = [name for name, found in states.items() if found.is_there]
    name = "mnist" if "mnist" in here else here[-1]
    used = [Fact("next", f"loihi-convert train --data {name}{root}")]
    return used if name == "digits" else [*used, Fact("", f"loihi-convert run {name}-T4{root}")]


def _described(states: Mapping[str, DataState]) -> list[dict[str, object]]:
    from loihi_convert.data.benchmarks import DESCRIPTIONS

    return [
        {
            "name": name,
            "is_there": found.is_there,
            "problem": found.problem and rendered(found.problem, {}),
            **DESCRIPTIONS[name]._asdict(),
        }
        for name, found in states.items()
    ]


def _say_source(name: str, source: str) -> None:
    log(f"downloading {name}: {source}")
