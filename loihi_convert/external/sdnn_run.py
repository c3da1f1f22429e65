"""Backend `ref` for sigma-delta networks of other tools: images -> outputs and messages of lava-dl's network."""

from __future__ import annotations

from loihi_convert.arrays import Array
from loihi_convert.backends.reference import run_graded
from loihi_convert.backends.result import RunResult
from loihi_convert.external.pixels import DEFAULT_NORMALIZATION, pixel_inputs, require_images
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.normalization import Normalization
from loihi_convert.progress import Progress, no_progress


def run_sdnn(
    network: GradedNetwork,
    images: Array,
    *,
    is_stream: bool = False,
    normalization: Normalization | None = None,
    progress: Progress = no_progress,
) -> RunResult:
    """Run uint8 ``images``, ``(N, C, H, W)``, one step of each layer for each image, as in `run_graded`.

    ``normalization`` is by default `DEFAULT_NORMALIZATION`.

    Raises
    ------
    InputError, UsageError
        As in `require_images`.
    RangeError
        As in `pixel_inputs`.
    """
    normalization = normalization or DEFAULT_NORMALIZATION
    require_images(network, images, normalization)
    inputs = pixel_inputs(network, images, normalization)
    return run_graded(network, inputs, is_stream=is_stream, progress=progress)
