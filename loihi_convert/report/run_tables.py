"""What a run measured, as tables: accuracy, layers, early exit, energy.

Two kinds of accuracy, never mixed. *Anytime*: one file, thresholds balanced for its T, its output read after each step
of one run. *Per T*: several files, each with one row, at the T it was balanced for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Final, NamedTuple

from loihi_convert.chip import limits
from loihi_convert.chip.energy import Energy, Estimate
from loihi_convert.metrics.early_exit import EarlyExit, MarginChoice
from loihi_convert.metrics.evaluation import Evaluation, LayerSize, Point
from loihi_convert.report.formats import count, percent, percent_interval, points, quantity_range
from loihi_convert.report.table import Column, Table, table_of
from loihi_convert.runs.stored_run import ChannelThresholds

Figures = Sequence[tuple[str, Evaluation]]
"""Files by name, and what was measured of each."""


class PointRow(NamedTuple):
    """One file at one T; ``file`` and ``data`` are None where the table is about one of them."""

    evaluation: Evaluation
    point: Point
    file: str | None = None
    data: str | None = None


FILE: Final = Column[PointRow]("file", lambda row: row.file, is_text=True)
DATA: Final = Column[PointRow]("data", lambda row: row.data, is_text=True)
IMAGES: Final = Column[PointRow]("images", lambda row: f"{row.evaluation.image_count:,}")
POINT_COLUMNS: Final = (
    Column[PointRow]("T", lambda row: str(row.point.timesteps)),
    Column[PointRow]("T +\ndepth", lambda row: str(row.point.global_steps)),
    Column[PointRow]("CNN\n%", lambda row: percent(row.evaluation.cnn_accuracy)),
    Column[PointRow]("float\nSNN %", lambda row: percent(row.point.float_accuracy)),
    Column[PointRow]("fixed\npoint %", lambda row: percent(row.point.accuracy)),
    Column[PointRow]("95 %\ninterval", lambda row: percent_interval(row.point.accuracy_interval)),
    Column[PointRow]("loss,\npoints", lambda row: points(row.point.conversion_loss_points)),
    Column[PointRow]("same as\nCNN %", lambda row: percent(row.point.agreement_with_cnn)),
    Column[PointRow]("spikes\n/image", lambda row: count(row.point.spikes_per_image)),
    Column[PointRow]("SynOps\n/image", lambda row: count(row.point.synaptic_operations)),
)


def accuracy_table(evaluation: Evaluation) -> Table:
    """Return the anytime table of one file, one row per reported T."""
    return table_of(
        POINT_COLUMNS,
        [PointRow(evaluation, point) for point in evaluation.points],
        title=(
            f"{evaluation.image_count:,} images in {evaluation.seconds:.1f} s "
            f"({evaluation.images_per_second:,.0f} images/s, {evaluation.startup_seconds:.1f} s to start)"
        ),
        caption="\n".join(_accuracy_caption(evaluation)),
    )


def _accuracy_caption(evaluation: Evaluation) -> Iterable[str]:
    read = {"potential": "potentials", "spikes": "spike counts"}[evaluation.readout]
    yield f"thresholds balanced for T = {evaluation.timesteps}, anytime readout: {read} after each step of one run"
    if evaluation.saturated_images:
        yield (
            f"{evaluation.saturated_images:,} images reached an output potential of "
            f"\N{PLUS-MINUS SIGN}{limits.POTENTIAL_LIMIT}, the end of Loihi's range"
        )


def per_t_table(figures: Figures) -> Table:
    """Return the per-T table: each file one row, at its `Evaluation.nominal_point`."""
    rows = [PointRow(evaluation, evaluation.nominal_point, file=name) for name, evaluation in figures]
    return table_of((FILE, *POINT_COLUMNS), rows, caption=per_t_caption(evaluation for _, evaluation in figures))


def per_t_caption(evaluations: Iterable[Evaluation]) -> str:
    """Return in words at which T the figures of several files stand: that of their `Evaluation.nominal_point`."""
    caption = "one file per T, each read at the T its thresholds are balanced for"
    is_complete = all(evaluation.nominal_point.timesteps == evaluation.timesteps for evaluation in evaluations)
    return caption if is_complete else f"{caption}, or the last T of its run"


class _LayerRow(NamedTuple):
    layer: LayerSize
    firing_rate: float | None
    reached: float | None
    rates: Sequence[float] | None
    thresholds: ChannelThresholds | None
    only_integrates: bool


_LAYER_COLUMNS: Final = (
    Column[_LayerRow]("layer", lambda row: row.layer.name, is_text=True),
    Column[_LayerRow]("neurons", lambda row: f"{row.layer.neuron_count:,}"),
    Column[_LayerRow]("firing\nrate %", lambda row: percent(row.firing_rate)),
    Column[_LayerRow]("of channels\n%", lambda row: _range(row.rates, percent)),
    Column[_LayerRow](
        "silent\nchannels", lambda row: None if row.rates is None else str(sum(rate == 0 for rate in row.rates))
    ),
    Column[_LayerRow]("thresholds,\nintegers", lambda row: _threshold_range(row)),
    Column[_LayerRow]("SynOps\n/image", lambda row: None if row.reached is None else f"{row.reached:,.0f}"),
    Column[_LayerRow]("CNN's MACs\n/image", lambda row: f"{row.layer.multiply_accumulates:,}"),
)


def layer_table(
    evaluation: Evaluation,
    point: Point | None = None,
    *,
    rates: Callable[[str], Sequence[float] | None] = lambda layer: None,
    thresholds: Callable[[str], ChannelThresholds | None] = lambda layer: None,
) -> Table:
    """Return firing rates, thresholds and work per layer at ``point``, by default the last T.

    ``rates`` and ``thresholds`` give what is known of the channels of a layer, by its name.
    """
    point = evaluation.points[-1] if point is None else point
    known = {layer.name: thresholds(layer.name) for layer in evaluation.layers}
    rows = []
    for index, layer in enumerate(evaluation.layers):
        spikes = index < len(point.firing_rate)
        # The last layer has no synapse after it; where it only integrates, it has no firing rate either.
        reached = point.synaptic_operations_per_layer[index - 1 : index] if index else ()
        rows.append(
            _LayerRow(
                layer=layer,
                firing_rate=point.firing_rate[index] if spikes else None,
                reached=reached[0] if reached else None,
                rates=rates(layer.name),
                thresholds=known[layer.name],
                only_integrates=not spikes and any(known.values()),
            )
        )
    caption = (
        f"at T = {point.timesteps}; SynOps: synapses of the layer reached by the spikes of the one before it. "
        "The first layer receives pixels at every step, or Poisson spikes"
    )
    return table_of(_LAYER_COLUMNS, rows, caption=caption)


def _threshold_range(row: _LayerRow) -> str | None:
    if row.thresholds is None:
        return "only integrates" if row.only_integrates else None
    return _range(row.thresholds.integers, "{:,}".format)


def _range(values: Sequence[float] | None, text: Callable[[float], str | None]) -> str | None:
    if not values:
        return None
    low, high = text(min(values)) or "", text(max(values)) or ""
    return low if low == high else f"{low}..{high}"


_ExitRow = tuple[str | None, EarlyExit]

_EXIT_COLUMNS: Final = (
    Column[_ExitRow]("file", lambda row: row[0], is_text=True),
    Column[_ExitRow]("T", lambda row: str(row[1].choice.timesteps)),
    Column[_ExitRow]("margin", lambda row: f"{row[1].choice.margin:,}"),
    Column[_ExitRow]("average\nT", lambda row: f"{row[1].chosen_point.average_timesteps:.2f}"),
    Column[_ExitRow](
        "half, 95 %\nstop by T",
        lambda row: f"{row[1].chosen_point.median_timesteps}, {row[1].chosen_point.percentile_95_timesteps}",
    ),
    Column[_ExitRow]("at T\n%", lambda row: percent(row[1].points[-1].accuracy)),
    Column[_ExitRow]("early\n%", lambda row: percent(row[1].chosen_point.accuracy)),
    Column[_ExitRow]("95 %\ninterval", lambda row: percent_interval(row[1].chosen_point.accuracy_interval)),
    Column[_ExitRow]("same as\nat T %", lambda row: percent(row[1].chosen_point.agreement_with_last)),
    Column[_ExitRow]("SynOps\nsaved %", lambda row: percent(row[1].synaptic_operations_saved)),
)


def early_exit_table(figures: Figures) -> Table | None:
    """Return what stopping early gives, one row per file that has an `EarlyExit`, or None where none has."""
    known = [(name, evaluation.early_exit) for name, evaluation in figures if evaluation.early_exit is not None]
    if not known:
        return None
    rows = [(name if len(figures) > 1 else None, early_exit) for name, early_exit in known]
    return table_of(
        _EXIT_COLUMNS,
        rows,
        title="early exit",
        caption=(
            "stop once the first class leads the second by the margin; margin: the smallest that costs at most "
            f"{margin_cost(known[0][1].choice)}. On Lava the depth is added to each T"
        ),
    )


def margin_cost(choice: MarginChoice) -> str:
    """Return what a margin may cost, and on which images: "0.1 points of accuracy on 2,000 validation images"."""
    measure = "points of accuracy" if choice.by_labels else "% of the classes after T"
    return f"{choice.tolerance_points:g} {measure} on {choice.image_count:,} {choice.split} images"


class EnergyRow(NamedTuple):
    """One file's estimate at one T; ``file`` is None where the table is about one file."""

    energy: Energy
    estimate: Estimate
    file: str | None = None


