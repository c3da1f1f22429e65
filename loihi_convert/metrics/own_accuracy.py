"""The accuracy of the CNN before conversion, and whether it is plausible.

A forgotten normalization passes all checks of a conversion: the spiking network agrees with the CNN, and both are
wrong. So the CNN's accuracy on labelled images is reported first, and if it is too low, a cause is searched.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.data import Dataset
from loihi_convert.errors import DataError, UsageError
from loihi_convert.frontend.source import Source
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.ir.task import class_count, classes_of
from loihi_convert.simulation.relu import cnn_scores

CHECKED_IMAGES: Final = 1_000
"""Most images on which the CNN is evaluated: this takes seconds, with an error of about one point."""

FEWEST_IMAGES: Final = 50
"""With fewer images, the accuracy is reported but not compared with chance."""

_TRIED_IMAGES: Final = 200
_STANDARD_ERRORS: Final = 2
# Gain in accuracy required of another normalization: on all images, and on few images without other evidence.
_BETTER: Final = 0.05
_MUCH_BETTER: Final = 0.1


class _Usual(NamedTuple):
    """The accuracy any CNN reaches on a data set after an epoch or two, and its usual normalization."""

    accuracy: float
    mean: tuple[float, ...]
    std: tuple[float, ...]


_USUAL: Final = {
    "digits": _Usual(0.85, (0.3059,), (0.3763,)),
    "mnist": _Usual(0.95, (0.1307,), (0.3081,)),
    "fashion-mnist": _Usual(0.85, (0.2860,), (0.3530,)),
    "cifar10": _Usual(0.60, (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)),
}
_IMAGENET: Final = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


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
        The kind of images, such as "validation images of mnist".
    warning
        Why the accuracy is implausible, and what to do; empty if it is plausible.
    """

    accuracy: float
    image_count: int
    kind: str
    warning: str = ""

    @property
    def sentence(self) -> str:
        """The accuracy and the images, in words."""
        return f"the CNN classifies {100 * self.accuracy:.2f} % of {self.image_count:,} {self.kind} correctly"


def own_accuracy(source: Source, images: Dataset, kind: str, expect: float | None = None) -> OwnAccuracy | None:
    """Return the accuracy of the CNN of ``source`` on ``images``, without conversion; None without labels.

    Uses at most `CHECKED_IMAGES` of them, evenly spaced. The accuracy is too low if it is more than 2 standard errors
    below ``expect``. By default, if it is below what any CNN reaches on the data set of ``source`` (mnist 95 %,
    fashion-mnist and digits 85 %, cifar10 60 %). On other data, if it is not above always predicting the most frequent
    class, or if a usual normalization gains 10 points where none was given.

    Parameters
    ----------
    source
        The CNN, a classification.
    images
        The images, which must not be test images.
    kind
        The kind of images, in words.
    expect
        The known accuracy of the CNN, in (0, 1].

    Raises
    ------
    UsageError
        If ``expect`` is out of range, or given for images without labels.
    DataError
        If a label is not an output of the CNN.
    """
    require_expectation(expect)
    if images.labels is None or not len(images) or source.network.task != "classification":
        if expect is not None:
            raise UsageError("found images without labels", where="expect", expected="needs labelled images")
        return None
    some = _evenly(images, CHECKED_IMAGES)
    accuracy, data = _accuracy(source.network, some), source.recorded.data
    found = OwnAccuracy(accuracy, len(some), kind)
    reason = _too_low(accuracy, some, data, expect)
    if reason:
        return replace(found, warning=f"{found.sentence}; {reason}. {_remedy(source, some, accuracy)}")
    if expect is not None or data in _USUAL or source.recorded.mean is not None or accuracy > 1 - _MUCH_BETTER:
        return found
    # No accuracy is known for this data, but a CNN that is better with another normalization was trained with it.
    few = _evenly(some, _TRIED_IMAGES)
    if better := _better_normalization(source, few, _accuracy(source.network, few) + _MUCH_BETTER):
        return replace(found, warning=f"{found.sentence}. {better}")
    return found


def _evenly(images: Dataset, most: int) -> Dataset:
    """At most ``most`` images, evenly spaced, because images from class folders are sorted by class."""
    count = min(len(images), most)
    return images[np.linspace(0, len(images) - 1, count).round().astype(np.intp)]


def require_expectation(expect: float | None) -> None:
    """Raise a `UsageError` unless ``expect`` is None or in (0, 1]."""
    if expect is not None and not 0 < expect <= 1:
        hint = f"Write {expect / 100:g} for {expect:g} %." if 1 < expect <= 100 else ""
        raise UsageError(f"found {expect:g}", where="expect", expected="must be an accuracy in (0, 1]", hint=hint)


def _accuracy(network: ReluNetwork, images: Dataset) -> float:
    labels, classes = images.known_labels, class_count(network.shapes[-1][0])
    if labels.max() >= classes:
        raise DataError(f"found the label {labels.max()}", where="labels", expected=f"must be in 0..{classes - 1}")
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
    share = float(np.bincount(images.known_labels).max()) / count
    margin = _STANDARD_ERRORS * math.sqrt(share * (1 - share) / count)
    if count < FEWEST_IMAGES or share == 1 or accuracy > share + margin:
        return ""
    return f"always predicting the most frequent class is as accurate ({100 * share:.2f} %)"


def _remedy(source: Source, images: Dataset, accuracy: float) -> str:
    """A normalization with which the CNN is better, if one is found; otherwise other possible causes."""
    normalized = "Without a normalization" if source.recorded.mean is None else "With the normalization given"
    return _better_normalization(source, images, accuracy + _BETTER) or (
        f"{normalized}, and with the usual ones, it is not higher: check the class order, the colour order (RGB), the "
        "image size, and that these are the trained weights."
    )


def _better_normalization(source: Source, images: Dataset, least: float) -> str:
    """A sentence on the best normalization if its accuracy exceeds ``least``; otherwise empty."""
    reached = [
        (_accuracy(source.with_normalization(mean, std), images), mean, std)
        for mean, std in _normalizations(images, source.recorded.data)
    ]
    # Of equal ones the first: the more usual.
    best, mean, std = max(reached, key=lambda found: found[0])
    if best <= least:
        return ""
    given = f"`mean` {_numbers(mean)} and `std` {_numbers(std)}"
    return f"With {given} it is {100 * best:.2f} % of {len(images):,}: give the normalization the CNN was trained with."


def _normalizations(images: Dataset, data: str | None) -> Iterator[tuple[tuple[float, ...], tuple[float, ...]]]:
    """Usual normalizations: none, the data set's, to -1..1, ImageNet's, and that from these images' statistics."""
    channels = images.images.shape[1]
    yield (0.0,) * channels, (1.0,) * channels
    if data in _USUAL:
        yield _USUAL[data].mean, _USUAL[data].std
    yield (0.5,) * channels, (0.5,) * channels
    if channels == len(_IMAGENET[0]):
        yield _IMAGENET
    pixels = images.images / 255
    yield tuple(pixels.mean((0, 2, 3)).round(4).tolist()), tuple(pixels.std((0, 2, 3)).round(4).clip(1e-3).tolist())


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
