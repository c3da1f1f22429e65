"""`benchmark.py cost`: time and memory of `ref` against T, images, threads, width and depth, each in a new process."""

from __future__ import annotations

import argparse
import math
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import torch
from benchmark_tables import machine, spread
from simulators import PEERS, REF
from simulators.process import Worker
from subject import NETWORKS, NOISE, Subject, export_untrained, request_for, subject
from torch import nn

from loihi_convert import netx
from loihi_convert.backends.result import check_run, require_safe_timesteps
from loihi_convert.cli.console import log
from loihi_convert.data import load_data
from loihi_convert.data.dataset import DataSplits
from loihi_convert.errors import UsageError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.files import write_atomically
from loihi_convert.report.table import markdown_table
from loihi_convert.runs.columns import as_csv

DEPTH_CHANNELS: Final = 32
"""Channels of each layer of the networks of several depths."""


@dataclass(frozen=True, eq=False)
class Setting:
    """One point of one curve of `cost`: the file, and how many images are run for how many steps, on how many threads.

    ``threads`` is None if the command line decides.
    """

    curve: str
    value: int
    path: Path
    images: Array
    timesteps: int
    threads: int | None = None


def measure_cost(options: argparse.Namespace) -> None:
    """Print the cost of `ref`, one table for each quantity that varies."""
    longest = max((options.timesteps or 8, *options.sweep_timesteps))
    with subject(options, longest) as chosen, tempfile.TemporaryDirectory() as temporary:
        settings = list(_settings(options, chosen, Path(temporary)))
        for setting in settings:
            check_run(netx.read(setting.path), setting.images, setting.timesteps)
        seconds: dict[Setting, list[float]] = {setting: [] for setting in settings}
        peaks: dict[Setting, list[float]] = {setting: [] for setting in settings}
        idle: list[float] = []
        for number in range(options.repeats):
            for setting in settings:
                log(f"repeat {number + 1} of {options.repeats}: {setting.curve} {setting.value}")
                request = request_for(
                    options,
                    REF,
                    setting.path,
                    Path(temporary),
                    setting.images,
                    setting.timesteps,
                    threads=setting.threads or options.threads,
                )
                with Worker(PEERS[REF], request, options.patience) as worker:
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
                record["threads"] = point.threads or options.threads
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
    report = "\n\n".join((what, *tables, rest, machine(options.threads)))
    print(report)
    if options.output is not None:
        options.output.mkdir(parents=True, exist_ok=True)
        write_atomically(options.output / "cost.md", f"{report}\n".encode())
        write_atomically(options.output / "cost.csv", as_csv(records))


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
    for value in options.sweep_threads:
        yield Setting("threads", value, chosen.path, some, steps, threads=value)
    if not (options.sweep_widths or options.sweep_depths):
        return
    if options.arch is not None or options.data == NOISE:
        log("networks of several widths and depths: left out; they need a data set")
        return
    recorded = chosen.network.provenance.get("model", {})
    data = options.data or (NETWORKS[options.network] if options.network else str(recorded["data"]))
    splits = load_data(data, options.data_root)
    for value in options.sweep_widths:
        path = temporary / f"width-{value}.net"
        export_untrained(two_convolutions(value, splits), splits, steps, path)
        yield Setting("channels c of c5-2ap-(2c)5-2ap-classes", value, path, some, steps)
    for value in options.sweep_depths:
        path = temporary / f"depth-{value}.net"
        export_untrained(convolutions(value, splits), splits, steps, path)
        yield Setting(f"depth n of n x {DEPTH_CHANNELS}c3-2ap-classes", value, path, some, steps)


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
