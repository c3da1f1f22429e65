"""Tables of the accuracy loss, by cause and by layer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from loihi_convert.metrics.advice import CAUSES
from loihi_convert.report.formats import percent, points
from loihi_convert.report.table import Table, table_of

if TYPE_CHECKING:
    from loihi_convert.metrics.activation_errors import LayerError
    from loihi_convert.metrics.diagnosis import Diagnosis


_CHANGED: Final = "changed, one step at a time"


def cause_table(diagnosis: Diagnosis) -> Table:
    """Return the networks from the CNN to the file, with the loss of each relative to the previous one."""
    rows = [
        {
            _CHANGED: "(the CNN)" if step.cause is None else CAUSES[step.cause],
            "accuracy\n%": percent(step.accuracy),
            "same as\nCNN %": percent(step.agreement_with_cnn),
            "loss,\npoints": None if step.cause is None else points(step.loss_points),
            "output's\ncorrelation": _correlation(step.layers[-1]) if step.layers else None,
        }
        for step in diagnosis.stages
    ]
    rows.append({**dict.fromkeys(rows[0]), _CHANGED: "in all", "loss,\npoints": points(diagnosis.loss_points)})
    caption = f"at T = {diagnosis.timesteps}; a negative loss is a gain. The last network is the file"
    return table_of(rows, words=(_CHANGED,), caption=caption, has_total=True)


def divergence_table(diagnosis: Diagnosis) -> Table:
    """Return the deviation of each layer from the CNN at the main steps, and its loss."""
    counts = [step for step in diagnosis.stages if step.cause in ("levels", "initial_potential")]
    spikes = [step for step in diagnosis.stages if step.cause in ("timing", "input", "correction", "reset")]
    clipped, file = diagnosis.stages[1], diagnosis.stages[-1]
    rows = [
        {
            "layer": layer.name,
            "clipped": _correlation(clipped.layers[index]) or "",
            "spike\ncounts": _correlation(counts[-1].layers[index]) or "",
            "float\nSNN": _correlation(spikes[-1].layers[index]) or "",
            "file": _correlation(file.layers[index]) or "",
            "error\n%": percent(file.layers[index].relative_error),
            "loss,\npoints": points(layer.loss_points),
            "threshold /\nlargest": (
                None if layer.threshold_to_largest is None else f"{layer.threshold_to_largest:.2f}"
            ),
            "cut off\n%": percent(layer.share_above_threshold),
            "weight\nbits": None if layer.weight_bits is None else str(layer.weight_bits),
        }
        for index, layer in enumerate(diagnosis.layers)
    ]
    caption = (
        "clipped, spike counts, float SNN, file: correlation with the CNN's activations. Error: the file's mean "
        "squared error over the CNN's mean square. Loss: points that the CNN loses when it continues from this layer "
        "of the file, minus those for the layer before. Threshold / largest: threshold over the CNN's largest "
        "activation. Cut off: the CNN's positive activations above the threshold"
    )
    return table_of(rows, words=("layer",), caption=caption)


def _correlation(error: LayerError) -> str | None:
    return None if error.correlation is None else f"{error.correlation:.3f}"
