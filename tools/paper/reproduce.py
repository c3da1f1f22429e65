"""The paper's tables and figures, measured on your networks.

    python tools/paper/reproduce.py {table,figure} NAME --network FILE

``table``    2, 3, A2, A3, A4, headline: our numbers, the paper's, the differences, conversion losses; CSV and Markdown
``figure``   6, 7, 8, 9, 11, 12, A4, A5: SVG and PNG, and CSV with what is drawn

Accuracies are those of Loihi's integers, by `ref`. Everything is computed once: it is kept in a folder, by all that
determines it, and a command that was interrupted goes on where it was. --network may be given several times, for tables
of several data sets.
"""

from __future__ import annotations

import argparse
import csv
import io
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from loihi_convert.__main__ import exit_code
from loihi_convert.cli.console import echo, log
from loihi_convert.cli.options import parse_timesteps
from loihi_convert.cnn import checkpoint
from loihi_convert.data import default_root, load_data
from loihi_convert.errors import InputError, UsageError
from loihi_convert.files import write_atomically
from loihi_convert.progress import progress_bar
from loihi_convert.report import paper
from loihi_convert.report.figure import image_bytes
from loihi_convert.reproduction.best import BestOfOurs
from loihi_convert.reproduction.cells import (
    FIGURES,
    VARIANTS,
    Setting,
    Variant,
    chosen_cells,
    chosen_variants,
    distinct_variants,
    figure_cells,
    setting,
)
from loihi_convert.reproduction.figures import ChannelPanel, accuracy_figure, channel_figure, panel
from loihi_convert.reproduction.images import LONG, MOST_RATE_IMAGES, Counts, Images
from loihi_convert.reproduction.measure import Measurements
from loihi_convert.reproduction.meter import Meter
from loihi_convert.reproduction.records import Records
from loihi_convert.reproduction.tables import (
    BestEntry,
    Entry,
    best_of_paper,
    counted,
    csv_table,
    markdown_page,
)
from loihi_convert.simulation.gpu import chosen_device

if TYPE_CHECKING:
    from matplotlib.figure import Figure

_TITLES: Final = {
    "2": "Table 2: methods on MNIST",
    "3": "Table 3: methods on Fashion-MNIST",
    "A2": "Table A2: factors alpha on MNIST",
    "A3": "Table A3: factors alpha on Fashion-MNIST",
    "A4": "Table A4: neurons and methods on MNIST",
    "headline": "The numbers of the abstract",
}
_FIGURE_TITLES: Final = {
    "6": "Figure 6: accuracy against latency, MNIST",
    "7": "Figure 7: average firing rate of every channel, MNIST",
    "8": "Figure 8: accuracy against latency, Fashion-MNIST",
    "9": "Figure 9: factors alpha",
    "11": "Figure 11: accuracy against latency, CIFAR-10",
    "12": "Figure 12: neurons and methods, MNIST",
    "A4": "Figure A4: thresholds of every channel, MNIST",
    "A5": "Figure A5: thresholds of every channel, Fashion-MNIST",
}
# Tables and figures that show the best of our methods, too.
_WITH_BEST: Final = ("table 2", "table 3", "figure 6", "figure 8", "figure 11")
_OF_CHANNELS: Final = ("7", "A4", "A5")
_RATE_TIMESTEPS: Final = (64,)


