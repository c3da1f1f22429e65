"""`benchmark.py peers`: one network in `ref` and in other simulators, in turn, each in a process of its own."""

from __future__ import annotations

import argparse
import contextlib
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from benchmark_tables import machine, spread
from simulators import PEERS, REF, Peer
from simulators.process import Worker
from simulators.worker import Request
from subject import request_for, subject

from loihi_convert.backends.backend import open_backend
from loihi_convert.cli.console import log
from loihi_convert.errors import PlatformError, UsageError, VerificationError, one_of
from loihi_convert.ground.arrays import Array
from loihi_convert.report.table import markdown_table


@dataclass
class Row:
    """The results of one program: seconds of each repeat, or the reason why there are none."""

    peer: Peer
    image_count: int
    seconds: list[float] = field(default_factory=list)
    peak_bytes: int = 0
    versions: dict[str, str] = field(default_factory=dict)
    choice: str = ""
    failure: str = ""
    same_class: int | None = None
    equal_potentials: int | None = None

    @property
    def title(self) -> str:
        own = [version for name, version in self.versions.items() if name not in ("torch", "numpy")]
        return " ".join((self.peer.name, *own[:1]))

    @property
    def is_equal(self) -> bool:
        """Whether all classes and output potentials are those of `ref`."""
        return (self.same_class, self.equal_potentials) == (self.image_count, self.image_count)

    @property
    def rates(self) -> list[float]:
        """Images per second in each repeat."""
        return [self.image_count / seconds for seconds in self.seconds]


def measure_peers(options: argparse.Namespace) -> None:
    """Print the speed of each program, and whether it gives the same classes and potentials as `ref`."""
    title, rows = timed_peers(options)
    print(f"{title}, {options.repeats} repeats\n\n{peers_report(rows)}\n{machine(options.threads)}")
    if options.at_least is not None:
        require_ratio(rows, options.at_least)


def timed_peers(options: argparse.Namespace) -> tuple[str, list[Row]]:
    """Return what was run, and the results of each program that ``options`` select, those of `ref` first."""
    names = set(options.only.split(","))
    if unknown := names - {peer.module for peer in PEERS}:
        raise UsageError(
            f"found {','.join(sorted(unknown))}", where="--only", expected=one_of(peer.module for peer in PEERS)
        )
    with subject(options, options.timesteps) as chosen, tempfile.TemporaryDirectory() as temporary:
        if chosen.network.poisson_seed is not None:
            raise UsageError(
                "takes Poisson spikes, but the other programs take pixels",
                where=chosen.path.name,
                hint="Export it with --input constant.",
            )
        timesteps, images = options.timesteps or chosen.network.timesteps, chosen.images[: options.images]
        with open_backend("ref") as backend:
            expected = backend.run(chosen.network, images, timesteps).potentials[:, -1]
        rows, requests = [], []
        for index, peer in enumerate(PEERS):
            if index != REF and peer.module not in names:
                continue
            shown = images[: options.lava_images] if peer.runs_few_images else images
            sizes = sorted({min(size, len(shown)) for size in options.batch_sizes}) if peer.tries_batch_sizes else ()
            rows.append(Row(peer, len(shown)))
            settings = {"batch_sizes": sizes, "arch": options.arch or ""}
            requests.append(request_for(options, index, chosen.path, Path(temporary), shown, timesteps, **settings))
        run_interleaved(rows, requests, options.repeats, options.patience)
        for row, request in zip(rows, requests, strict=True):
            if not row.failure and Path(request.potentials).exists():
                compare(row, np.load(request.potentials), expected[: row.image_count])
    return f"{chosen.name}, T = {timesteps}, {len(images)} images", rows


