"""Evaluations -> tables for the terminal, CSV, JSON, a picture of accuracy against latency, one folder per run.

Two curves, never mixed. *Anytime*: one file, thresholds balanced for its T, potentials read after each step of one
run. *Per T*: several files, each with one point, at the T it was balanced for.
"""

from __future__ import annotations

import csv
import io
import itertools
import json
import os
import platform
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from datetime import datetime, timezone
from importlib import metadata
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from loihi_convert import loihi
from loihi_convert.backends import RunResult
from loihi_convert.errors import DataError, InputError, UsageError
from loihi_convert.evaluate import Evaluation, Interval, Point
from loihi_convert.files import sha256, write_atomically
from loihi_convert.network import Array
from loihi_convert.quantize import Account

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure
    from rich.table import Table

VERSIONED_PACKAGES: Final = ("loihi-convert", "torch", "numpy", "lava-nc", "lava-dl")
"""Distributions whose versions stand in a manifest: those that can change a result."""

# Okabe & Ito's palette, told apart by every kind of colour vision.
_FIXED_COLOUR: Final = "#0072B2"
_FLOAT_COLOUR: Final = "#D55E00"
_CNN_COLOUR: Final = "#444444"


def accuracy_table(evaluation: Evaluation) -> Table:
    """Return the anytime table of one file for the terminal, one row per reported T; unknown columns are left out."""
    table = _table(_COLUMNS, [_Row("", evaluation, point) for point in evaluation.points])
    table.title = (
        f"{evaluation.image_count:,} images in {evaluation.seconds:.1f} s "
        f"({evaluation.images_per_second:,.0f} images/s, {evaluation.startup_seconds:.1f} s to start)"
    )
    table.caption = (
        f"thresholds balanced for T = {evaluation.timesteps}, anytime readout: potentials after each step of one run"
    )
    if evaluation.saturated_images:
        table.caption += (
            f"\n{evaluation.saturated_images:,} images reached an output potential of "
            f"\N{PLUS-MINUS SIGN}{loihi.POTENTIAL_LIMIT}, the end of Loihi's range"
        )
    return table


def layer_table(evaluation: Evaluation) -> Table:
    """Return firing rates and work per layer at the last T for the terminal."""
    from rich.text import Text

    point = evaluation.points[-1]
    table = _new_table()
    for header in ("layer", "neurons", "firing\nrate %", "SynOps\n/image", "CNN's MACs\n/image"):
        table.add_column(header, justify="left" if header == "layer" else "right", no_wrap=True)
    rates = [_percent(rate) or "" for rate in point.firing_rate]
    reached = [f"{operations:,.0f}" for operations in point.synaptic_operations_per_layer]
    for layer, rate, operations in zip(evaluation.layers, [*rates, ""], ["", *reached], strict=True):
        table.add_row(Text(layer.name), f"{layer.neuron_count:,}", rate, operations, f"{layer.multiply_accumulates:,}")
    table.caption = (
        f"at T = {point.timesteps}; SynOps: synapses of the layer reached by the spikes of the one before it. "
        "The first layer receives pixels at every step"
    )
    return table


def per_t_table(evaluations: Sequence[tuple[str, Evaluation]]) -> Table:
    """Return the per-T table for the terminal: each (file, evaluation) one row, at the T its thresholds are for."""
    rows = [_Row(name, evaluation, evaluation.own_point) for name, evaluation in evaluations]
    table = _table((_Column("file", lambda row: row.file), *_COLUMNS), rows)
    table.caption = "one file per T, each read at the T its thresholds are balanced for"
    return table


def account_table(account: Account) -> Table:
    """Return the bits, thresholds and clipping of each layer of an exported network for the terminal."""
    from rich.text import Text

    table = _new_table()
    headers = ("layer", "weight bits\nleast..most", "thresholds", "dead\nchannels", "images clipped\nlow / high")
    for header in headers:
        table.add_column(header, justify="left" if header == "layer" else "right", no_wrap=True)
    for layer in account.layers:
        low, _, high = layer.weight_bits
        table.add_row(
            Text(layer.name),
            f"{low}..{high}" if low < high else f"{high}",
            "only integrates" if layer.thresholds is None else "{}..{}".format(*layer.thresholds),
            str(len(layer.dead_channels)) if layer.dead_channels else "",
            f"{layer.low_clipped:,} / {layer.high_clipped:,}",
        )
    table.caption = (
        f"clipping in {account.timesteps} steps of {account.image_count:,} calibration images; low is harmless in the "
        f"first layer. Output potentials are proven to fit for T <= {account.proven_timesteps:,}"
    )
    return table


