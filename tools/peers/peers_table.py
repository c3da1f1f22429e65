"""Compare `ref` with other simulators on several networks, and write docs/results/peers.csv.

    python tools/peers/peers_table.py                     # all networks; --threads 1: on one core
    python tools/peers/peers_table.py --columns VGG-16    # continue: measure some networks; keep the other rows
    python tools/peers/peers_table.py -o docs/results/peers-without-amx.csv    # on a processor without AMX

Each network is one run of `benchmark.py peers`: same images, same integers, repeats in turn. `tools/pages.py` makes
the table of docs/results/benchmarks.md from the file, unless its rows were measured with different threads, machines
or commits. A program that fails has its error in the column ``failure``.
"""

from __future__ import annotations

import argparse
import shlex
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Final, NamedTuple

import torch
from against_peers import Row, timed_peers
from benchmark import read_options
from benchmark_tables import CONDITIONS, conditions, machine, read_rows, three_digits
from simulators import Peer

from loihi_convert.__main__ import exit_code
from loihi_convert.cli.console import log
from loihi_convert.errors import UsageError, VerificationError, one_of
from loihi_convert.ground.files import write_atomically
from loihi_convert.runs.columns import as_csv

ROOT: Final = Path(__file__).parents[2]
RESULTS: Final = ROOT / "docs/results/peers.csv"


class Column(NamedTuple):
    """A column of the table: the network, T, and the arguments of `benchmark.py peers`."""

    network: str
    timesteps: int
    arguments: str


COLUMNS: Final = (
    Column("MNIST CNN", 8, "netx_models/mnist/model-T8.net --images 2000"),
    Column("MNIST CNN", 64, "netx_models/mnist/model-T64.net --images 2000 --repeats 3"),
    Column("Fashion-MNIST CNN", 8, "netx_models/fashion-mnist/model-T8.net --images 128 --batch-sizes 4,16,64"),
    Column("ResNet-20", 4, "netx_models/cifar10-resnet20/model-T4.net --images 256 --batch-sizes 4,16,64"),
    Column("VGG-16", 4, "--network vgg16 --timesteps 4 --images 128 --repeats 3 --batch-sizes 4,16"),
)
_KEYS: Final = tuple((column.network, str(column.timesteps)) for column in COLUMNS)
FIELDS: Final = (
    *("network", "timesteps", "images", *CONDITIONS),
    *("peer", "measure", "median", "minimum", "maximum", "failure"),
)


def main() -> int:
    """Run the command line; return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--columns", metavar="NAME", nargs="+", help="networks to measure; default: all")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
    parser.add_argument("-o", "--output", type=Path, default=RESULTS, help="default: docs/results/peers.csv")
    options = parser.parse_args()
    return exit_code(lambda: measure(options.columns, options.threads, options.output))


def measure(names: Sequence[str] | None, threads: int, output: Path) -> None:
    """Measure the columns of the networks ``names`` and write them to ``output``, each as soon as it is done."""
    known = tuple(dict.fromkeys(column.network for column in COLUMNS))
    for name in names or ():
        if name not in known:
            raise UsageError(f"found {name!r}", where="--columns", expected=one_of(known))
    for column in COLUMNS:
        if names is not None and column.network not in names:
            continue
        arguments = (ROOT / part if part.startswith("netx_models/") else part for part in shlex.split(column.arguments))
        title, rows = timed_peers(read_options(["peers", *map(str, arguments), "--threads", str(threads)]))
        log(f"{title}: measured")
        write_atomically(output, as_csv(with_column(read_rows(output), column, records(column, rows, threads))))
    print(f"wrote {output.name}: {machine(threads)}")


def records(column: Column, rows: Sequence[Row], threads: int) -> list[dict[str, str]]:
    """Return the rows of one column: images per second of `ref`, then its speed relative to each other program.

    Raises
    ------
    VerificationError
        If a program that should compute the same network gives other potentials.
    """
    reference, measured = rows[0], conditions(threads).values()
    found = []
    for row in rows:
        # lava-dl's neurons reset to 0, and matrix products are no network.
        computes_the_same = not row.peer.runs_few_images and not row.peer.limit
        if computes_the_same and not row.failure and not row.is_equal:
            raise VerificationError("computes another network", where=row.title)
        ratios = [own / other for own, other in zip(reference.rates, row.rates, strict=False)]
        if row is reference:
            peer, measure, values = "ref", "images_per_second", row.rates
        elif row.peer.limit:
            peer, measure, values = row.peer.limit, "percent_of_limit", [100 * ratio for ratio in ratios]
        else:
            peer, measure, values = _with_version(row.peer), "speed_of_ref", ratios
        spread = (statistics.median(values), min(values), max(values)) if values and not row.failure else ()
        numbers = [three_digits(value).replace(",", "") for value in spread] or ["", "", ""]
        key = (column.network, str(column.timesteps), str(reference.image_count))
        cells = (*key, *measured, peer, measure, *numbers, row.failure)
        found.append(dict(zip(FIELDS, cells, strict=True)))
    return found


def _with_version(peer: Peer) -> str:
    """The name and pinned version of ``peer``, the same whether it could be measured or not."""
    return peer.name if peer.requirement is None else f"{peer.name} {peer.requirement.partition('==')[2]}"


def with_column(
    stored: Sequence[dict[str, str]], column: Column, measured: Sequence[dict[str, str]]
) -> list[dict[str, str]]:
    """Return ``stored`` with the rows of ``column`` replaced, in the order of `COLUMNS`, without other networks."""
    own = (column.network, str(column.timesteps))
    found = {key: [row for row in stored if (row["network"], row["timesteps"]) == key] for key in _KEYS}
    return [row for rows in (found | {own: list(measured)}).values() for row in rows]


if __name__ == "__main__":
    sys.exit(main())
