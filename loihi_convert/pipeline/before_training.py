"""What is known of a CNN before it is trained further: whether it is read correctly, and how good it is."""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from loihi_convert.cnn.design import Design
from loihi_convert.cnn.qcfs import MIN_THRESHOLD, Qcfs
from loihi_convert.cnn.trainer import accuracy
from loihi_convert.data.dataset import DataSplits
from loihi_convert.errors import UsageError
from loihi_convert.ground.choices import MAX_LEVELS
from loihi_convert.metrics.own_accuracy import OwnAccuracy, OwnFit, own_accuracy
from loihi_convert.pipeline.converting import COMPARED, require_same_outputs
from loihi_convert.reading.own_cnn import require_training
from loihi_convert.reading.source import Source

_FINE_QCFS_TOLERANCE: Final = 0.02
_LEAST_THRESHOLD: Final = 10 * MIN_THRESHOLD
"""Smaller than it, a layer's largest threshold is near the bound of all, and its weights are as small."""
_WORSE: Final = 2
"""Standard errors by which an accuracy of one half may be lower by chance, the largest of all."""


def require_same_training(design: Design, splits: DataSplits) -> None:
    """Raise an error if the QCFS network that ``design`` trains would be read as another one, before it is trained.

    Its activations get so many levels that a rounding error hardly moves an output.
    """
    require_training(design, splits)
    if design.qcfs_levels is None:
        return
    model = design.build()
    for number, module in enumerate(module for module in model.modules() if isinstance(module, Qcfs)):
        _require_trainable(module, number, design.name)
        module.levels = MAX_LEVELS
    source = Source.from_module(model, splits.input_shape, normalization=design.normalization)
    require_same_outputs(source, np.asarray(splits.train.images[:COMPARED]), qcfs_tolerance=_FINE_QCFS_TOLERANCE)


def _require_trainable(activation: Qcfs, number: int, name: str) -> None:
    """Raise a `UsageError` if all thresholds are so small that a step of the optimizer is larger."""
    largest = float(activation.threshold.detach().max())
    if largest < _LEAST_THRESHOLD:
        raise UsageError(
            f"found activations of at most about {largest:.2g} after ReLU {number + 1}",
            where=name,
            expected=f"must be at least about {_LEAST_THRESHOLD:g}, which a training step changes little",
        )


def accuracy_before(design: Design, splits: DataSplits) -> OwnAccuracy | None:
    """Return how good the CNN that a training of ``design`` begins with is on validation images; None if untrained.

    A forgotten normalization would be trained into the CNN.
    """
    if design.trained is None:
        return None
    source = Source.from_module(
        design.trained(), splits.input_shape, normalization=design.normalization, data=splits.name
    )
    found = own_accuracy(source, splits.validation, "validation images", data=splits.name)
    assert not isinstance(found, OwnFit)
    return found


class TeacherAccuracy(OwnAccuracy):
    """The accuracy of a teacher."""

    subject = "the teacher"


def accuracy_of_teacher(design: Design, splits: DataSplits, cnn: OwnAccuracy | None) -> TeacherAccuracy:
    """Return how good the teacher of ``design`` is on all validation images, with a warning if ``cnn`` is better.

    An untrained teacher, or one that needs another normalization, would teach errors.
    """
    assert design.teacher is not None
    network = design.teacher.network
    found = accuracy(network, network.state_dict(), splits.validation)
    of_teacher = TeacherAccuracy(found, len(splits.validation), "validation images")
    if cnn is None or found >= cnn.accuracy - _WORSE * (0.25 / cnn.image_count) ** 0.5:
        return of_teacher
    reason = f"the CNN itself {100 * cnn.accuracy:.2f} %. Has it been trained, on images with the same mean and std?"
    return replace(of_teacher, warning=f"{of_teacher.sentence}, {reason}")
