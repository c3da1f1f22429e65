"""A CNN by its place, and the options of a run."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field

from loihi_convert.errors import UsageError
from loihi_convert.ground.choices import TOLERANCE_POINTS, Task
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ground.options import BASICS, Flag, declared, parse_timesteps


@dataclass(frozen=True)
class NetworkFile:
    """A trained CNN and its data: only places, no content.

    Parameters
    ----------
    model, arch, input_shape, classes, normalization, task
        As in `source.open_source`; for a CNN that is not described by its file, shape and classes are by default those
        of the data.
    data, data_root, class_map
        As in `load_data`; by default the benchmark set named by the checkpoint. ``class_map`` is ``"sorted"``,
        ``"names"``, or pairs of folder and class.
    """

    model: Path
    arch: str | None = None
    input_shape: tuple[int, int, int] | None = None
    classes: tuple[str, ...] | None = None
    normalization: Normalization | None = None
    task: Task = "classification"
    data: str | None = None
    data_root: Path | None = None
    class_map: Literal["sorted", "names"] | tuple[tuple[str, str | int], ...] | None = None


@declared(BASICS)
class RunOptions:
    """Options for running and evaluating a file.

    Parameters
    ----------
    timesteps
        Time steps. Default: the T that the file was balanced for. A list such as 1,4 gives one run to the largest T,
        with results at each.
    exit_tolerance
        Accuracy that early exit may lose on these images, in percentage points.

        None: early exit is not evaluated.
    trace
        Record and compare every layer.
    device
        Where to simulate `ref` and the float SNN: ``"cpu"`` or another torch device, such as ``"cuda"``.
    float_snn
        Also run the same network in floating point (float SNN) for comparison; takes as long as the run itself.

        Only if the CNN is known.
    stream
        For graded spikes: treat the images as frames of one sequence, and send only the change from the frame before.
        Default: send each image as the change from a blank image.

    Raises
    ------
    UsageError
        If a number is out of range.
    """

    timesteps: Annotated[tuple[int, ...], Flag("T", "-T,--timesteps", parse=parse_timesteps)] = ()
    exit_tolerance: Annotated[float | None, Field(ge=0, le=100), Flag("POINTS", panel="Early exit")] = TOLERANCE_POINTS
    trace: bool = False
    device: Annotated[str, Flag(name="")] = "cpu"
    float_snn: Annotated[bool, Flag(name="--float")] = False
    stream: bool = False

    def __post_init__(self) -> None:
        if self.timesteps and min(self.timesteps) < 1:
            raise UsageError(f"found {min(self.timesteps)}", where="timesteps", expected="must be at least 1")

    def last_timestep(self, balanced: int | None) -> int:
        """Return the last T of a run, for a file balanced for ``balanced`` steps; None: it does not say."""
        steps = max(self.timesteps, default=balanced)
        if steps is None:
            expected = "is needed for a file that does not record its time steps per sample"
            raise UsageError("not given", where="timesteps", expected=expected)
        return steps
