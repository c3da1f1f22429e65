"""Tables of docs/results/ from the CSV files beside them, for `pages.py`: speeds, other networks, torchvision's models.

A CSV file has one measurement per row. ``torchvision.csv`` is written by `torchvision_models.py`, ``nir.csv`` by
`peers/nir_readers.py`, ``peers.csv`` and ``peers-without-amx.csv`` by `peers/peers_table.py`, ``cost.csv`` by
`peers/cost_table.py`, ``graded.csv`` by `graded_results.py`, ``pilotnet.csv`` by `pilotnet_cost.py`, ``commands.csv``
by `command_times.py`, ``stock-lava-dl.csv`` by `stock_results.py`; the others were copied from what the commands that
the page names print or write (``early-exit.csv``: the chosen margins in the ``early_exit.csv`` of a run).
"""

from __future__ import annotations

import csv
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Final

from loihi_convert.errors import InputError
from loihi_convert.report.table import markdown_table

RESULTS: Final = Path(__file__).parents[1] / "docs/results"

Row = Mapping[str, str]


def read_rows(path: Path) -> list[dict[str, str]]:
    """Return the rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as source:
        return list(csv.DictReader(source))


def rows_of(name: str, **chosen: str) -> list[Row]:
    """Return the rows of a CSV file in `RESULTS` that have the values ``chosen``, by column."""
    return [row for row in read_rows(RESULTS / name) if all(row[key] == value for key, value in chosen.items())]


def comparable_rows(name: str, *conditions: str, **chosen: str) -> list[Row]:
    """Return `rows_of` a CSV file that were measured alike: ``conditions`` are columns.

    Raises
    ------
    InputError
        If the rows differ in one of them.
    """
    rows = rows_of(name, **chosen)
    for column in conditions:
        if len(values := dict.fromkeys(row[column] for row in rows)) > 1:
            raise InputError(
                f"rows of one table differ in {column}: {', '.join(value or 'unknown' for value in values)}",
                where=RESULTS / name,
                hint="Measure all rows again, on one machine.",
            )
    return rows


def crossed(
    rows: Sequence[Row], title: Callable[[Row], str], head: Callable[[Row], str], cell: Callable[[Row], str]
) -> str:
    """Return a table with a line for each title and a column for each head; missing cells are empty."""
    cells = {(title(row), head(row)): cell(row) for row in rows}
    titles, heads = (list(dict.fromkeys(key[index] for key in cells)) for index in (0, 1))
    return markdown_table(("", *heads), [(one, *(cells.get((one, other), "") for other in heads)) for one in titles])


def grouped(number: str) -> str:
    """Return a number with its thousands separated and its decimals as they are; an empty text stays empty."""
    whole, point, decimals = number.partition(".")
    return f"{int(whole):,}{point}{decimals}" if whole else ""


def _at(row: Row) -> str:
    return f"T = {row['timesteps']}"


def speed() -> str:
    """Return seconds and images per second of `run`, by command and T."""
    return crossed(
        rows_of("speed.csv"),
        lambda row: f"`{row['command']}` ({'`ref`' if row['backend'] == 'ref' else row['backend']})",
        _at,
        lambda row: f"{row['seconds']} s, {grouped(row['images_per_second'])} images/s",
    )


def commands() -> str:
    """Return the seconds of whole commands: the first time, and the median of others."""
    lines = []
    for row in rows_of("commands.csv"):
        spread = f"{row['median_seconds']} ({row['minimum_seconds']}..{row['maximum_seconds']})"
        lines.append((f"`{row['command']}`", row["threads"], row["first_seconds"], spread, grouped(row["peak_mib"])))
    return markdown_table(("command", "threads", "first, s", "then, s", "peak memory, MiB"), lines)


_TITLES: Final = {
    "images_per_second": "`ref`, images/s",
    "speed_of_ref": "{peer}",
    "percent_of_limit": "share of the limit of {peer}",
}


def peers(name: str) -> Callable[[], str]:
    """Return a table of the CSV file ``name``: the speed of `ref` in each network, and relative to each simulator."""

    def cell(row: Row) -> str:
        if not row["median"]:
            return "fails"
        median, least, most = (grouped(row[name]) for name in ("median", "minimum", "maximum"))
        return f"{median} ({least}..{most}){' %' if row['measure'] == 'percent_of_limit' else ''}"

    return lambda: crossed(
        comparable_rows(name, "threads", "machine", "commit"),
        lambda row: _TITLES[row["measure"]].format(peer=row["peer"]),
        lambda row: f"{row['network']}, {_at(row)}",
        cell,
    )


def cost(curve: str, corner: str) -> Callable[[], str]:
    """Return a table of seconds and memory of the MNIST CNN against ``curve``."""

    def table() -> str:
        rows = comparable_rows("cost.csv", "threads", "machine", "commit", network="MNIST CNN", curve=curve)
        return markdown_table(
            (corner, *(grouped(row["value"]) for row in rows)),
            [
                ("seconds", *(row["seconds"] for row in rows)),
                ("peak memory, MiB", *(grouped(row["peak_mib"]) for row in rows)),
            ],
        )

    return table


def cost_of_threads() -> str:
    """Return images per second and memory of each network, on one thread and on more."""
    rows = comparable_rows("cost.csv", "machine", "commit", curve="threads")
    lines = []
    for network in dict.fromkeys(row["network"] for row in rows):
        one, *others = (row for row in rows if row["network"] == network)
        fastest = [float(row["images_per_second"]) / float(one["images_per_second"]) for row in others]
        lines.append(
            (
                f"{network}, {_at(one)}, {grouped(one['images'])} images",
                *(grouped(row["images_per_second"]) for row in (one, *others)),
                *(f"{ratio:.2f}" for ratio in fastest),
                *(grouped(row["peak_mib"]) for row in (one, *others)),
            )
        )
    counts = list(dict.fromkeys(row["value"] for row in rows))
    ratios = (f"{count} threads over 1" for count in counts[1:])
    memory = (f"peak memory, MiB, threads = {count}" for count in counts)
    return markdown_table(("images/s, threads =", *counts, *ratios, *memory), lines)


def accuracies(network: str, columns: Callable[[Row], Mapping[str, str]]) -> Callable[[], str]:
    """Return a table with a line for each variant of a network: ``columns`` of its first row, then accuracies by T."""

    def table() -> str:
        rows = rows_of("networks.csv", network=network)
        steps = sorted({int(row["timesteps"]) for row in rows})
        lines = []
        for variant in dict.fromkeys(row["variant"] for row in rows):
            found = {int(row["timesteps"]): row for row in rows if row["variant"] == variant}
            first = columns(next(iter(found.values())))
            lines.append((*first.values(), *(found[count]["accuracy"] if count in found else "" for count in steps)))
        return markdown_table((*columns(rows[0]), *(f"T = {count}" for count in steps)), lines)

    return table


def graph_peers() -> str:
    """Return speed and memory of `ref` and of other programs with a large residual network."""
    rows = rows_of("graph-peers.csv")
    cells = [(row["program"], row["images_per_second"], f"{row['peak_gib']} GiB") for row in rows]
    return markdown_table(("", "images/s", "peak memory"), cells)


def torchvision() -> str:
    """Return the results for torchvision's models."""
    columns = ("model", "size", "result", "levels", "relay_channels", "neurons", "neurocores", "seconds", "memory_gib")
    texts = {"relay_channels": grouped, "neurons": grouped}
    cells = [[texts.get(name, str)(row[name]) for name in columns] for row in rows_of("torchvision.csv")]
    heads = ("model", "pixels", "result", "levels", "relay channels", "neurons", "neurocores", "seconds", "GiB")
    return markdown_table(heads, cells)


