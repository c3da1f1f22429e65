"""Compare `ref` with other simulators, or measure its cost: python tools/peers/benchmark.py {peers,cost} ...

``peers``   runs one exported network with the same images and threads in every library that can be installed
            (`simulators/`). Each has a separate process and, through uv, a separate environment. Measured are speed,
            classes and output potentials.
``cost``    measures time and peak memory of `ref` against T, threads, number of images, images per call, and width and
            depth of the network, each in a new process.

Repeats are interleaved (A B C A B C ...), so that changes of the machine's speed affect all programs. If others use the
machine at the same time, results are unreliable: compare minima and maxima.
"""

from __future__ import annotations

import argparse
import contextlib
import math
import os
import sys
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from benchmark_tables import machine, spread, write_rows
from simulators import PEERS, Peer
from simulators.graph import built
from simulators.process import Worker
from simulators.worker import Request
from torch import nn

from loihi_convert import netx
from loihi_convert.__main__ import exit_code
from loihi_convert.arrays import Array, Shape
from loihi_convert.backends import open_backend
from loihi_convert.backends.request import check_run, require_safe_timesteps
from loihi_convert.cli.console import log
from loihi_convert.cnn.models import build_model
from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.options import BalanceOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.data import default_root, load_data
from loihi_convert.data.dataset import Dataset, DataSplits
from loihi_convert.errors import PlatformError, UsageError, VerificationError, one_of
from loihi_convert.files import write_atomically
from loihi_convert.frontend.lower import to_relu_network
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.report.formats import markdown_table

# Networks with random weights, and the data set of each.
NETWORKS: Final = {
    "digits-cnn": "digits",
    "mnist-cnn": "mnist",
    "fashion-mnist-cnn": "fashion-mnist",
    "vgg-small": "cifar10",
    "vgg16": "cifar10",
}
NOISE: Final = "noise"
"""Images of noise, of any shape and number; the speed does not depend on their contents."""

DEPTH_CHANNELS: Final = 32
"""Channels of each layer of the networks of several depths."""

_CLASSES: Final = 10
_REF: Final = next(index for index, peer in enumerate(PEERS) if peer.module == "reference")
# Number of images on which thresholds of untrained networks are balanced.
_CALIBRATION_IMAGES: Final = 100
_CALIBRATION_IMAGES_OF_NOISE: Final = 8


def main() -> int:
    """Run the command line; return the exit code."""
    options = read_options()
    return exit_code(lambda: options.measure(options))