def results_json(evaluations: Iterable[tuple[str, Evaluation]]) -> str:
    """Return ``{file: evaluation, ...}`` as indented JSON, in the schema of `Evaluation`."""
    return _json({name: evaluation.model_dump(mode="json") for name, evaluation in evaluations})


def write_run(
    folder: Path,
    evaluations: Sequence[tuple[str, Evaluation, RunResult]],
    *,
    labels: Array | None,
    classes: tuple[str, ...] | None,
    manifest: Mapping[str, Any],
) -> tuple[Path, ...]:
    """Write the results of one run into ``folder`` and return the files, the manifest last.

    ``accuracy.csv``, ``result.json``, ``predictions.csv``, ``accuracy.svg`` and ``accuracy.png`` (without them if
    neither accuracy nor agreement is known), ``manifest.json``. All are made before the first is written, each is
    written whole, and the manifest comes last: a folder that holds one is complete.

    Parameters
    ----------
    folder
        Made if it is missing.
    evaluations
        (file stem, evaluation, the run it is of), at least one, all of the same N images.
    labels
        ``(N,)``, if known.
    classes
        Name of each class, if known.
    manifest
        From `manifest`; ``network`` and ``data`` go into the picture's title.

    Raises
    ------
    UsageError
        If two files have the same stem.
    DataError
        If ``classes`` are not as many as the network has.
    InputError
        If the folder cannot be written.
    """
    figures = [(name, evaluation) for name, evaluation, _ in evaluations]
    names = [name for name, _ in figures]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise UsageError(f"run: several files are called {', '.join(repeated)}; rename them, or run them one by one.")
    contents = {
        "accuracy.csv": _csv(
            _accuracy_row(name, evaluation, point) for name, evaluation in figures for point in evaluation.points
        ),
        "result.json": results_json(figures).encode(),
        "predictions.csv": _csv(
            row
            for name, evaluation, result in evaluations
            for row in _predictions(name, evaluation, result, labels, classes)
        ),
    }
    title = (
        f"{manifest.get('network', names[0])} on {manifest.get('data', 'images')}, {figures[0][1].image_count:,} images"
    )
    figure = accuracy_figure(figures, title)
    if figure is not None:
        contents |= {"accuracy.svg": _image(figure, "svg"), "accuracy.png": _image(figure, "png")}
    contents["manifest.json"] = _json(dict(manifest)).encode()
    _make_folder(folder)
    for name, content in contents.items():
        write_atomically(folder / name, content)
    return tuple(folder / name for name in contents)


def new_run_folder(root: Path, name: str) -> Path:
    """Make and return ``root/name-<UTC time>``, a folder that did not exist before.

    Raises
    ------
    InputError
        If it cannot be made.
    """
    _make_folder(root)
    stem = f"{name}-{datetime.now(timezone.utc):%Y%m%dT%H%M%SZ}"
    folder = root / stem
    count = 1
    while True:
        try:
            folder.mkdir()
        except FileExistsError:
            count += 1
            folder = root / f"{stem}-{count}"
        except OSError as error:
            raise _cannot_make(folder, error) from error
        else:
            return folder


def manifest(
    *,
    network: str,
    data: str,
    backend: str,
    files: Sequence[Path],
    command_line: Sequence[str],
    seed: int | None,
) -> dict[str, Any]:
    """Return what is needed to make a run again, as plain JSON values.

    Of every path only the name is kept: a run folder can be passed on without telling whose machine made it.

    Parameters
    ----------
    network, data, backend
        Names, as a reader knows them.
    files
        What was read: exported networks, models; their SHA-256 is kept.
    command_line
        ``sys.argv``.
    seed
        Of everything random, None where nothing was.
    """
    return {
        "network": network,
        "data": data,
        "backend": backend,
        "files": [{"name": path.name, "sha256": sha256(path)} for path in files],
        "command_line": [_without_folders(argument) for argument in command_line],
        "seed": seed,
        "utc_time": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "python": platform.python_version(),
        "packages": {name: _version(name) for name in VERSIONED_PACKAGES},
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
    }


