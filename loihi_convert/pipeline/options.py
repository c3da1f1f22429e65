"""Options of a run, validated when created."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from loihi_convert.errors import UsageError
from loihi_convert.ground.choices import TOLERANCE_POINTS
from loihi_convert.ground.options import BASICS, Flag, declared, parse_timesteps


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

    def __post_init__(self) -> None:
        if self.timesteps and min(self.timesteps) < 1:
            raise UsageError(f"found {min(self.timesteps)}", where="timesteps", expected="must be at least 1")

    def last_timestep(self, balanced: int) -> int:
        """Return the last T of a run, for a file balanced for ``balanced`` steps."""
        return max(self.timesteps, default=balanced)
