"""Backend `ref` for sigma-delta networks of other tools: images -> outputs and messages of lava-dl's network."""

from __future__ import annotations

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.backends.graded import run_graded
from loihi_convert.backends.result import RunResult
from loihi_convert.external.pixels import DEFAULT_NORMALIZATION, pixel_inputs, require_images
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.progress import Progress, no_progress


def run_sdnn(
    network: GradedNetwork,
    images: Array,
    *,
    is_stream: bool = False,
    mean: tuple[float, ...] | None = None,
    std: tuple[float, ...] | None = None,
    progress: Progress = no_progress,
) -> RunResult:
    """Run uint8 ``images``, ``(N, C, H, W)``, one step of each layer for each image, as in `run_graded`.

    ``mean`` and ``std`` are as in `pixel_inputs`, by default `DEFAULT_NORMALIZATION`.

    Raises
    ------
    InputError, UsageError
        As in `require_images`.
    RangeError
        As in `pixel_inputs`.
    """
    mean, std = mean or DEFAULT_NORMALIZATION, std or DEFAULT_NORMALIZATION
    require_images(network, images, mean, std)
    inputs = pixel_inputs(network, images, np.array(mean), np.array(std))
    return run_graded(network, inputs, is_stream=is_stream, progress=progress)
