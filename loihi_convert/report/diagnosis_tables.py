"""Where the accuracy went, as tables: by cause and by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loihi_convert.metrics.advice import CAUSES
from loihi_convert.report.formats import percent, points
from loihi_convert.report.table import Column, Table, table_of

if TYPE_CHECKING:
    from loihi_convert.metrics.diagnosis import Diagnosis, DiagnosisStep, LayerError, LayerLoss


def cause_table(diagnosis: Diagnosis) -> Table:
    """Return the networks from the CNN to the file, and what each loses against the one before it."""
    columns: list[Column[DiagnosisStep | None]] = [
        Column("changed, one thing after the other", _change, is_text=True),
        Column("accuracy\n%", lambda step: None if step is None else percent(step.accuracy)),
        Column("same as\nCNN %", lambda step: None if step is None else percent(step.agreement_with_cnn)),
        Column("loss,\npoints", lambda step: points(diagnosis.loss_points) if step is None else _loss(step)),
        Column("output's\ncorrelation", lambda step: _correlation(step.layers[-1]) if step and step.layers else None),
    ]
    caption = f"at T = {diagnosis.timesteps}; a negative loss is a gain. The last network is the file"
    # None: the whole.
    return table_of(columns, [*diagnosis.stages, None], caption=caption, has_total=True)


def _change(step: DiagnosisStep | None) -> str:
    if step is None:
        return "in all"
    return "(the CNN)" if step.cause is None else CAUSES[step.cause]


def _loss(step: DiagnosisStep) -> str | None:
    return None if step.cause is None else points(step.loss_points)


def divergence_table(diagnosis: Diagnosis) -> Table:
    """Return how far each layer is from the CNN at the main steps, and what it loses."""
    counts = [step for step in diagnosis.stages if step.cause in ("levels", "initial_potential")]
    spikes = [step for step in diagnosis.stages if step.cause in ("timing", "input", "correction", "reset")]
    file = diagnosis.stages[-1]

    def correlation(header: str, step: DiagnosisStep) -> Column[tuple[int, LayerLoss]]:
        return Column(header, lambda row: _correlation(step.layers[row[0]]) or "")

    columns: list[Column[tuple[int, LayerLoss]]] = [
        Column("layer", lambda row: row[1].name, is_text=True),
        correlation("clipped", diagnosis.stages[1]),
        correlation("spike\ncounts", counts[-1]),
        correlation("float\nSNN", spikes[-1]),
        correlation("file", file),
        Column("error\n%", lambda row: percent(file.layers[row[0]].relative_error)),
        Column("loss,\npoints", lambda row: points(row[1].loss_points)),
        Column("threshold /\nlargest", lambda row: _ratio(row[1].threshold_to_largest)),
        Column("cut off\n%", lambda row: percent(row[1].share_above_threshold)),
        Column("weight\nbits", lambda row: str(row[1].weight_bits)),
    ]
    caption = (
        "clipped, spike counts, float SNN, file: correlation with the CNN's activations. Error: the file's mean "
        "squared error over the CNN's mean square. Loss: points that the CNN loses when it goes on from this layer "
        "of the file, minus those for the layer before. Threshold / largest: threshold over the CNN's largest "
        "activation. Cut off: the CNN's positive activations above the threshold"
    )
    return table_of(columns, list(enumerate(diagnosis.layers)), caption=caption)


def _ratio(ratio: float | None) -> str | None:
    return None if ratio is None else f"{ratio:.2f}"


def _correlation(error: LayerError) -> str | None:
    return None if error.correlation is None else f"{error.correlation:.3f}"
