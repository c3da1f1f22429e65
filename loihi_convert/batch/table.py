"""The cells of a sweep as CSV, with every option and figure, and as rows for the terminal."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from typing import Any, Final

from loihi_convert.batch.computation import Outcome
from loihi_convert.batch.grid import PlannedCell

CSV_NAME: Final = "sweep.csv"

_TITLES: Final = {
    "timesteps": "T",
    "method": "balance",
    "initial_potential": "initial potential",
    "input_coding": "input",
    "poisson_seed": "seed",
    "bias_correction": "correction",
    "weight_bits": "weight bits",
    "pixel_bits": "pixel bits",
    "split_readout": "split readout",
    "skip_copies": "skip copies",
}


def row(planned: PlannedCell, outcome: Outcome | None, *, is_on_front: bool) -> dict[str, Any]:
    """Return a cell as JSON values: its name, where it comes from, its options, its figures, its error."""
    found = None if outcome is None else outcome.result

    def figures(*names: str) -> dict[str, Any]:
        return {name: getattr(found, name, None) for name in names}

    def ends(figure: str, name: str) -> dict[str, float | None]:
        low, high = getattr(found, figure, None) or (None, None)
        return {f"{name}_low": low, f"{name}_high": high}

    return {
        "network": planned.network_name,
        "data": planned.data,
        "images": planned.kind,
        "images_sha256": planned.cell.digests.images,
        **asdict(planned.cell.setting),
        **figures("image_count", "accuracy"),
        **ends("accuracy_interval", "accuracy"),
        **figures("cnn_accuracy", "agreement_with_cnn", "rmse", "rmse_to_cnn", "cnn_rmse"),
        **figures("spikes", "synaptic_operations"),
        **ends("joules", "joules"),
        **ends("seconds", "loihi1_seconds"),
        **ends("cores", "neurocores"),
        **figures("balanced_by", "saturated_images"),
        "is_on_front": is_on_front,
        "error": outcome and outcome.error,
        "cell": planned.cell.name,
    }


def value(planned: PlannedCell, name: str) -> str:
    """Return the option ``name`` of a cell, or its network or data set, as a word."""
    own = {"network": planned.network_name, "data": planned.data}
    found = own[name] if name in own else getattr(planned.cell.setting, name)
    if isinstance(found, bool):
        return "yes" if found else "no"
    return "" if found is None else f"{found:g}" if isinstance(found, float) else str(found)


def title(name: str) -> str:
    """Return the heading of the column of `value`."""
    return _TITLES.get(name, name)


def cell_words(planned: PlannedCell, names: Sequence[str]) -> str:
    """Return a cell in a few words: those options of ``names`` that it has."""
    words = ((name, value(planned, name)) for name in names)
    plain = ("network", "data", "method")
    parts = [word if name in plain else f"{title(name)} {word}" for name, word in words if word]
    return ", ".join(parts) or planned.network_name