def main() -> int:
    """Do what the command line says; return the exit code."""
    options = _options()
    return exit_code(lambda: _reproduce(options))


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(dest="verb", required=True, metavar="{table,figure}")
    for verb_name, names in (("table", paper.TABLES), ("figure", FIGURES)):
        verb = verbs.add_parser(verb_name)
        verb.add_argument("name", choices=names)
        verb.add_argument(
            "--network", type=Path, action="append", required=True, help="a checkpoint, .pt, .safetensors"
        )
        verb.add_argument(
            "--tuned", type=Path, action="append", default=[], help="a fine-tuned network that may be the best for a T"
        )
        verb.add_argument("-o", "--output", type=Path, default=Path("reproduced"), help="folder; default: %(default)s")
        verb.add_argument("--cache", type=Path, help="folder of what has been computed; default: OUTPUT/computed")
        defaults = "literal,spikes,compensated" if verb_name == "table" else "literal"
        verb.add_argument("--variants", default=defaults, help=f"some of {', '.join(VARIANTS)}; default: %(default)s")
        verb.add_argument("--methods", type=lambda text: text.split(","), help="only these; default: the paper's")
        verb.add_argument("-T", "--timesteps", help="only these, as in 4,8,16; default: the paper's")
        verb.add_argument(
            "--calibration",
            default="all",
            help="all: training and validation images; or so many of the calibration split; default: all",
        )
        verb.add_argument("--images", type=int, help="the first N test images; default: all")
        verb.add_argument(
            "--long-images",
            type=int,
            help=f"the same for T > {LONG}, thresholds then balanced on 10,000 images; default: no difference",
        )
        verb.add_argument(
            "--long-calibration",
            type=int,
            help=f"so many images of the calibration split for T > {LONG}; default: as said above",
        )
        verb.add_argument(
            "--rate-images",
            type=int,
            help=f"the first N test images for figure 7; default: {MOST_RATE_IMAGES:,} of those of --images",
        )
        verb.add_argument("--weight-bits", type=int, default=8, help="default: %(default)s")
        verb.add_argument("--seed", type=int, default=0, help="of Poisson input; default: %(default)s")
        verb.add_argument("--no-best", action="store_true", help="leave out the best of our methods")
        verb.add_argument("--computed-only", action="store_true", help="show what has been computed, compute nothing")
        verb.add_argument("--device", default="cpu", help="cpu, cuda, or auto; default: %(default)s")
        verb.add_argument("--data-root", type=Path, default=default_root(), help="default: %(default)s")
    return parser.parse_args()


def _reproduce(options: argparse.Namespace) -> None:
    cells = paper.table(options.name) if options.verb == "table" else figure_cells(options.name)
    variants = chosen_variants(options.variants.split(","))
    timesteps = parse_timesteps(options.timesteps) if options.timesteps else None
    if (options.verb, options.name) == ("figure", "7") and timesteps is None:
        timesteps = _RATE_TIMESTEPS
    networks = _networks(options)
    for data in dict.fromkeys(cell.data for cell in cells):
        if data not in networks:
            log(f"{options.verb} {options.name}: no --network was trained on {data}; its cells are left out")
    cells = chosen_cells(cells, f"{options.verb} {options.name}", list(networks), timesteps, options.methods)
    variants = distinct_variants(variants, cells)
    if options.verb == "figure" and options.name in _OF_CHANNELS:
        _write_channels(options, networks, cells, variants)
        return
    with_best = f"{options.verb} {options.name}" in _WITH_BEST and not options.no_best
    best_of_ours = _best_of_ours(options, networks) if with_best else {}
    entries, bests = _measured(options, networks, best_of_ours, cells, variants)
    stem = options.output / f"{options.verb}-{options.name}"
    if options.verb == "figure":
        labels = _labels(cells, options.name)
        panels = []
        for variant in variants:
            for data in networks:
                of_it = [entry for entry in entries if entry.variant == variant and entry.cell.data == data]
                if of_it:
                    title = f"{data}, {variant.name}"
                    panels.append(panel(title, of_it, [one for one in bests if one.cell.data == data], labels))
        _write_figure(stem, accuracy_figure(_FIGURE_TITLES[options.name], panels), csv_table(entries, bests))
        return
    page = markdown_page(_TITLES[options.name], entries, bests, notes=_notes(networks, entries))
    _write(stem.with_suffix(".md"), page)
    _write(stem.with_suffix(".csv"), csv_table(entries, bests))
    echo(page.rstrip("\n"))


def _networks(options: argparse.Namespace) -> dict[str, Measurements]:
    """The networks by the data they were trained on, one for each."""
    found: dict[str, Measurements] = {}
    for path in options.network:
        data = checkpoint.load(path).data
        if data in found:
            raise UsageError(
                f"{found[data].name} is trained on {data}, too",
                where=path,
                expected="pass one --network for each data set",
                hint="Pass fine-tuned networks by --tuned.",
            )
        images = Images(
            load_data(data, options.data_root),
            Counts(
                _calibration(options.calibration),
                options.images,
                options.long_images,
                options.long_calibration,
                options.rate_images,
            ),
        )
        found[data] = _opened(path, images, options)
    return found