def accuracy_figure(evaluations: Sequence[tuple[str, Evaluation]], title: str) -> Figure | None:
    """Return the picture of accuracy against latency: a curve for one file, a marker per file for several.

    Without labels the agreement with the CNN's classes takes the place of the accuracy; without either there is
    nothing to draw, and None is returned.
    """
    # The object API: pyplot would choose a window system, and keeps every figure alive.
    from matplotlib.figure import Figure

    anytime = len(evaluations) == 1
    if anytime:
        points = list(evaluations[0][1].points)
    else:
        points = sorted((evaluation.own_point for _, evaluation in evaluations), key=lambda point: point.timesteps)
    fixed = _curve("fixed point, 95 % interval", points, lambda point: (point.accuracy, point.accuracy_interval))
    real = _curve("float SNN", points, lambda point: (point.float_accuracy, None))
    cnn = sorted({100 * e.cnn_accuracy for _, e in evaluations if e.cnn_accuracy is not None})
    has_accuracy = fixed is not None
    fixed = fixed or _curve("fixed point", points, lambda point: (point.agreement_with_cnn, None))
    if fixed is None:
        return None
    views = _views(fixed, [*(real.percent if real else ()), *cnn])
    figure = Figure(figsize=(6.6 if len(views) == 1 else 10.4, 4.6), layout="constrained")
    panels = figure.subplots(1, len(views), squeeze=False)[0]
    lava = " or ".join(f"T + {depth}" for depth in sorted({evaluation.depth for _, evaluation in evaluations}))
    for axes, view in zip(panels, views, strict=True):
        _draw(axes, fixed, real, cnn, anytime=anytime)
        axes.set_ylim(view.bottom, view.top)
        axes.set_xlabel(f"latency T, time steps (on Lava: {lava})")
        _style(axes, [timesteps for timesteps in fixed.timesteps if timesteps >= view.first_timesteps])
    panels[0].set_ylabel("accuracy, %" if has_accuracy else "agreement with the CNN's class, %")
    # File names may hold a $, which would start mathematics.
    figure.suptitle(title, x=0.01, ha="left", fontsize=12, fontweight="bold", parse_math=False)
    balanced = f"thresholds balanced for T = {evaluations[0][1].timesteps}, read after each step of one run"
    per_t = "one file per T, each read at the T its thresholds are balanced for"
    panels[0].set_title(balanced if anytime else per_t, loc="left", fontsize=9)
    for axes in panels[1:]:
        axes.set_title("enlarged", loc="left", fontsize=9)
    handles, names = panels[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, frameon=False, fontsize=9)
    return figure


class _Row(NamedTuple):
    file: str
    evaluation: Evaluation
    point: Point


class _Column(NamedTuple):
    """A table's column: its header, with line breaks, and what stands in a row, None where that is unknown."""

    header: str
    cell: Callable[[_Row], str | None]


_COLUMNS: Final = (
    _Column("T", lambda row: str(row.point.timesteps)),
    _Column("T +\ndepth", lambda row: str(row.point.global_steps)),
    _Column("CNN\n%", lambda row: _percent(row.evaluation.cnn_accuracy)),
    _Column("float\nSNN %", lambda row: _percent(row.point.float_accuracy)),
    _Column("fixed\npoint %", lambda row: _percent(row.point.accuracy)),
    _Column("95 %\ninterval", lambda row: _percent_interval(row.point.accuracy_interval)),
    _Column("loss,\npoints", lambda row: _points(row.point.conversion_loss_points)),
    _Column("same as\nCNN %", lambda row: _percent(row.point.agreement_with_cnn)),
    _Column("spikes\n/image", lambda row: _count(row.point.spikes_per_image)),
    _Column("SynOps\n/image", lambda row: _count(row.point.synaptic_operations)),
)


def _new_table() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, title_justify="left", caption_justify="left")


def _table(columns: Sequence[_Column], rows: Sequence[_Row]) -> Table:
    from rich.text import Text

    table = _new_table()
    cells = {column.header: [column.cell(row) for row in rows] for column in columns}
    known = {header: texts for header, texts in cells.items() if any(text is not None for text in texts)}
    for header in known:
        table.add_column(header, justify="left" if header == "file" else "right", no_wrap=True)
    for texts in zip(*known.values(), strict=True):
        table.add_row(*(Text(text or "") for text in texts))
    return table


def _percent(fraction: float | None) -> str | None:
    return None if fraction is None else f"{100 * fraction:.2f}"


