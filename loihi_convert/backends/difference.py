"""Comparison of two runs of the same images, integer by integer."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np

from loihi_convert.backends.result import RunResult
from loihi_convert.choices import BackendName
from loihi_convert.errors import VerificationError


def as_reference(
    result: RunResult, reference: RunResult, backend: BackendName, path: Path, *, first_image: int = 0
) -> RunResult:
    """Return ``result`` of the file ``path`` with the counts that only `ref` has.

    Raises
    ------
    VerificationError
        If it differs from ``reference``, the result of `ref`.
    """
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