def _best_of_ours(options: argparse.Namespace, networks: dict[str, Measurements]) -> dict[str, BestOfOurs]:
    """What is the best for each T: one of ``networks``, or what may take its place."""
    found = {data: [network] for data, network in networks.items()}
    for path in options.tuned:
        data = checkpoint.load(path).data
        if data not in found:
            raise UsageError(
                f"is trained on {data}, and no --network is",
                where=path,
                hint="Pass the network it was fine-tuned from.",
            )
        found[data].append(_opened(path, networks[data].images, options))
    device = chosen_device(options.device)
    return {
        data: BestOfOurs(candidates, _records(options), weight_bits=options.weight_bits, device=device, tell=log)
        for data, candidates in found.items()
    }


def _opened(path: Path, images: Images, options: argparse.Namespace) -> Measurements:
    return Measurements(path, images, _records(options), device=chosen_device(options.device), tell=log)


def _records(options: argparse.Namespace) -> Records:
    return Records(options.cache or options.output / "computed")


def _calibration(text: str) -> int | None:
    if text == "all":
        return None
    if not text.isdecimal():
        raise UsageError(f"found {text}", where="--calibration", expected="must be all, or a whole number of images")
    return int(text)


def _measured(
    options: argparse.Namespace,
    networks: dict[str, Measurements],
    best_of_ours: dict[str, BestOfOurs],
    cells: Sequence[paper.Cell],
    variants: Sequence[Variant],
) -> tuple[list[Entry], list[BestEntry]]:
    """What the cells gave, and for each data set and T the best of our methods; computed if need be."""
    made = {
        (cell, variant): setting(
            cell,
            variant,
            seed=options.seed,
            weight_bits=options.weight_bits,
            is_exported=(options.verb, options.name) == ("table", "headline"),
        )
        for cell in cells
        for variant in variants
    }
    wanted: dict[str, list[Setting]] = {data: [] for data in networks}
    for (cell, _), one in made.items():
        if one is not None:
            wanted[cell.data].append(one)
    steps = {
        data: sorted({cell.timesteps for cell in cells if cell.data == data and cell.timesteps is not None})
        for data in best_of_ours
    }
    if not options.computed_only:
        with progress_bar(f"{options.verb} {options.name}") as progress:
            meter = Meter(progress)
            meter.total = sum(network.work(wanted[data]) for data, network in networks.items())
            meter.total += sum(best_of_ours[data].work(t) for data in steps for t in steps[data])
            for data, network in networks.items():
                network.accuracies(wanted[data], meter)
                for t in steps.get(data, ()):
                    best_of_ours[data].find(t, meter)
    entries = []
    for cell in cells:
        network = networks[cell.data]
        cnn = network.cnn(cell.timesteps)
        for variant in variants:
            one = made[cell, variant]
            outcome = cnn if cell.method == paper.CNN else None if one is None else network.stored(one)
            seed = int(network.source.provenance["seed"])
            entries.append(Entry(cell, variant, one, outcome, cnn, network.name, seed))
    bests = []
    for data in steps:
        for t in reversed(steps[data]):
            if (best := best_of_ours[data].stored(t)) is not None:
                of_it = best_of_paper([cell for cell in cells if cell.data == data], t)
                bests.append(BestEntry(of_it, best, networks[data].cnn(t)))
    return entries, bests