def _count(count: float) -> str:
    """A mean count in at most 6 characters: 12.3, 9,876, 98.8 k, 7.67 M."""
    if count < 100:
        return f"{count:.1f}"
    if count < 10_000:
        return f"{count:,.0f}"
    exponent = next(exponent for exponent in (3, 6, 9, 12) if count < 999.5 * 10**exponent or exponent == 12)
    scaled = count / 10**exponent
    decimals = 2 if scaled < 9.995 else 1 if scaled < 99.95 else 0
    return f"{scaled:.{decimals}f} {'kMGT'[exponent // 3 - 1]}"


def _percent_interval(interval: Interval | None) -> str | None:
    return None if interval is None else f"{100 * interval[0]:.2f}-{100 * interval[1]:.2f}"


def _points(loss: float | None) -> str | None:
    # The sum avoids "-0.00".
    return None if loss is None else f"{round(loss, 2) + 0.0:.2f}"


def _accuracy_row(name: str, evaluation: Evaluation, point: Point) -> dict[str, Any]:
    """One row of accuracy.csv: the fields of `Point` in its order, intervals and layers in columns of their own."""
    row: dict[str, Any] = {
        "file": name,
        "balanced_timesteps": evaluation.timesteps,
        "image_count": evaluation.image_count,
        "cnn_accuracy": evaluation.cnn_accuracy,
        **_interval_columns("cnn_accuracy", evaluation.cnn_accuracy_interval),
    }
    hidden = [layer.name for layer in evaluation.layers[:-1]]
    for field, value in point:
        if field.endswith("_interval"):
            row |= _interval_columns(field.removesuffix("_interval"), value)
        elif isinstance(value, tuple):
            row |= {f"{field.removesuffix('_per_layer')}_{layer}": x for layer, x in zip(hidden, value, strict=True)}
        else:
            row[field] = value
    return row


def _interval_columns(name: str, interval: Interval | None) -> dict[str, float | None]:
    low, high = interval or (None, None)
    return {f"{name}_low": low, f"{name}_high": high}


def _predictions(
    name: str, evaluation: Evaluation, result: RunResult, labels: Array | None, classes: tuple[str, ...] | None
) -> Iterable[dict[str, Any]]:
    """Rows of predictions.csv: one per image and reported T."""
    class_count = result.potentials.shape[2]
    if classes is not None and len(classes) != class_count:
        raise DataError(
            f"{name}: {class_count} classes, but {len(classes)} names of classes; give one for each, or none."
        )
    predictions = result.predictions
    for image, potentials in enumerate(result.potentials):
        for point in evaluation.points:
            predicted = int(predictions[image, point.timesteps - 1])
            row: dict[str, Any] = {"file": name, "image": image, "timesteps": point.timesteps, "class": predicted}
            if classes is not None:
                row["class_name"] = classes[predicted]
            if labels is not None:
                row["label"] = int(labels[image])
            values = potentials[point.timesteps - 1].tolist()
            row.update((f"potential_{index}", value) for index, value in enumerate(values))
            yield row


def _csv(rows: Iterable[Mapping[str, Any]]) -> bytes:
    """CSV with the columns of all rows, in order of appearance; None and a missing column are an empty cell."""
    rows = list(rows)
    columns = dict.fromkeys(itertools.chain.from_iterable(rows))
    text = io.StringIO()
    writer = csv.DictWriter(text, columns, restval="", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def _json(value: Any) -> str:
    return json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n"


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise _cannot_make(folder, error) from error


def _cannot_make(folder: Path, error: OSError) -> InputError:
    return InputError(f"{folder}: cannot be made ({error.strerror or error}). Choose another place with -o.")


def _without_folders(argument: str) -> str:
    """``--output=/home/me/a.net`` as ``--output=a.net``."""
    return re.sub(r"^(--[\w-]+=|-\w(?=/))?.*/(?=.)", r"\1", argument, flags=re.DOTALL)


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


class _Curve(NamedTuple):
    """What is drawn for one kind of network: per cent at each T, and where its interval ends, if it has one."""

    label: str
    timesteps: tuple[int, ...]
    percent: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]


def _curve(
    label: str, points: Sequence[Point], value: Callable[[Point], tuple[float | None, Interval | None]]
) -> _Curve | None:
    known = [(point.timesteps, fraction, interval) for point in points for fraction, interval in [value(point)]]
    drawn = [
        (t, 100 * fraction, interval or (fraction, fraction)) for t, fraction, interval in known if fraction is not None
    ]
    if not drawn:
        return None
    return _Curve(
        label,
        tuple(t for t, _, _ in drawn),
        tuple(percent for _, percent, _ in drawn),
        tuple(100 * low for _, _, (low, _) in drawn),
        tuple(100 * high for _, _, (_, high) in drawn),
    )


