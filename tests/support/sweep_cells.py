"""Cells of a sweep without files, and their results."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from loihi_convert.batch.conversion import CellResult, ConversionCell
from loihi_convert.batch.setting import ConversionSetting, Digests, ImageChoice
from loihi_convert.pipeline.options import NetworkFile


def result(**figures: Any) -> CellResult:
    """Return figures of a classification."""
    nothing = dict.fromkeys(("rmse", "rmse_to_cnn", "cnn_rmse", "correct"))
    usual = {"spikes": 1.5, "seconds": (1e-3, 2e-3), "balanced_by": "percentile 99", "saturated_images": 0}
    return CellResult(**{**nothing, **usual, **figures})


def cell(model: Path, network: str, **options: Any) -> ConversionCell:
    """Return the cell of a network, with the options of a `ConversionSetting`, and ``package``."""
    package = {name: options.pop(name) for name in ("package",) if name in options}
    digests = Digests("model", network, network, None, "calibration", "images")
    setting = ConversionSetting(**options).normalized
    return ConversionCell(NetworkFile(model), ImageChoice(), digests, setting, **package)