def _write_channels(
    options: argparse.Namespace,
    networks: dict[str, Measurements],
    cells: Sequence[paper.Cell],
    variants: Sequence[Variant],
) -> None:
    """Figures 7, A4 and A5: a value of every channel of every layer that spikes."""
    if options.computed_only:
        raise UsageError(f"figure {options.name} shows no accuracies", where="--computed-only", hint="Leave it out.")
    (data, network), *_ = networks.items()
    of_rates = options.name == "7"
    lines: list[tuple[object, ...]] = []
    panels: dict[str, dict[str, Sequence[float]]] = {}
    made = [
        (cell, variant, one)
        for variant in variants
        for cell in sorted(cells, key=lambda cell: cell.timesteps or 0)
        if (one := setting(cell, variant, seed=options.seed, weight_bits=options.weight_bits)) is not None
    ]
    with progress_bar(f"figure {options.name}") as progress:
        meter = Meter(progress)
        meter.total = sum(network.work([one]) for _, _, one in made)
        rows: dict[Setting, list[Setting]] = {}
        for _, _, one in made:
            rows.setdefault(replace(one, timesteps=0), []).append(one)
        balanced = {
            one: spiking
            for row in rows.values()
            for one, spiking in zip(row, network.thresholds(row, meter), strict=True)
        }
        for cell, variant, one in made:
            names = [cell.method if of_rates else f"T = {cell.timesteps}"]
            names += [variant.name] if len(variants) > 1 else []
            names += [f"T = {cell.timesteps}"] if of_rates and len({cell.timesteps for cell in cells}) > 1 else []
            label = ", ".join(names)
            if of_rates:
                values = network.firing_rates(one, meter)
            else:
                values = {
                    layer.name: layer.neuron.threshold.tolist()
                    for layer in balanced[one].layers
                    if layer.neuron is not None
                }
            for layer_name, numbers in values.items():
                panels.setdefault(layer_name, {})[label] = numbers
                lines += [
                    (
                        options.name,
                        data,
                        cell.method,
                        cell.reset,
                        variant.name,
                        cell.timesteps,
                        layer_name,
                        channel,
                        number,
                    )
                    for channel, number in enumerate(numbers)
                ]
    quantity = "spikes / T" if of_rates else "threshold"
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    header = ["figure", "data", "method", "reset", "variant", "timesteps", "layer", "channel"]
    writer.writerow([*header, quantity.replace(" / ", "_per_")])
    writer.writerows(lines)
    drawn = [ChannelPanel(f"{name}, {data}", values) for name, values in panels.items()]
    figure = channel_figure(_FIGURE_TITLES[options.name], drawn, quantity)
    _write_figure(options.output / f"figure-{options.name}", figure, text.getvalue())


def _labels(cells: Sequence[paper.Cell], name: str) -> dict[paper.Cell, tuple[str, str]]:
    """What the curve of each cell is called, and what has its colour."""
    if name == "9":
        return {cell: (f"alpha {cell.alpha:g}", f"alpha {cell.alpha:g}") for cell in cells}
    if name == "12":
        return {cell: (f"{cell.method}, {cell.reset}", cell.method) for cell in cells}
    return {cell: (cell.method, cell.method) for cell in cells}


def _notes(networks: dict[str, Measurements], entries: Sequence[Entry]) -> list[str]:
    """How a table was measured, one sentence each."""
    notes = []
    for data, network in networks.items():
        made = network.source.provenance
        cnn = network.cnn(None)
        theirs = paper.cnn_accuracy(data)
        beside = "" if theirs is None else f" (the paper's: {theirs:.2f} %)"
        notes.append(
            f"{data}: {made['architecture']}, training seed {made['seed']}, `{network.name}` "
            f"(SHA-256 {network.digest[:12]}), {cnn.accuracy:.2f} % of {cnn.images:,} test images{beside}."
        )
    notes += counted(entries)
    made_with = [entry.setting for entry in entries if entry.setting is not None]
    seeds = sorted({one.poisson_seed for one in made_with if one.poisson_seed is not None})
    bits = sorted({one.weight_bits for one in made_with})
    poisson = f"; Poisson input of seed {', '.join(map(str, seeds))}" if seeds else ""
    notes.append(f"Accuracy of the integers, weights of {', '.join(map(str, bits))} bits, one network per T{poisson}.")
    return notes


def _write_figure(stem: Path, figure: Figure, numbers: str) -> None:
    # Always in this order: drawing starts from the layout of the drawing before.
    for kind in ("png", "svg"):
        _write(stem.with_suffix(f".{kind}"), image_bytes(figure, kind))
    _write(stem.with_suffix(".csv"), numbers)
    for suffix in (".png", ".svg", ".csv"):
        echo(f"wrote {stem.with_suffix(suffix)}")


def _write(path: Path, content: str | bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise InputError(f"cannot be made ({error.strerror})", where=path.parent, hint="Choose another -o.") from error
    write_atomically(path, content.encode() if isinstance(content, str) else content)


if __name__ == "__main__":
    sys.exit(main())
