"""Evaluations, accounts and diagnoses as tables for the terminal.

Two kinds of accuracy, never mixed. *Anytime*: one file, thresholds balanced for its T, its output read after each step
of one run. *Per T*: several files, each with one row, at the T it was balanced for.
"""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Final, NamedTuple

from loihi_convert.chip import limits
from loihi_convert.metrics.advice import CAUSES
from loihi_convert.metrics.early_exit import EarlyExit
from loihi_convert.metrics.evaluation import Evaluation, Point, per_t_caption
from loihi_convert.report.formats import count, percent, percent_interval, points, quantity_range

if TYPE_CHECKING:
    from rich.table import Table

    from loihi_convert.chip.resources import Chips
    from loihi_convert.conversion.quantization_report import QuantizationReport
    from loihi_convert.metrics.diagnosis import Diagnosis, LayerError


def accuracy_table(evaluation: Evaluation) -> Table:
    """Return the anytime table of one file for the terminal, one row per reported T; unknown columns are left out."""
    table = _table(_COLUMNS, [_Row("", evaluation, point) for point in evaluation.points])
    table.title = (
        f"{evaluation.image_count:,} images in {evaluation.seconds:.1f} s "
        f"({evaluation.images_per_second:,.0f} images/s, {evaluation.startup_seconds:.1f} s to start)"
    )
    read = {"potential": "potentials", "spikes": "spike counts"}[evaluation.readout]
    table.caption = (
        f"thresholds balanced for T = {evaluation.timesteps}, anytime readout: {read} after each step of one run"
    )
    if evaluation.saturated_images:
        table.caption += (
            f"\n{evaluation.saturated_images:,} images reached an output potential of "
            f"\N{PLUS-MINUS SIGN}{limits.POTENTIAL_LIMIT}, the end of Loihi's range"
        )
    return table


def layer_table(evaluation: Evaluation) -> Table:
    """Return firing rates and work per layer at the last T for the terminal."""
    from rich.text import Text

    point = evaluation.points[-1]
    table = _new_table()
    for header in ("layer", "neurons", "firing\nrate %", "SynOps\n/image", "CNN's MACs\n/image"):
        table.add_column(header, justify="left" if header == "layer" else "right", no_wrap=True)
    rates = [percent(rate) or "" for rate in point.firing_rate]
    reached = [f"{operations:,.0f}" for operations in point.synaptic_operations_per_layer]
    # Behind the last layer is no synapse; where it only integrates, it has no firing rate either.
    columns = (itertools.chain(rates, [""]), ["", *reached])
    for layer, rate, operations in zip(evaluation.layers, *columns, strict=False):
        table.add_row(Text(layer.name), f"{layer.neuron_count:,}", rate, operations, f"{layer.multiply_accumulates:,}")
    table.caption = (
        f"at T = {point.timesteps}; SynOps: synapses of the layer reached by the spikes of the one before it. "
        "The first layer receives pixels at every step, or Poisson spikes"
    )
    return table


def per_t_table(evaluations: Sequence[tuple[str, Evaluation]]) -> Table:
    """Return the per-T table for the terminal: each (file, evaluation) one row, at its `Evaluation.nominal_point`."""
    rows = [_Row(name, evaluation, evaluation.nominal_point) for name, evaluation in evaluations]
    table = _table((_Column("file", lambda row: row.file), *_COLUMNS), rows)
    table.caption = per_t_caption(evaluation for _, evaluation in evaluations)
    return table


def early_exit_table(evaluations: Sequence[tuple[str, Evaluation]]) -> Table | None:
    """Return what stopping early gives, one row per file that has an `EarlyExit`, or None where none has."""
    known = [(name, evaluation.early_exit) for name, evaluation in evaluations if evaluation.early_exit is not None]
    if not known:
        return None
    rows = [_early_exit_cells(name if len(evaluations) > 1 else None, early_exit) for name, early_exit in known]
    table = _filled({header: [row[header] for row in rows] for header in rows[0]})
    table.title = "early exit"
    choices = [early_exit.choice for _, early_exit in known]
    measure = "points of accuracy" if choices[0].by_labels else "% of the classes after T"
    table.caption = (
        "stop once the first class leads the second by the margin; margin: the smallest that costs at most "
        f"{choices[0].tolerance_points:g} {measure} on {choices[0].image_count:,} {choices[0].split} images. On Lava "
        "the depth is added to each T"
    )
    return table


