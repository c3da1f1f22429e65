"""What a run gets and gives: checks of a request, integers at every step from any backend, and their comparison."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, Final

import numpy as np

from loihi_convert.chip import limits
from loihi_convert.errors import RangeError, UsageError, VerificationError
from loihi_convert.ground.arrays import Array
from loihi_convert.ground.choices import MAX_TIMESTEPS, BackendName
from loihi_convert.ir.graded import GradedNetwork
from loihi_convert.ir.network import Spiking, classes_of, require_images
from loihi_convert.ir.quantized import QuantizedNetwork, joined_digits

# Most images, and most outputs of all their steps, of a part of a result.
_PART_IMAGES: Final = 1_000
_PART_OUTPUTS: Final = 2**20


@dataclass(frozen=True, eq=False)
class LayerTrace:
    """All spikes and potentials of one layer.

    Parameters
    ----------
    spikes
        bool ``(N, T, *shape)``, or int32 messages of graded spikes; ``None`` for a last layer that only integrates.
    potentials
        int32 ``(N, T, *shape)``, after integration and reset of that step, rounded down.
    """

    spikes: Array | None
    potentials: Array


@dataclass(frozen=True, eq=False)
class RunResult:
    """Result of a run of N images over T time steps, the same from every backend.

    Parameters
    ----------
    potentials
        int32 ``(N, T, classes)``: membrane potential of the last layer after each step.
    spike_counts
        int64 ``(N, T, spiking layers)``: spikes in each step, of each layer with neurons.
    synaptic_operations
        int64 ``(N, T, spiking layers)``: synapses of nonzero weight reached by those spikes (NeuroBench: effective
        accumulates); 0 for the last layer.
    seconds
        Wall-clock time of the simulation, without loading and compiling.
    startup_seconds
        Time for loading, compiling, and starting.
    output_spikes
        bool ``(N, T, classes)``: the last layer's spikes in each step; ``None`` if it only integrates.
    channel_spikes
        Per spiking layer, int64 ``(T, C)``: spikes of each channel in each step, summed over images. Only counted by
        `ref`; empty from `sim`, for which `running.run` adds the counts of the equal `ref` run.
    traces
        One per layer with ``trace``, else empty.
    wrapped_images
        Number of images on which u of a stock neuron wrapped, so that the potential is wrong; for graded spikes, on
        which a value leaves its range, see `run_graded`. Counted by `ref`; ``None`` for other neurons.
    saturated_images
        Number of images on which a digit of a readout in two digits reached the end of its range; ``None`` for one
        digit, as ``potentials`` show it.
    measured
        Measurements of a chip's profiler, by name: seconds, joules, watts. Empty without a profiler.
    """

    potentials: Array
    spike_counts: Array
    synaptic_operations: Array
    seconds: float
    startup_seconds: float
    output_spikes: Array | None = None
    channel_spikes: tuple[Array, ...] = ()
    traces: tuple[LayerTrace, ...] = ()
    wrapped_images: int | None = None
    saturated_images: int | None = None
    measured: Mapping[str, float] = field(default_factory=dict)

    @classmethod
    def unfilled(cls, network: Spiking[Any], images: int, timesteps: int, *, trace: bool = False) -> RunResult:
        """Return a result whose arrays are to be filled; counts by channel start at 0."""
        moments, spiking = (images, timesteps), len(network.spiking_layers)
        outputs = (*moments, math.prod(network.shapes[-1]))
        spike_type = np.int32 if network.is_graded else np.bool_
        return cls(
            potentials=np.empty(outputs, np.int32),
            spike_counts=np.empty((*moments, spiking), np.int64),
            synaptic_operations=np.empty((*moments, spiking), np.int64),
            seconds=0,
            startup_seconds=0,
            output_spikes=np.empty(outputs, np.bool_) if network.readout == "spikes" else None,
            channel_spikes=tuple(np.zeros((timesteps, shape[0]), np.int64) for shape in network.shapes[:spiking]),
            traces=tuple(
                LayerTrace(
                    np.empty((*moments, *shape), spike_type) if network.is_graded or index < spiking else None,
                    np.empty((*moments, *shape), np.int32),
                )
                for index, shape in enumerate(network.shapes if trace else ())
            ),
        )

    def count(self, rows: slice, step: int, layer: int, fired: Array, fan_out: Array) -> None:
        """Count what a spiking layer sends in one step: bool ``(B, *shape)`` of the images ``rows``."""
        per_image, channels = fired.reshape(len(fired), -1), self.channel_spikes[layer]
        self.spike_counts[rows, step, layer] = per_image.sum(axis=1)
        self.synaptic_operations[rows, step, layer] = per_image @ fan_out.reshape(-1)
        channels[step] += per_image.reshape(len(fired), channels.shape[1], -1).sum(axis=(0, 2))

    def with_joined_digits(self, low_bits: int) -> RunResult:
        """Return the result with a two-digit readout joined, see `ir.quantized.split`; unchanged for 0 bits."""
        if not low_bits:
            return self
        potentials = joined_digits(self.potentials, low_bits)
        traces = (*self.traces[:-1], LayerTrace(None, potentials)) if self.traces else ()
        saturated = int(are_saturated(self.potentials).sum())
        return replace(self, potentials=potentials, traces=traces, saturated_images=saturated)

    @property
    def outputs(self) -> Array:
        """The outputs after each step, ``(N, T, classes)``: potentials, int32, or, if the last layer has neurons, spike
        counts since the first step, int64."""
        return self.potentials if self.output_spikes is None else self.output_spikes.cumsum(axis=1, dtype=np.int64)

    @property
    def predictions(self) -> Array:
        """int64 ``(N, T)``: the predicted class after each step, see `ir.network.classes_of`."""
        return classes_of(self.outputs)

    def classes_after(self, timesteps: int | Sequence[int]) -> Array:
        """int64 ``(N, ...)``: `predictions` after ``timesteps``; those of all steps are not kept."""
        return np.concatenate([part.predictions[:, np.subtract(timesteps, 1)] for part in self.parts()])

    def parts(self) -> Iterator[RunResult]:
        """Yield views of the result for some images at a time, so that what is computed from them stays small."""
        count = max(1, min(_PART_IMAGES, _PART_OUTPUTS // math.prod(self.potentials.shape[1:])))
        for first in range(0, len(self.potentials), count):
            images = slice(first, first + count)
            yield replace(
                self,
                potentials=self.potentials[images],
                spike_counts=self.spike_counts[images],
                synaptic_operations=self.synaptic_operations[images],
                output_spikes=None if self.output_spikes is None else self.output_spikes[images],
            )


def concatenated(results: Sequence[RunResult]) -> RunResult:
    """Return the result of consecutive images from the results of their parts, in order: of one file, T and backend.

    Times are the sums. Measurements of a profiler are those of one run; there are none for several.
    """
    if len(results) == 1:
        return results[0]
    whole: dict[str, Any] = {"measured": {}}
    for name in ("potentials", "spike_counts", "synaptic_operations", "output_spikes"):
        whole[name] = concatenated_if_known([getattr(result, name) for result in results])
    for name in ("seconds", "startup_seconds", "wrapped_images", "saturated_images"):
        numbers = [getattr(result, name) for result in results]
        whole[name] = None if numbers[0] is None else sum(numbers)
    by_layer = zip(*(result.channel_spikes for result in results), strict=True)
    whole["channel_spikes"] = tuple(np.sum(layer, axis=0) for layer in by_layer)
    whole["traces"] = tuple(
        LayerTrace(
            concatenated_if_known([trace.spikes for trace in layer]),
            np.concatenate([trace.potentials for trace in layer]),
        )
        for layer in zip(*(result.traces for result in results), strict=True)
    )
    return replace(results[0], **whole)


def are_saturated(potentials: Array) -> Array:
    """Return whether a potential of each image, ``(N, T, ...)``, was at an end of its range after any step: it may have
    been clipped."""
    axes = tuple(range(1, potentials.ndim))
    return np.asarray(np.maximum(potentials.max(axis=axes), -potentials.min(axis=axes)) >= limits.POTENTIAL_LIMIT)


def concatenated_if_known(parts: Sequence[Array | None]) -> Array | None:
    """Return ``parts``, all of which are known or none, as one array; None if they are not known."""
    known = [part for part in parts if part is not None]
    return np.concatenate(known) if known else None


def as_reference(
    result: RunResult, reference: RunResult, backend: BackendName, path: Path, *, first_image: int = 0
) -> RunResult:
    """Return ``result`` of the file ``path`` with the counts that only `ref` has."""
    if difference := first_difference(result, reference, first_image=first_image):
        raise VerificationError(f"{backend} and ref disagree: {difference}", where=path)
    return replace(result, channel_spikes=reference.channel_spikes, wrapped_images=reference.wrapped_images)


def first_difference(result: RunResult, reference: RunResult, *, first_image: int = 0) -> str | None:
    """Return the first difference between two runs of the same images, in words, or ``None`` if all integers are equal.

    Compares potentials and spikes of the output, spike counts and synaptic operations of every step and, if both runs
    were traced, spikes and potentials of every layer. Images are numbered from ``first_image``.
    """
    pairs = [
        ("output potential", result.potentials, reference.potentials),
        ("spike count", result.spike_counts, reference.spike_counts),
        ("synaptic operation count", result.synaptic_operations, reference.synaptic_operations),
    ]
    if result.output_spikes is not None and reference.output_spikes is not None:
        pairs.append(("output spike", result.output_spikes, reference.output_spikes))
    for index, (trace, expected) in enumerate(zip(result.traces, reference.traces, strict=False)):
        if trace.spikes is not None and expected.spikes is not None:
            pairs.append((f"layer {index} spike", trace.spikes, expected.spikes))
        pairs.append((f"layer {index} potential", trace.potentials, expected.potentials))
    for name, found, expected_values in pairs:
        if found.shape != expected_values.shape:
            return f"{name}: shape {found.shape} against {expected_values.shape}"
        different = np.argwhere(found != expected_values)
        if len(different):
            image, step, *place = (int(axis) for axis in different[0])
            at = (image, step, *place)
            return (
                f"{name} of image {first_image + image} at T = {step + 1}, index {tuple(place)}: {found[at]} against "
                f"{expected_values[at]} ({len(different)} of {found.size} differ)"
            )
    return None


MAX_TRACE: Final = 2**32
"""Most bytes of all results that a run keeps at a time, including spikes and potentials of a traced run."""


def check_run(network: QuantizedNetwork, images: Array, timesteps: int, *, trace: bool = False) -> None:
    """Raise unless ``network`` can run ``images`` for ``timesteps`` steps and, with ``trace``, record them."""
    require_safe_timesteps(network, timesteps)
    require_images(network.input_shape, images)
    require_result_size(network, len(images), timesteps, trace=trace)


def require_safe_timesteps(network: QuantizedNetwork, timesteps: int) -> None:
    """Raise unless ``network`` can run for ``timesteps`` steps, as `check_run` does."""
    if not 1 <= timesteps <= MAX_TIMESTEPS:
        raise UsageError(f"found {timesteps}", where="timesteps", expected=f"must be in 1..{MAX_TIMESTEPS:,}")
    if timesteps > network.max_timesteps:
        reason = (
            "the output potentials of this file fit Loihi's range with a margin"
            if network.target == "lava"
            else "the potentials of this file's circuit were scaled so that none wraps on the calibration images"
        )
        expected = f"must be in 1..{network.max_timesteps:,}, for which {reason}"
        hint = f"Export the file with `timesteps={timesteps}`."
        raise RangeError(f"found {timesteps}", where="timesteps", expected=expected, hint=hint)


def result_size(network: Spiking[Any], images: int, timesteps: int, *, trace: bool = False) -> int:
    """Return the size in bytes of the result of a run."""
    sizes, spiking = [math.prod(shape) for shape in network.shapes], len(network.spiking_layers)
    # A potential or a message takes four bytes, a spike one byte, a count eight.
    per_step = (4 + (network.readout == "spikes")) * sizes[-1] + 16 * spiking
    if trace:
        per_step += 4 * sum(sizes) + (4 * sum(sizes) if isinstance(network, GradedNetwork) else sum(sizes[:spiking]))
    channels = sum(shape[0] for shape in network.shapes[:spiking])
    return timesteps * (images * per_step + 8 * channels)


def require_result_size(
    network: Spiking[Any], images: int, timesteps: int, *, trace: bool = False, besides: int = 0
) -> None:
    """Raise a `UsageError` if the result of a run, with the bytes kept ``besides``, exceeds `MAX_TRACE`."""
    size = besides + result_size(network, images, timesteps, trace=trace)
    if size > MAX_TRACE:
        found = f"the result of {images} images x {timesteps} steps takes {size / 2**20:.1f} MiB"
        found += " with what is kept beside it" if besides else ""
        expected = f"must be at most {MAX_TRACE / 2**20:.0f} MiB"
        hint = f"{'Trace' if trace else 'Run'} fewer images."
        raise UsageError(found, where="trace" if trace else "images", expected=expected, hint=hint)