def graded(cell: Callable[[Row], str]) -> Callable[[], str]:
    """Return a table of graded spikes beside binary ones: a line for each network, ``cell`` for each kind and T."""

    def head(row: Row) -> str:
        return "graded, one step" if row["neurons"] == "graded" else f"spikes, {_at(row)}"

    def table() -> str:
        rows = rows_of("graded.csv")
        cnn = {row["network"]: row["cnn_accuracy"] for row in rows if row["neurons"] == "graded"}
        return crossed(rows, lambda row: f"{row['network']}, CNN {cnn[row['network']]} %", head, cell)

    return table


def _accuracy_and_work(row: Row) -> str:
    return f"{row['accuracy']} %, {float(row['synaptic_operations']) / 1e6:.3g} M"


def _events_and_steps(row: Row) -> str:
    return f"{grouped(row['events'])}, {row['steps_to_output']}"


def plain(name: str) -> Callable[[], str]:
    """Return a table of the CSV file ``name`` as it is."""
    return lambda: markdown_table(list((rows := rows_of(name))[0]), [list(row.values()) for row in rows])


def nir_readers() -> str:
    """Return how many spikes of each NIR file differ in each library."""

    def cell(row: Row) -> str:
        if row["failure"]:
            return "not read" if row["stage"] == "import" else "fails"
        share = 100 * int(row["different"]) / int(row["spikes"])
        return f"{f'{share:.1f} %' if share else '**none**'}; {row['same_class']}"

    return crossed(rows_of("nir.csv"), lambda row: row["reader"], lambda row: row["file"], cell)


def early_exit() -> str:
    """Return what early exit gives for the files of MNIST."""
    header = ("file", "accuracy at T, %", "margin", "average T", "median", "95 % of images stop by", "accuracy, %")
    lines = [
        (
            f"T = {row['timesteps']}",
            *(row[name] for name in ("accuracy", "margin", "average_timesteps", "median_timesteps")),
            *(row["percentile_95_timesteps"], row["exit_accuracy"]),
            f"{row['accuracy_low']}..{row['accuracy_high']}",
            row["operations_saved"],
        )
        for row in rows_of("early-exit.csv")
    ]
    return markdown_table((*header, "95 % interval", "SynOps saved, %"), lines)


TABLES: Final[dict[str, Callable[[], str]]] = {
    "speed": speed,
    "commands": commands,
    "peers": peers("peers.csv"),
    "peers-without-amx": peers("peers-without-amx.csv"),
    "early-exit": early_exit,
    "cost-timesteps": cost("T", "1,000 images, T ="),
    "cost-images": cost("images", "T = 8, images ="),
    "cost-widths": cost("channels c of c5-2ap-(2c)5-2ap-classes", "c of c5-2ap-(2c)5-2ap-10"),
    "cost-depths": cost("depth n of n x 32c3-2ap-classes", "n of n x 32c3-2ap-10"),
    "cost-threads": cost_of_threads,
    "mnist-1d": accuracies("mnist-1d", lambda row: {"": row["variant"], "CNN": row["cnn_accuracy"]}),
    "conv3-max": accuracies("conv3-max", lambda row: {"": row["variant"], "CNN": row["cnn_accuracy"]}),
    "graph-peers": graph_peers,
    "graded": graded(_accuracy_and_work),
    "graded-events": graded(_events_and_steps),
    "nir-readers": nir_readers,
    "pilotnet": plain("pilotnet.csv"),
    "mlperf-tiny": plain("mlperf-tiny.csv"),
    "torchvision": torchvision,
}
"""Every table by its name."""