def energy_table(evaluations: Sequence[tuple[str, Evaluation]]) -> Table | None:
    """Return what an inference is estimated to take, or None where no evaluation has an estimate.

    Of one file a row per reported T; of several one row each, at the T its thresholds are for.
    """
    known = [(name, evaluation, evaluation.energy) for name, evaluation in evaluations if evaluation.energy is not None]
    if not known:
        return None
    rows = [
        {
            "file": name if len(evaluations) > 1 else None,
            "T": str(one.timesteps),
            "SynOps\n/image": count(one.synaptic_operations),
            "membrane\nupdates": count(one.membrane_updates),
            "Loihi 1,\nenergy": quantity_range(one.loihi1_joules, "J"),
            "Loihi 1,\ntime": quantity_range(one.loihi1_seconds, "s"),
            "arithmetic,\n45 nm": quantity_range(one.arithmetic_joules, "J"),
        }
        for name, evaluation, energy in known
        for one in energy.estimates
        if len(evaluations) == 1 or one.timesteps == evaluation.nominal_point.timesteps
    ]
    table = _filled({header: [row[header] for row in rows] for header in rows[0]})
    table.title = "energy and time of an inference, estimated"
    # Rounding to 0 takes other weights from each file.
    low, high = zip(*(energy.cnn_arithmetic_joules for _, _, energy in known), strict=True)
    boundaries = dict.fromkeys(energy.boundary for _, _, energy in known)
    table.caption = f"{' '.join(boundaries)} The CNN: {quantity_range((min(low), max(high)), 'J')}"
    return table


def quantization_table(account: QuantizationReport) -> Table:
    """Return the bits, thresholds and clipping of each layer of an exported network for the terminal.

    For target loihi2 also what its grid changed in thresholds, and what keeps u from wrapping.
    """
    from rich.text import Text

    table, is_chip = _new_table(), account.target == "loihi2"
    headers = [
        "layer",
        "weight bits\nleast..most",
        "weights\noff by",
        "thresholds",
        *(["thresholds\noff by"] if is_chip else []),
        "dead\nchannels",
        f"images {'wrapped' if is_chip else 'clipped'}\nlow / high",
        *(["u cannot wrap:"] if is_chip else []),
    ]
    for header in headers:
        table.add_column(header, justify="left" if header == "layer" else "right", no_wrap=True)
    for layer in account.layers:
        low, _, high = layer.weight_bits
        range_ = f"held on {account.image_count:,} images"
        if layer.is_proven or layer.low_clipped or layer.high_clipped:
            range_ = "proven" if layer.is_proven else "not held"
        table.add_row(
            Text(layer.name),
            f"{low}..{high}" if low < high else f"{high}",
            f"{100 * layer.weight_error:.2g} %",
            "only integrates" if layer.thresholds is None else "..".join(map(str, dict.fromkeys(layer.thresholds))),
            *([f"{100 * layer.threshold_error:.2g} %" if layer.thresholds else ""] if is_chip else []),
            str(len(layer.dead_channels)) if layer.dead_channels else "",
            f"{layer.low_clipped:,} / {layer.high_clipped:,}",
            *([range_] if is_chip else []),
        )
    if is_chip:
        table.caption = (
            f"target loihi2, pixels of {account.pixel_bits} bits, T = {account.timesteps}: proven for any image, or "
            "held in range, with headroom, on the calibration images"
        )
        return table
    table.caption = (
        f"clipping in {account.timesteps} steps of {account.image_count:,} calibration images; low is harmless in the "
        f"first layer. Output potentials are proven to fit for T <= {account.max_timesteps:,}"
    )
    return table


def resource_table(chips: Chips) -> Table:
    """Return what each layer of a network takes on Loihi 2 for the terminal."""
    from rich.text import Text

    table = _new_table()
    headers = ("layer", "neurons", "fan-in", "fan-out", "synapses", "weights\nin file", "memory KiB", "neurocores")
    for header in headers:
        table.add_column(header, justify="left" if header == "layer" else "right", no_wrap=True)
    for layer in chips.layers:
        table.add_row(
            Text(layer.name),
            f"{layer.neurons:,}",
            f"{layer.fan_in:,}",
            f"{layer.fan_out:,}" if layer.fan_out else "",
            f"{layer.synapses:,}",
            f"{layer.weights:,}",
            f"{layer.shared_bytes / 1024:,.0f} .. {layer.expanded_bytes / 1024:,.0f}",
            f"{layer.shared_cores:,} .. {layer.expanded_cores:,}",
        )
    table.caption = (
        f"{chips.shared_cores:,} .. {chips.expanded_cores:,} of {chips.cores:,} neurocores, an estimate: "
        f"{chips.boundary}"
    )
    return table


def stage_table(diagnosis: Diagnosis) -> Table:
    """Return the networks from the CNN to the file for the terminal, and what each loses against the one before it."""
    from rich.text import Text

    table = _new_table()
    headers = (
        "changed, one thing after the other",
        "accuracy\n%",
        "same as\nCNN %",
        "loss,\npoints",
        "output's\ncorrelation",
    )
    known = [header for header in headers if diagnosis.measure == "accuracy" or not header.startswith("accuracy")]
    for header in known:
        table.add_column(header, justify="left" if header == headers[0] else "right", no_wrap=True)
    for stage in diagnosis.stages:
        cells = (
            "(the CNN)" if stage.cause is None else CAUSES[stage.cause],
            percent(stage.accuracy),
            percent(stage.agreement_with_cnn),
            None if stage.cause is None else points(stage.loss_points),
            _correlation(stage.layers[-1]) if stage.layers else None,
        )
        table.add_row(*(Text(cell or "") for header, cell in zip(headers, cells, strict=True) if header in known))
    table.add_section()
    table.add_row(*(["in all"] + [""] * (len(known) - 3) + [points(diagnosis.loss_points) or "", ""]))
    table.caption = f"at T = {diagnosis.timesteps}; a negative loss is a gain. The last network is the file"
    return table


