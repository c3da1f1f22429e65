"""How good the CNN is before conversion, and whether that is plausible.

A forgotten normalization passes all checks of a conversion: the spiking network agrees with the CNN, and both are
wrong. So the CNN's accuracy on labelled images, or its error on targets, is reported first, and if it is implausible, a
cause is searched.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from numbers import Real
from typing import ClassVar, Final, NamedTuple

import numpy as np

from loihi_convert.data import Dataset
from loihi_convert.errors import UsageError
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ground.statistics import FEWEST_JUDGED, constant_accuracy
from loihi_convert.ir.network import ReluNetwork, class_count, classes_of
from loihi_convert.metrics.evaluation import require_classes
from loihi_convert.metrics.regression import errors
from loihi_convert.reading.source import Source
from loihi_convert.simulation.relu import cnn_scores

CHECKED_IMAGES: Final = 1_000
"""Most images on which the CNN is evaluated: this takes seconds, with an error of about one point."""
_TRIED_IMAGES: Final = 200
_STANDARD_ERRORS: Final = 2
# Gain in accuracy required of an explanation if the accuracy is too low.
_BETTER: Final = 0.05


class _Usual(NamedTuple):
    """The accuracy any CNN reaches on a data set after an epoch or two, and its usual normalization."""

    accuracy: float
    normalization: Normalization


_USUAL: Final = {
    "mnist": _Usual(0.95, Normalization((0.1307,), (0.3081,))),
    "fashion-mnist": _Usual(0.85, Normalization((0.2860,), (0.3530,))),
    "digits": _Usual(0.85, Normalization((0.3059,), (0.3763,))),
    "cifar10": _Usual(0.60, Normalization((0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616))),
}
_NORMALIZATIONS: Final = (
    Normalization((0.0,), (1.0,)),
    *(usual.normalization for usual in _USUAL.values()),
    Normalization((0.5,), (0.5,)),
    Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
)
"""Usual ones: none, those of data sets, to -1..1, ImageNet's."""
_SWAPPED: Final = Normalization((), ())
"""In place of a normalization: the images with rows and columns swapped, as torchvision's EMNIST has them."""


@dataclass(frozen=True)
class OwnAccuracy:
    """Accuracy of the CNN on labelled images.

    Parameters
    ----------
    accuracy
        The share of correctly classified images, 0..1.
    image_count
        Number of images.
    kind
        The kind of images, such as "validation images of mnist"; for some of them, also of how many.
    warning
        Why the accuracy is implausible, and what to do; empty if it is plausible.
    """

    subject: ClassVar[str] = "the CNN"

    accuracy: float
    image_count: int
    kind: str
    warning: str = ""

    @property
    def sentence(self) -> str:
        """The accuracy and the images, in words."""
        return f"{self.subject} classifies {100 * self.accuracy:.2f} % of {self.image_count:,} {self.kind} correctly"


@dataclass(frozen=True)
class OwnFit:
    """How well the CNN, a regression, predicts the targets of images.

    Parameters
    ----------
    r2, rmse
        Mean over the outputs, as in `regression.Error`.
    image_count, kind, warning
        As in `OwnAccuracy`.
    """

    r2: float
    rmse: float
    image_count: int
    kind: str
    warning: str = ""

    @property
    def sentence(self) -> str:
        """The error and the images, in words."""
        return f"the CNN has an RMSE of {self.rmse:.4g} (R² {self.r2:.4f}) on {self.image_count:,} {self.kind}"


def own_accuracy(
    source: Source, images: Dataset, kind: str, expect: float | None = None, *, data: str | None = None
) -> OwnAccuracy | OwnFit | None:
    """Return how good the CNN of ``source`` is on ``images``, without conversion; None without labels or targets.

    Uses at most `CHECKED_IMAGES` of them, evenly spaced; they must not be test images, and ``kind`` names them. The
    accuracy is too low if it is more than 2 standard errors below ``expect``, in (0, 1]. By default, if it is below
    what any CNN reaches on the data set ``data``. On other data, if it is not above always predicting the most frequent
    class, or if another usual normalization, none, or transposing the images gains 10 points on 200 images, more on
    fewer. A regression is implausible if its R² is not above 0.
    """
    require_expectation(expect)
    is_classifier = source.network.task == "classification"
    if images.labels is None or not len(images) or not is_classifier:
        if expect is not None:
            raise UsageError("found images without labels", where="expect", expected="needs labelled images")
        return None if is_classifier or images.targets is None or not len(images) else _own_fit(source, images, kind)
    some = _evenly(images, CHECKED_IMAGES)
    accuracy, few = _accuracy(source.network, some), _evenly(some, _TRIED_IMAGES)
    found = OwnAccuracy(accuracy, len(some), _of_all(kind, some, images))
    reason = _too_low(accuracy, some, data, expect)
    # The largest standard error of the difference of two accuracies.
    gain = _STANDARD_ERRORS * math.sqrt(0.5 / len(few))
    if not reason and (expect is not None or data in _USUAL or accuracy > 1 - gain):
        return found
    known = expect or (_USUAL[data].accuracy if data in _USUAL else None)
    if reason:
        # One that closes less than half of the difference does not explain it.
        gain = _BETTER if known is None else max(_BETTER, (known - accuracy) / 2)
    # If no accuracy is known for this data, a CNN that is better with another normalization, or with transposed images,
    # was trained with them.
    better = _explanation(source, few, _accuracy(source.network, few) + gain)
    if reason:
        return replace(found, warning=f"{found.sentence}; {reason}. {better or _other_causes(images)}")
    return replace(found, warning=f"{found.sentence}. {better}") if better else found