class _View(NamedTuple):
    """What a panel shows: from which T on, and the vertical range in per cent."""

    first_timesteps: int
    bottom: float
    top: float


def _views(fixed: _Curve, others: Sequence[float]) -> list[_View]:
    """One panel with everything; where that hides what happens near the best accuracy, a second one for it."""
    first = fixed.timesteps[0]
    lowest, highest = min([*fixed.low, *others]), max([*fixed.high, *others])
    if highest - lowest <= 20:
        return [_View(first, *_rounded_range(lowest, highest))]
    whole = _View(first, 0.0, 104.0)
    best = max([*fixed.percent, *others])
    near = [
        (timesteps, low)
        for timesteps, percent, low in zip(fixed.timesteps, fixed.percent, fixed.low, strict=True)
        if percent >= best - 2
    ]
    if len(near) < 2:
        return [whole]
    bottom = min([*(low for _, low in near), *(value for value in others if value >= best - 2)])
    return [whole, _View(near[0][0], *_rounded_range(bottom, highest))]


def _rounded_range(low: float, high: float) -> tuple[float, float]:
    span = max(high - low, 0.5)
    step = 0.1 if span <= 1 else 0.5 if span <= 6 else 1.0
    bottom = max(0.0, (low - 0.08 * span) // step * step)
    # A curve at 100 % still needs room for its markers.
    return bottom, min(high + 0.08 * span, 100 + 0.04 * (100 - bottom))


def _draw(axes: Axes, fixed: _Curve, real: _Curve | None, cnn: Sequence[float], *, anytime: bool) -> None:
    for index, percent in enumerate(cnn):
        label = f"CNN, {percent:.2f} %" if len(cnn) == 1 else "CNN" if index == 0 else None
        axes.axhline(percent, color=_CNN_COLOUR, linewidth=1.2, label=label, zorder=1)
    if real is not None:
        axes.plot(
            real.timesteps,
            real.percent,
            color=_FLOAT_COLOUR,
            linestyle="--" if anytime else "none",
            linewidth=1.6,
            marker="D",
            markersize=8,
            markerfacecolor="none",
            label=real.label,
            zorder=3,
        )
    below = [value - low for value, low in zip(fixed.percent, fixed.low, strict=True)]
    above = [high - value for value, high in zip(fixed.percent, fixed.high, strict=True)]
    if anytime:
        axes.fill_between(
            fixed.timesteps, fixed.low, fixed.high, color=_FIXED_COLOUR, alpha=0.18, linewidth=0, zorder=2
        )
    else:
        axes.errorbar(
            fixed.timesteps, fixed.percent, [below, above], fmt="none", ecolor=_FIXED_COLOUR, capsize=3, zorder=4
        )
    axes.plot(
        fixed.timesteps,
        fixed.percent,
        color=_FIXED_COLOUR,
        linestyle="-" if anytime else "none",
        linewidth=2,
        marker="o",
        markersize=5,
        label=fixed.label,
        zorder=5,
    )


def _style(axes: Axes, timesteps: Sequence[int]) -> None:
    from matplotlib.ticker import FixedLocator, NullLocator

    axes.set_xscale("log", base=2)
    axes.set_xlim(min(timesteps) / 1.2, max(timesteps) * 1.2)
    ascending = sorted(set(timesteps))
    # Of two labels that would touch, the larger T keeps its own.
    following = [*ascending[1:], 2 * ascending[-1]]
    ticks = [timestep for timestep, after in zip(ascending, following, strict=True) if after >= 1.25 * timestep]
    axes.xaxis.set_major_locator(FixedLocator(ticks))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticklabels([str(tick) for tick in ticks])
    axes.grid(axis="y", color="#DDDDDD", linewidth=0.7)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)


def _image(figure: Figure, kind: str) -> bytes:
    """The figure as PNG or SVG, the same bytes for the same figure: no date, no random identifiers."""
    import matplotlib

    image = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "loihi-convert"}):
        figure.savefig(image, format=kind, dpi=160, metadata={"Date": None} if kind == "svg" else None)
    return image.getvalue()