def divergence_table(diagnosis: Diagnosis) -> Table:
    """Return how far each layer is from the CNN at the main stages for the terminal, and what it loses."""
    from rich.text import Text

    spikes = [stage for stage in diagnosis.stages if stage.cause in ("timing", "input", "correction", "reset")]
    counts = [stage for stage in diagnosis.stages if stage.cause in ("levels", "initial_potential")]
    shown = (
        ("clipped", diagnosis.stages[1]),
        ("spike\ncounts", counts[-1]),
        ("float\nSNN", spikes[-1]),
        ("file", diagnosis.stages[-1]),
    )
    table = _new_table()
    headers = (
        "layer",
        *(name for name, _ in shown),
        "error\n%",
        "loss,\npoints",
        "threshold /\nlargest",
        "cut off\n%",
        "weight\nbits",
    )
    for header in headers:
        table.add_column(header, justify="left" if header == "layer" else "right", no_wrap=True)
    for index, layer in enumerate(diagnosis.layers):
        cells = (
            layer.name,
            *(_correlation(stage.layers[index]) for _, stage in shown),
            percent(diagnosis.stages[-1].layers[index].relative_error),
            points(layer.loss_points),
            None if layer.threshold_to_largest is None else f"{layer.threshold_to_largest:.2f}",
            percent(layer.share_above_threshold),
            str(layer.weight_bits),
        )
        table.add_row(*(Text(cell or "") for cell in cells))
    table.caption = (
        "correlation with the CNN's activations, and the file's mean squared error over their mean square; loss: what "
        "the CNN gets wrong when it goes on from this layer of the file, less the same for the layer before. Threshold "
        "and cut off: beside the CNN's largest activation, and of its positive ones"
    )
    return table


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
    _Column("CNN\n%", lambda row: percent(row.evaluation.cnn_accuracy)),
    _Column("float\nSNN %", lambda row: percent(row.point.float_accuracy)),
    _Column("fixed\npoint %", lambda row: percent(row.point.accuracy)),
    _Column("95 %\ninterval", lambda row: percent_interval(row.point.accuracy_interval)),
    _Column("loss,\npoints", lambda row: points(row.point.conversion_loss_points)),
    _Column("same as\nCNN %", lambda row: percent(row.point.agreement_with_cnn)),
    _Column("spikes\n/image", lambda row: count(row.point.spikes_per_image)),
    _Column("SynOps\n/image", lambda row: count(row.point.synaptic_operations)),
)


def _early_exit_cells(file: str | None, early_exit: EarlyExit) -> dict[str, str | None]:
    """A row of the early-exit table by header, with line breaks; None where a cell is unknown."""
    point, last = early_exit.chosen_point, early_exit.points[-1]
    return {
        "file": file,
        "T": str(early_exit.choice.timesteps),
        "margin": f"{early_exit.choice.margin:,}",
        "average\nT": f"{point.average_timesteps:.2f}",
        "half, 95 %\nstop by T": f"{point.median_timesteps}, {point.percentile_95_timesteps}",
        "at T\n%": percent(last.accuracy),
        "early\n%": percent(point.accuracy),
        "95 %\ninterval": percent_interval(point.accuracy_interval),
        "same as\nat T %": percent(point.agreement_with_last),
        "SynOps\nsaved %": percent(early_exit.synaptic_operations_saved),
    }


def _new_table() -> Table:
    from rich import box
    from rich.table import Table

    return Table(box=box.SIMPLE_HEAD, pad_edge=False, padding=0, title_justify="left", caption_justify="left")


def _table(columns: Sequence[_Column], rows: Sequence[_Row]) -> Table:
    return _filled({column.header: [column.cell(row) for row in rows] for column in columns})


def _filled(cells: Mapping[str, Sequence[str | None]]) -> Table:
    """A table with the columns, by header, of which anything is known."""
    from rich.text import Text

    table = _new_table()
    known = {header: texts for header, texts in cells.items() if any(text is not None for text in texts)}
    for header in known:
        table.add_column(header, justify="left" if header == "file" else "right", no_wrap=True)
    for texts in zip(*known.values(), strict=True):
        table.add_row(*(Text(text or "") for text in texts))
    return table


def _correlation(error: LayerError) -> str | None:
    return None if error.correlation is None else f"{error.correlation:.3f}"