def unjudged(source: Source, images: Dataset) -> str:
    """Return a warning if the CNN gives many ``images`` without labels the same class; else empty.

    Every conversion agrees with that.
    """
    some = _evenly(images, _TRIED_IMAGES)
    # A file of spiking neurons is not compared with a trained CNN.
    if source.network.task != "classification" or source.neurons is not None or len(some) < FEWEST_JUDGED:
        return ""
    classes = classes_of(cnn_scores(source.network, np.asarray(some.images)))
    if (classes != classes[0]).any():
        return ""
    return (
        f"the CNN gives each of {len(some)} images the class {classes[0]}, so agreement with it carries little "
        f"information: check the brightness of the images{_brightest(some)}, and `mean` and `std`."
    )


def _own_fit(source: Source, images: Dataset, kind: str) -> OwnFit | None:
    some = _evenly(images, CHECKED_IMAGES)
    assert some.targets is not None
    own = errors(cnn_scores(source.network, some.images), some.targets)
    if own is None or own.mean.r2 is None:
        # Constant targets have no variance to explain.
        return None
    found = OwnFit(own.mean.r2, own.mean.rmse, len(some), _of_all(kind, some, images))
    if found.r2 > 0:
        return found
    remedy = "Check the normalization, the unit and the order of the targets, and that these are the trained weights."
    return replace(found, warning=f"{found.sentence}; always predicting the mean is as good. {remedy}")


def _evenly(images: Dataset, most: int) -> Dataset:
    """At most ``most`` images, evenly spaced, because images from class folders are sorted by class."""
    count = min(len(images), most)
    return images[np.linspace(0, len(images) - 1, count).round().astype(np.intp)]


def _of_all(kind: str, some: Dataset, images: Dataset) -> str:
    """``kind``, and of how many ``images`` the ones in ``some`` are."""
    return kind if len(some) == len(images) else f"{kind} (evenly spaced among {len(images):,})"


def require_expectation(expect: float | None) -> None:
    """Raise a `UsageError` unless ``expect`` is None or in (0, 1]."""
    expected = "must be an accuracy in (0, 1]"
    if not isinstance(expect, Real | None):
        raise UsageError(f"found {expect!r}", where="expect", expected=expected)
    if expect is not None and not 0 < expect <= 1:
        hint = f"Write {expect / 100:g} for {expect:g} %." if 1 < expect <= 100 else ""
        raise UsageError(f"found {expect:g}", where="expect", expected=expected, hint=hint)


def _accuracy(network: ReluNetwork, images: Dataset) -> float:
    """The share of correct classes; a `DataError` if a label is not an output."""
    labels = images.known_labels
    require_classes(labels, class_count(network.shapes[-1][0]))
    return float(np.mean(classes_of(cnn_scores(network, images.images)) == labels))


def _too_low(accuracy: float, images: Dataset, data: str | None, expect: float | None) -> str:
    """The reason why ``accuracy`` is too low; empty if it is not."""
    count = len(images)
    margin = _STANDARD_ERRORS * math.sqrt(accuracy * (1 - accuracy) / count)
    if expect is not None:
        return f"{100 * expect:g} % are expected" if accuracy + margin < expect else ""
    if data in _USUAL:
        least = _USUAL[data].accuracy
        return f"any CNN reaches {100 * least:g} % on {data}" if accuracy + margin < least else ""
    share = constant_accuracy(accuracy, images.known_labels)
    return "" if share is None else f"always predicting the most frequent class is as accurate ({100 * share:.2f} %)"


def _explanation(source: Source, images: Dataset, least: float) -> str:
    """A sentence on the usual normalization or the transposition with the highest accuracy above ``least``, or ""."""
    pixels, usual = images.images, _USUAL.get(source.recorded.data or "")
    reached: list[tuple[float, Normalization]] = []
    # A checkpoint of `train` or `fine_tune` records a seed, and its normalization, beside which no other is accepted.
    if source.recorded.seed is None:
        fitting = [one for one in _NORMALIZATIONS if len(one.mean) in (1, pixels.shape[1])]
        # Of equal ones the first.
        fitting.sort(key=lambda one: usual is None or one != usual.normalization)
        reached = [(_accuracy(source.with_normalization(one), images), one) for one in fitting]
    if pixels.shape[2] == pixels.shape[3]:
        reached.append((_accuracy(source.network, replace(images, images=pixels.swapaxes(2, 3))), _SWAPPED))
    best, (mean, std) = max(reached, key=lambda found: found[0], default=(0.0, _SWAPPED))
    if best <= least:
        return ""
    reach = f"it is {100 * best:.2f} % of {len(images):,}"
    if not mean:
        return f"With rows and columns of the images swapped {reach}: transpose the images, as for training."
    if source.recorded.normalization is not None and (mean, std) == _NORMALIZATIONS[0]:
        return f"Without `mean` and `std` {reach}: the CNN may normalize its images itself."
    mean_text, std_text = (",".join(f"{value:g}" for value in values) for values in (mean, std))
    return f"With `mean` {mean_text} and `std` {std_text} {reach}: give the normalization the CNN was trained with."


def _other_causes(images: Dataset) -> str:
    if images.rounding_note:
        return "A possible cause: the rounding to 8 bits (see the note)."
    return (
        "No usual normalization, nor swapped rows and columns, explains it: check the brightness of the images"
        f"{_brightest(images)}, the class order, the image size, and that these are the trained weights."
    )


def _brightest(images: Dataset) -> str:
    """The brightest pixel of dark images, in brackets; empty for others."""
    largest = int(np.max(images.images))
    return f" (the brightest pixel is {largest} of 255)" if largest < 128 else ""