def require_ratio(rows: Sequence[Row], least: float) -> None:
    """Raise a `VerificationError` unless the first of ``rows`` is ``least`` times as fast as each other simulator.

    Limits, and simulators that compute few images of another network, are not compared.
    The fastest repeats are compared: on a busy machine, they were disturbed least.
    """
    reference, *others = rows
    for row in others:
        if row.peer.runs_few_images or row.peer.limit:
            continue
        if row.failure:
            raise VerificationError(f"not measured: {row.failure}", where=row.title)
        if not row.is_equal:
            raise VerificationError("computes another network", where=row.title)
        ratio = max(reference.rates) / max(row.rates)
        log(f"ref is {ratio:.2f} times as fast as {row.title}; at least {least:g}")
        if ratio < least:
            raise VerificationError(f"ref is only {ratio:.2f} times as fast", where=row.title, expected=f"{least:g}")


def run_interleaved(rows: Sequence[Row], requests: Sequence[Request], repeats: int, patience: float) -> None:
    """Fill ``rows``: start each program, then time all in turn, ``repeats`` times; one that fails is skipped."""
    with contextlib.ExitStack() as stack:
        workers: dict[int, Worker] = {}
        for index, (row, request) in enumerate(zip(rows, requests, strict=True)):
            if row.peer.runs_few_images:
                continue
            log(f"{row.peer.name}: starting")
            with _failing(row):
                workers[index] = stack.enter_context(Worker(row.peer, request, patience))
                _describe(row, workers[index])
        for number in range(repeats):
            for index, (row, request) in enumerate(zip(rows, requests, strict=True)):
                if row.failure:
                    continue
                log(f"repeat {number + 1} of {repeats}: {row.peer.name}")
                with _failing(row):
                    if row.peer.runs_few_images:
                        with Worker(row.peer, request, patience) as worker:
                            _describe(row, worker)
                            _measure(row, worker)
                    else:
                        _measure(row, workers[index])


@contextlib.contextmanager
def _failing(row: Row) -> Iterator[None]:
    try:
        yield
    except (PlatformError, OSError) as error:
        row.failure = str(error)
        log(row.failure)


def _measure(row: Row, worker: Worker) -> None:
    answer = worker.repeat()
    row.seconds.append(answer["seconds"])
    row.peak_bytes = max(row.peak_bytes, answer["peak_bytes"])


def _describe(row: Row, worker: Worker) -> None:
    row.choice, row.versions = worker.ready["choice"], worker.ready["versions"]


def compare(row: Row, found: Array, expected: Array) -> None:
    """Count the images with the same class as `ref`, and those with all output potentials equal."""
    row.same_class = int((found.argmax(1) == expected.argmax(1)).sum())
    row.equal_potentials = int((found == expected).all(1).sum())


def peers_report(rows: Sequence[Row]) -> str:
    """Return a Markdown table of all rows, the first being `ref`, and a note on each."""
    reference = rows[0]
    table: list[tuple[str, ...]] = []
    for row in rows:
        if row.failure:
            table.append((row.title, "not measured", "", "", "", "", ""))
            continue
        ratios = [own / other for own, other in zip(reference.rates, row.rates, strict=False)]
        memory = f"{row.peak_bytes / 2**30:.2f}"
        counts = ["" if n is None else f"{n} / {row.image_count}" for n in (row.same_class, row.equal_potentials)]
        table.append(
            (row.title, spread(row.rates), "" if row is reference else spread(ratios), memory, row.choice, *counts)
        )
    header = ("", "images/s", "speed of ref relative to it", "GiB", "fastest variant", "same class", "same potentials")
    lines = [
        markdown_table(header, table),
        "Numbers are median (minimum..maximum); ratios are taken repeat by repeat. GiB: peak memory of the process.",
        "",
    ]
    for row in rows:
        with_torch = f" (torch {row.versions['torch']})" if "torch" in row.versions else ""
        lines.append(f"- {row.title}{with_torch}: {row.peer.note}")
        if row.failure:
            lines.append(f"  not measured: {row.failure}")
    for limit in (row for row in rows if row.peer.limit and row.seconds and reference.seconds):
        shares = [100 * own / most for own, most in zip(reference.rates, limit.rates, strict=False)]
        lines.append(f"\n`ref` reaches {spread(shares)} % of the limit given by {limit.peer.limit}.")
    return "\n".join(lines) + "\n"