_SPIKES: Final = Column[EnergyRow]("spikes\n/image", lambda row: count(row.estimate.spikes))
_CNN: Final = Column[EnergyRow](
    "the CNN's\narithmetic", lambda row: quantity_range(row.energy.cnn_arithmetic_joules, "J")
)
ENERGY_COLUMNS: Final = (
    Column[EnergyRow]("file", lambda row: row.file, is_text=True),
    Column[EnergyRow]("T", lambda row: str(row.estimate.timesteps)),
    Column[EnergyRow]("SynOps\n/image", lambda row: count(row.estimate.synaptic_operations)),
    Column[EnergyRow]("membrane\nupdates", lambda row: count(row.estimate.membrane_updates)),
    _SPIKES,
    Column[EnergyRow]("Loihi 1,\nenergy", lambda row: quantity_range(row.estimate.loihi1_joules, "J")),
    Column[EnergyRow]("Loihi 1,\ntime", lambda row: quantity_range(row.estimate.loihi1_seconds, "s")),
    Column[EnergyRow]("arithmetic,\n45 nm", lambda row: quantity_range(row.estimate.arithmetic_joules, "J")),
    _CNN,
)


def energy_table(figures: Figures) -> Table | None:
    """Return what an inference is estimated to take, or None where no evaluation has an estimate.

    For one file, a row per reported T; for several, one row each, at the T its thresholds are for. Two of
    `ENERGY_COLUMNS` are left out, so that the table fits 80 columns.
    """
    known = [(name, evaluation, evaluation.energy) for name, evaluation in figures if evaluation.energy is not None]
    if not known:
        return None
    rows = [
        EnergyRow(energy, one, name if len(figures) > 1 else None)
        for name, evaluation, energy in known
        for one in energy.estimates
        if len(figures) == 1 or one.timesteps == evaluation.nominal_point.timesteps
    ]
    # Weights that are rounded to 0 differ between files.
    low, high = zip(*(energy.cnn_arithmetic_joules for _, _, energy in known), strict=True)
    boundaries = dict.fromkeys(energy.boundary for _, _, energy in known)
    return table_of(
        [column for column in ENERGY_COLUMNS if column not in (_SPIKES, _CNN)],
        rows,
        title="energy and time of an inference, estimated",
        caption=f"{' '.join(boundaries)} The CNN: {quantity_range((min(low), max(high)), 'J')}",
    )
