"""Options of a run, validated when created."""

from __future__ import annotations

from dataclasses import dataclass

from loihi_convert.errors import UsageError
from loihi_convert.metrics.early_exit import TOLERANCE_POINTS, require_tolerance


@dataclass(frozen=True)
class RunOptions:
    """Options for running and evaluating a file.

    Parameters
    ----------
    timesteps
        The T to report, each >= 1; the run ends at the largest. Empty: the T the file was balanced for.
    exit_tolerance
        Percentage points of accuracy, 0..100, that early exit may lose; None: early exit is not evaluated.
    trace
        Whether to record and compare every layer's spikes and potentials.
    device
        Where to simulate `ref` and the float SNN: ``"cpu"`` or another torch device, such as ``"cuda"``.
    float_snn
        Whether to run the float SNN too, if the CNN is known. It takes as long as the file itself.

    Raises
    ------
    UsageError
        If a number is out of range.
    """

    timesteps: tuple[int, ...] = ()
    exit_tolerance: float | None = TOLERANCE_POINTS
    trace: bool = False
    device: str = "cpu"
    float_snn: bool = False

    def __post_init__(self) -> None:
        if self.timesteps and min(self.timesteps) < 1:
            raise UsageError(f"found {min(self.timesteps)}", where="timesteps", expected="must be at least 1")
        if self.exit_tolerance is not None:
            require_tolerance(self.exit_tolerance)

    def last_timestep(self, balanced: int) -> int:
        """Return the last T of a run, for a file balanced for ``balanced`` steps."""
        return max(self.timesteps, default=balanced)