def read_options(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options on the command line, or ``arguments``."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = parser.add_subparsers(required=True, metavar="{peers,cost}")
    for name, measure, images, help_text in (
        ("peers", measure_peers, 1000, "beside other simulators"),
        ("cost", measure_cost, 1000, "time and memory of ref"),
    ):
        verb = verbs.add_parser(name, help=help_text)
        verb.set_defaults(measure=measure)
        verb.add_argument("model", nargs="?", type=Path, metavar="MODEL.net", help="an exported file; or --network")
        verb.add_argument("--network", choices=NETWORKS, help="a network with random weights, exported for this run")
        verb.add_argument("--data", help=f"data set, folder or .npz of images, or {NOISE}; default: the network's")
        verb.add_argument(
            "--input-shape",
            type=_shape,
            default=(3, 224, 224),
            help="of noise, as --arch gets; default: 3,224,224",
        )
        verb.add_argument("--data-root", type=Path, default=default_root(), help="default: %(default)s")
        verb.add_argument("--images", type=int, default=images, help="test images; default: %(default)s")
        verb.add_argument("--repeats", type=int, default=5, help="default: %(default)s")
        verb.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: %(default)s")
        verb.add_argument("--patience", type=float, default=1800, help="seconds for one answer; default: %(default)s")
        verb.add_argument("-o", "--output", type=Path, metavar="FOLDER", help="write tables as .md and .csv there")
        verb.add_argument("--arch", metavar="MODULE:FACTORY", help="or your own CNN, with random weights")
        if name == "peers":
            verb.add_argument("-T", "--timesteps", type=int, help="default: what the file is balanced for, or 8")
            verb.add_argument("--batch-sizes", type=_numbers, default=(4, 16, 64, 256), help="default: 4,16,64,256")
            verb.add_argument("--lava-images", type=int, default=2, help="for lava-dl; default: %(default)s")
            verb.add_argument(
                "--at-least",
                type=float,
                metavar="RATIO",
                help="fail unless ref is at least this much faster than each other program, each at its best",
            )
            names = ",".join(peer.module for peer in PEERS)
            verb.add_argument("--only", default=names, help="a selection from %(default)s; ref is always included")
        else:
            verb.add_argument(
                "-T",
                "--timesteps",
                type=int,
                help="where T does not vary; default: 8, or the largest that the file allows",
            )
            doubling = tuple(2**power for power in range(10))
            verb.add_argument("--sweep-timesteps", type=_numbers, default=doubling, help="default: 1,2,4,...,512")
            verb.add_argument(
                "--sweep-images", type=_numbers, default=(10, 100, 1000, 10_000), help="default: 10,...,10000"
            )
            verb.add_argument(
                "--sweep-calls", type=_numbers, default=(1, 10, 100, 1000), help="images in one call of ref"
            )
            verb.add_argument(
                "--sweep-widths",
                type=_numbers,
                default=(8, 16, 32, 64, 128),
                help="c of a network c5-2ap-(2c)5-2ap-classes with random weights; 128: the paper's for Fashion-MNIST",
            )
            verb.add_argument(
                "--sweep-depths",
                type=_numbers,
                default=(1, 2, 4, 8, 16),
                help=f"number of convolutions {DEPTH_CHANNELS}c3 before 2ap-classes, with random weights",
            )
            verb.add_argument(
                "--sweep-threads", type=_numbers, default=_some_cores(), help="default: 1,2,4,... up to all cores"
            )
    return parser.parse_args(arguments)


def _shape(text: str) -> tuple[int, ...]:
    shape = _numbers(text)
    if len(shape) != 3:
        raise argparse.ArgumentTypeError(f"{text}: must be channels, height, width, as in 3,224,224")
    return shape


def _some_cores() -> tuple[int, ...]:
    """Return 1, 2, 4 and so on, and the number of cores."""
    most = len(os.sched_getaffinity(0))
    return (*(count for power in range(most.bit_length()) if (count := 2**power) < most), most)


def _numbers(text: str) -> tuple[int, ...]:
    numbers = tuple(int(part) for part in text.split(",") if part)
    if any(number < 1 for number in numbers):
        raise argparse.ArgumentTypeError(f"{text}: must be whole numbers from 1, as in 1,2,4")
    return numbers


# Networks, programs and results.


@dataclass(frozen=True, eq=False)
class Subject:
    """The exported file to run, its name in tables, and the images."""

    path: Path
    name: str
    network: QuantizedNetwork
    images: Array


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


@contextlib.contextmanager
def subject(options: argparse.Namespace, timesteps: int | None) -> Iterator[Subject]:
    """Read or create the network chosen on the command line; a created one is in a temporary folder."""
    if sum(each is not None for each in (options.model, options.network, options.arch)) != 1:
        raise UsageError("found none, or more than one", expected="give one: an exported file, --network or --arch")
    with tempfile.TemporaryDirectory() as temporary:
        if options.arch is not None:
            splits = _noise(options.input_shape, options.images)
            path, name = Path(temporary, "cnn.net"), f"{options.arch} with random weights"
            export_untrained(built(options.arch), splits, timesteps or 8, path)
        elif options.model is None:
            if options.data == NOISE:
                splits = _noise(options.input_shape, options.images)
            else:
                splits = load_data(options.data or NETWORKS[options.network], options.data_root)
            torch.manual_seed(0)
            model = build_model(options.network, splits.input_shape, len(splits.classes) or _CLASSES)
            path, name = Path(temporary, f"{options.network}.net"), f"{options.network} with random weights"
            export_untrained(model, splits, timesteps or 8, path)
        else:
            path, name = options.model.resolve(), options.model.name
            recorded = netx.read(path).provenance.get("model", {})
            if options.data is None and "data" not in recorded:
                raise UsageError("does not record its data set", where=path.name, hint="Pass --data.")
            splits = load_data(options.data or str(recorded["data"]), options.data_root)
        network = netx.read(path)
        if network.readout != "potential" or network.reset != "soft" or len(network.layers) < 2:
            raise UsageError(
                "hard reset, a spiking readout or a single layer",
                where=name,
                expected="must be a soft-reset network of two layers or more whose last layer only integrates",
            )
        yield Subject(path, f"{name}, {splits.name}", network, splits.test.images)


def export_untrained(model: nn.Module, splits: DataSplits, timesteps: int, path: Path) -> None:
    """Write the CNN ``model`` as a file, with thresholds balanced for ``timesteps`` on a few images."""
    images = splits.calibration_images()[:_CALIBRATION_IMAGES]
    spiking = balance(
        to_relu_network(model.eval(), splits.input_shape), images, timesteps, BalanceOptions(method="ngu-lee")
    )
    netx.write(quantize(spiking, images), path)


def _noise(shape: Shape, count: int) -> DataSplits:
    """Return ``count`` images of `NOISE`."""
    images = np.random.default_rng(0).integers(0, 256, (count, *shape)).astype(np.uint8)
    data = Dataset(images, np.zeros(count, np.int64))
    return DataSplits(NOISE, (), data, data, data[:_CALIBRATION_IMAGES_OF_NOISE], data)


def _request(
    options: argparse.Namespace, peer: int, path: Path, folder: Path, images: Array, timesteps: int, **settings: Any
) -> Request:
    saved = folder / f"images-{peer}.npy"
    np.save(saved, images)
    return Request(
        peer=peer,
        network=str(path),
        images=str(saved),
        potentials=str(folder / f"potentials-{peer}.npy"),
        timesteps=timesteps,
        **{"batch_sizes": (), "threads": options.threads, **settings},
    )


# peers


def measure_peers(options: argparse.Namespace) -> None:
    """Print the speed of each program, and whether it gives the same classes and potentials as `ref`."""
    title, rows = timed_peers(options)
    title = f"{title}, {options.repeats} repeats"
    _publish(options, "peers", f"{title}\n\n{peers_report(rows)}\n{machine(options.threads)}", _peer_records(rows))
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
            expected = backend.run(chosen.path, images, timesteps).potentials[:, -1]
        rows, requests = [], []
        for index, peer in enumerate(PEERS):
            if index != _REF and peer.module not in names:
                continue
            shown = images[: options.lava_images] if peer.runs_few_images else images
            sizes = sorted({min(size, len(shown)) for size in options.batch_sizes}) if peer.tries_batch_sizes else ()
            rows.append(Row(peer, len(shown)))
            settings = {"batch_sizes": sizes, "arch": options.arch or ""}
            requests.append(_request(options, index, chosen.path, Path(temporary), shown, timesteps, **settings))
        run_interleaved(rows, requests, options.repeats, options.patience)
        for row, request in zip(rows, requests, strict=True):
            if not row.failure and Path(request.potentials).exists():
                compare(row, np.load(request.potentials), expected[: row.image_count])
    return f"{chosen.name}, T = {timesteps}, {len(images)} images", rows


def require_ratio(rows: Sequence[Row], least: float) -> None:
    """Raise a `VerificationError` unless the first of ``rows`` is ``least`` times as fast as each of the others.

    The fastest repeats are compared: on a busy machine, they were disturbed least.
    """
    reference, *others = rows
    for row in others:
        if row.failure:
            raise VerificationError(f"not measured: {row.failure}", where=row.title)
        if row.peer.runs_few_images or not row.is_equal:
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


def _peer_records(rows: Iterable[Row]) -> list[dict[str, Any]]:
    return [
        {
            "peer": row.peer.name,
            "versions": " ".join(f"{name}={version}" for name, version in row.versions.items()),
            "choice": row.choice,
            "images": row.image_count,
            "repeat": number,
            "seconds": seconds,
            "peak_mib": row.peak_bytes / 2**20,
            "same_class": row.same_class,
            "equal_potentials": row.equal_potentials,
            "failure": row.failure,
        }
        for row in rows
        for number, seconds in enumerate(row.seconds or [None])
    ]


# cost


@dataclass(frozen=True, eq=False)
class Setting:
    """One point of one curve of `cost`: the file, and how many images are run for how many steps, on how many threads.

    ``images_per_call`` and ``threads`` are None if the command line decides.
    """

    curve: str
    value: int
    path: Path
    images: Array
    timesteps: int
    images_per_call: int | None = None
    threads: int | None = None


def measure_cost(options: argparse.Namespace) -> None:
    """Print the cost of `ref`, one table for each quantity that varies."""
    longest = max((options.timesteps or 8, *options.sweep_timesteps))
    with subject(options, longest) as chosen, tempfile.TemporaryDirectory() as temporary:
        settings = list(_settings(options, chosen, Path(temporary)))
        for setting in settings:
            check_run(netx.read(setting.path), setting.images[: setting.images_per_call], setting.timesteps)
        seconds: dict[Setting, list[float]] = {setting: [] for setting in settings}
        peaks: dict[Setting, list[float]] = {setting: [] for setting in settings}
        idle: list[float] = []
        for number in range(options.repeats):
            for setting in settings:
                log(f"repeat {number + 1} of {options.repeats}: {setting.curve} {setting.value}")
                sizes = () if setting.images_per_call is None else (setting.images_per_call,)
                request = _request(
                    options,
                    _REF,
                    setting.path,
                    Path(temporary),
                    setting.images,
                    setting.timesteps,
                    batch_sizes=sizes,
                    threads=setting.threads or options.threads,
                )
                with Worker(PEERS[_REF], request, options.patience) as worker:
                    measured = worker.repeat()
                idle.append(worker.ready["idle_bytes"] / 2**20)
                seconds[setting].append(measured["seconds"])
                peaks[setting].append(measured["peak_bytes"] / 2**20)
    tables, records = [], []
    for curve in dict.fromkeys(setting.curve for setting in settings):
        points = [setting for setting in settings if setting.curve == curve]
        table = []
        for point in points:
            rates = [len(point.images) / taken for taken in seconds[point]]
            table.append((f"{point.value:,}", spread(seconds[point]), spread(rates), spread(peaks[point])))
            for number, (taken, peak) in enumerate(zip(seconds[point], peaks[point], strict=True)):
                record = {"curve": curve, "value": point.value, "images": len(point.images), "T": point.timesteps}
                records.append({**record, "repeat": number, "seconds": taken, "peak_mib": peak})
        first = points[0]
        fixed = [] if curve == "images" else [f"{len(first.images):,} images"]
        fixed += [] if curve == "T" else [f"T = {first.timesteps}"]
        header = (curve, "seconds", "images/s", "peak memory in MiB")
        tables.append(f"{', '.join(fixed)}\n\n{markdown_table(header, table)}")
    what = f"ref, {chosen.name}, {options.repeats} repeats; networks of widths and depths have random weights"
    rest = (
        "Numbers are median (minimum..maximum). Memory is that of the whole process, which holds "
        f"{spread(idle)} MiB before it reads the network: Python, torch and the images."
    )
    _publish(options, "cost", "\n\n".join((what, *tables, rest, machine(options.threads))), records)


def _settings(options: argparse.Namespace, chosen: Subject, temporary: Path) -> Iterator[Setting]:
    images, largest = chosen.images, chosen.network.max_timesteps
    some = images[: options.images]
    steps = min(8, largest) if options.timesteps is None else options.timesteps
    # Checked before networks of several widths are created.
    require_safe_timesteps(chosen.network, steps)
    if left_out := [value for value in options.sweep_timesteps if value > largest]:
        log(f"T = {', '.join(map(str, left_out))}: left out; the file allows T <= {largest}")
    for value in options.sweep_timesteps:
        if value <= largest:
            yield Setting("T", value, chosen.path, some, value)
    for value in options.sweep_images:
        if value > len(images):
            log(f"{value} images: left out; there are {len(images)}")
        else:
            yield Setting("images", value, chosen.path, images[:value], steps)
    for value in options.sweep_calls:
        yield Setting("images in a call", value, chosen.path, some, steps, images_per_call=value)
    for value in options.sweep_threads:
        yield Setting("threads", value, chosen.path, some, steps, threads=value)
    if not (options.sweep_widths or options.sweep_depths):
        return
    if options.arch is not None or options.data == NOISE:
        log("networks of several widths and depths: left out; they need a data set")
        return
    splits = load_data(options.data or _data_of(options, chosen), options.data_root)
    for value in options.sweep_widths:
        path = temporary / f"width-{value}.net"
        export_untrained(two_convolutions(value, splits), splits, steps, path)
        yield Setting("channels c of c5-2ap-(2c)5-2ap-classes", value, path, some, steps)
    for value in options.sweep_depths:
        path = temporary / f"depth-{value}.net"
        export_untrained(convolutions(value, splits), splits, steps, path)
        yield Setting(f"depth n of n x {DEPTH_CHANNELS}c3-2ap-classes", value, path, some, steps)


def _data_of(options: argparse.Namespace, chosen: Subject) -> str:
    recorded = chosen.network.provenance.get("model", {})
    return NETWORKS[options.network] if options.network else str(recorded["data"])


def two_convolutions(width: int, splits: DataSplits) -> nn.Module:
    """Return ``width`` c5-2ap-2 ``width`` c5-2ap-classes, untrained, seed 0, without biases."""
    torch.manual_seed(0)
    depth, *size = splits.input_shape
    pooled = [((length - 4) // 2 - 4) // 2 for length in size]
    if min(pooled) < 1:
        raise UsageError(
            f"images of {size[0]} x {size[1]} are too small", where="--sweep-widths", hint="Pass --sweep-widths ''."
        )
    features = 2 * width * pooled[0] * pooled[1]
    return nn.Sequential(
        *(nn.Conv2d(depth, width, 5, bias=False), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Conv2d(width, 2 * width, 5, bias=False), nn.ReLU(), nn.AvgPool2d(2)),
        *(nn.Flatten(), nn.Linear(features, len(splits.classes), bias=False)),
    )


def convolutions(depth: int, splits: DataSplits) -> nn.Module:
    """Return ``depth`` convolutions `DEPTH_CHANNELS`c3 of padding 1, then 2ap-classes, untrained, seed 0, no biases."""
    torch.manual_seed(0)
    channels, *size = splits.input_shape
    layers: list[nn.Module] = []
    for _ in range(depth):
        layers += (nn.Conv2d(channels, DEPTH_CHANNELS, 3, padding=1, bias=False), nn.ReLU())
        channels = DEPTH_CHANNELS
    features = channels * math.prod(length // 2 for length in size)
    return nn.Sequential(*layers, nn.AvgPool2d(2), nn.Flatten(), nn.Linear(features, len(splits.classes), bias=False))


def _publish(options: argparse.Namespace, name: str, report: str, records: Sequence[dict[str, Any]]) -> None:
    print(report)
    if options.output is None:
        return
    options.output.mkdir(parents=True, exist_ok=True)
    write_atomically(options.output / f"{name}.md", f"{report}\n".encode())
    write_rows(options.output / f"{name}.csv", records)


if __name__ == "__main__":
    sys.exit(main())
