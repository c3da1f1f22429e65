"""How good the CNN is before conversion, and whether that is plausible.

A forgotten normalization passes all checks of a conversion: the spiking network agrees with the CNN, and both are
wrong. So the CNN's accuracy on labelled images, or its error on targets, is reported first, and if it is implausible, a
cause is searched.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from numbers import Real
from typing import ClassVar, Final, NamedTuple

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.data import Dataset
from loihi_convert.errors import DataError, UsageError
from loihi_convert.frontend.source import Source
from loihi_convert.ir.network import ReluNetwork, class_count, classes_of
from loihi_convert.metrics.regression import errors
from loihi_convert.normalization import Normalization
from loihi_convert.simulation.relu import cnn_scores
from loihi_convert.statistics import FEWEST_JUDGED, NOT_CHANCE, constant_accuracy, mcnemar_p_value

CHECKED_IMAGES: Final = 1_000
"""Most images on which the CNN is evaluated: this takes seconds, with an error of about one point."""
_TRIED_IMAGES: Final = 200
_STANDARD_ERRORS: Final = 2
# Gain in accuracy required of another normalization if the accuracy is too low.
_BETTER: Final = 0.05
# Share of the unexplained variance that another normalization must remove, for a regression.
_REMOVED: Final = 0.5
# Images whose pixels, 0..1, spread less than this are nearly constant: their statistics suggest no normalization.
_LEAST_SPREAD: Final = 0.02
# Below it, the brightest pixel may be the largest of a smaller range, such as 0..16.
_BRIGHT: Final = 128


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
_IMAGENET: Final = Normalization((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))
_COLOURS: Final = 3


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

    Uses at most `CHECKED_IMAGES` of them, evenly spaced. The accuracy is too low if it is more than 2 standard errors
    below ``expect``. By default, if it is below what any CNN reaches on ``data`` (mnist 95 %, fashion-mnist and digits
    85 %, cifar10 60 %). On other data, if it is not above always predicting the most frequent class, or if another
    usual normalization, or none, or the reverse order of colours, gains 10 to 14 points on 200 images, more on fewer.
    A regression is implausible if its R² is not above 0, or if such a change halves the unexplained variance.

    Parameters
    ----------
    source
        The CNN.
    images
        The images, which must not be test images.
    kind
        The kind of images, in words.
    expect
        The known accuracy of the CNN, in (0, 1].
    data
        The name of the data set that the images belong to, if known; it need not be the one the CNN was trained on.

    Raises
    ------
    UsageError
        If ``expect`` is out of range, or given for images without labels.
    DataError
        If a label is not an output of the CNN.
    """
    require_expectation(expect)
    is_classifier = source.network.task == "classification"
    if images.labels is None or not len(images) or not is_classifier:
        if expect is not None:
            raise UsageError("found images without labels", where="expect", expected="needs labelled images")
        return None if is_classifier or images.targets is None or not len(images) else _own_fit(source, images, kind)
    some = _evenly(images, CHECKED_IMAGES)
    classes = _classes(source.network, some)
    accuracy = float(np.mean(classes == some.known_labels))
    found = OwnAccuracy(accuracy, len(some), _of_all(kind, some, images))
    reason = _too_low(accuracy, some, data, expect)
    if reason:
        remedy = _remedy(source, some, accuracy, data, expect)
        return replace(found, warning=f"{found.sentence}; {reason}. {remedy}")
    few = _evenly(some, _TRIED_IMAGES)
    # The largest standard error of the difference of two accuracies.
    gain = _STANDARD_ERRORS * math.sqrt(0.5 / len(few))
    if expect is not None or data in _USUAL or accuracy > 1 - gain:
        return found
    # No accuracy is known for this data, but a CNN that is better with another normalization was trained with it.
    if better := _more_accurate(source, few, _accuracy(source.network, few) + gain):
        return replace(found, warning=f"{found.sentence}. {better}")
    return found


def unjudged(source: Source, images: Dataset) -> str:
    """Return a warning if ``images``, without labels or targets, seem unlike those of the training; else empty.

    They do if the CNN gives many of them the same class, with which every conversion agrees, or if all are dark.
    """
    some = _evenly(images, _TRIED_IMAGES)
    return _single_class(source, some) or _dark(source, some)


def _dark(source: Source, images: Dataset) -> str:
    largest = int(np.max(images.images))
    # After a normalization with a small `std`, dark pixels are not dark to the CNN.
    if not 0 < largest < min(_BRIGHT, 255 * max(source.recorded.std or (1.0,))):
        return ""
    return (
        f"all of {len(images)} images are dark{_brightest(images)}: scale their pixels to 0..255, or pass the `mean` "
        "and `std` that the CNN was trained with."
    )


def _single_class(source: Source, some: Dataset) -> str:
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
    few = _evenly(some, _TRIED_IMAGES)
    least = 1 - _REMOVED * (1 - _r_squared(source.network, few))
    better = _better_with(source, few, max(least, 0.0), _r_squared, lambda r2: f"R² {r2:.4f}")
    if found.r2 > 0:
        return replace(found, warning=f"{found.sentence}. {better}") if better else found
    remedy = better or (
        "No usual normalization explains it: check the unit and the order of the targets, the image size, and that "
        "these are the trained weights."
    )
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


def _classes(network: ReluNetwork, images: Dataset) -> Array:
    """The class of each image, ``(N,)``; a `DataError` if a label is not an output."""
    labels, classes = images.known_labels, class_count(network.shapes[-1][0])
    if labels.max() >= classes:
        raise DataError(
            f"found the label {labels.max()}",
            where="labels",
            expected=f"must be in 0..{classes - 1}, the network's output for each image",
            hint="Number the classes from 0.",
        )
    return classes_of(cnn_scores(network, images.images))


def _accuracy(network: ReluNetwork, images: Dataset) -> float:
    return float(np.mean(_classes(network, images) == images.known_labels))


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
    return "" if share is None else f"always predicting the most frequent class is as accurate ({_percent(share)})"


def _remedy(source: Source, images: Dataset, accuracy: float, data: str | None, expect: float | None) -> str:
    """The change of `_trials` that makes the CNN better, if there is one; otherwise other causes."""
    known = _USUAL[data].accuracy if expect is None and data in _USUAL else expect
    least = accuracy + _BETTER
    if known is not None:
        # One that closes less than half of the difference does not explain it. One that reaches what is expected does,
        # however small it is.
        reached = known - _STANDARD_ERRORS * math.sqrt(known * (1 - known) / len(images))
        least = min(max(least, (accuracy + known) / 2), reached)
    least = max(least, accuracy)
    if better := _more_accurate(source, images, least, is_known=known is not None):
        return better
    if images.rounding_note:
        return "A possible cause: the rounding to 8 bits (see the note)."
    return (
        f"No usual normalization explains it: check the brightness of the images{_brightest(images)}, the class order, "
        "the image size, and that these are the trained weights."
    )


def _brightest(images: Dataset) -> str:
    """The brightest pixel of dark images, in brackets; empty for others."""
    largest = int(np.max(images.images))
    return f" (the brightest pixel is {largest} of 255)" if largest < _BRIGHT else ""


class _Trial(NamedTuple):
    """A change of the normalization or of the images that may be missing: in words, what to do, and its result."""

    given: str
    advice: str
    network: ReluNetwork
    images: Dataset


def _more_accurate(source: Source, images: Dataset, least: float, *, is_known: bool = False) -> str:
    """`_better_with` for a classification; unless ``least`` is known, no gain that chance or a constant answer has."""
    labels = images.known_labels
    before = _classes(source.network, images) == labels

    def is_proven(trial: _Trial) -> bool:
        after = _classes(trial.network, trial.images) == labels
        p_value = mcnemar_p_value(int((before & ~after).sum()), int((after & ~before).sum()))
        return is_known or (p_value < NOT_CHANCE and constant_accuracy(float(after.mean()), labels) is None)

    return _better_with(source, images, least, _accuracy, _percent, is_proven)


def _better_with(
    source: Source,
    images: Dataset,
    least: float,
    measure: Callable[[ReluNetwork, Dataset], float],
    words: Callable[[float], str],
    is_proven: Callable[[_Trial], bool] = lambda trial: True,
) -> str:
    """A sentence on the best of `_trials` if its ``measure`` exceeds ``least`` and it is proven; otherwise empty."""
    reached = [(measure(trial.network, trial.images), trial) for trial in _trials(source, images)]
    # Of equal ones the first: the more usual.
    best, trial = max(reached, key=lambda found: found[0], default=(least, None))
    if trial is None or best <= least or not is_proven(trial):
        return ""
    return f"{trial.given} it is {words(best)} of {len(images):,}: {trial.advice}."


def _trials(source: Source, images: Dataset) -> Iterator[_Trial]:
    # A checkpoint of `train` or `fine_tune` records a seed, and its normalization, beside which no other is accepted.
    if source.recorded.seed is None:
        for normalization, is_guess in _normalizations(images, source.recorded.data):
            mean, std = map(_numbers, normalization)
            given = f"With `mean` {mean} and `std` {std}"
            advice = "give the normalization the CNN was trained with"
            if is_guess:
                advice = "a guess from these images, so look up the values in your training code"
            elif source.recorded.normalization is not None and normalization == ((0.0,), (1.0,)):
                given, advice = "Without `mean` and `std`", "the CNN may normalize its images itself"
            yield _Trial(given, advice, source.with_normalization(normalization), images)
    if images.images.shape[1] == _COLOURS:
        advice = "give the images in the order that the CNN was trained on, usually R, G, B (OpenCV reads B, G, R)"
        reverse = replace(images, images=np.asarray(images.images)[:, ::-1])
        yield _Trial("With the colours in reverse order", advice, source.network, reverse)


def _percent(accuracy: float) -> str:
    return f"{100 * accuracy:.2f} %"


def _r_squared(network: ReluNetwork, images: Dataset) -> float:
    found = errors(cnn_scores(network, images.images), images.targets)
    return -math.inf if found is None or found.mean.r2 is None else found.mean.r2


def _normalizations(images: Dataset, data: str | None) -> Iterator[tuple[Normalization, bool]]:
    """Normalizations that the CNN may have been trained with, the more usual first, and whether one is only a guess.

    None, that of ``data``, those of other data sets, to -1..1, ImageNet's, that from these images' statistics, to
    0..255, and the brightest pixel of dark images to 1.
    """
    channels = images.images.shape[1]
    yield Normalization((0.0,), (1.0,)), False
    for name in sorted(_USUAL, key=lambda name: name != data):
        if len(_USUAL[name].normalization.mean) == channels:
            yield _USUAL[name].normalization, False
    yield Normalization((0.5,), (0.5,)), False
    if channels == _COLOURS:
        yield _IMAGENET, False
    pixels = images.images / 255
    spread = pixels.std((0, 2, 3))
    if spread.min() > _LEAST_SPREAD:
        mean, std = (tuple(values.round(4).tolist()) for values in (pixels.mean((0, 2, 3)), spread))
        yield Normalization(mean, std), True
    yield Normalization((0.0,), (1 / 255,)), False
    if 0 < (largest := float(pixels.max())) < _BRIGHT / 255:
        yield Normalization((0.0,), (largest,)), False


def _numbers(values: Sequence[float]) -> str:
    return ",".join(f"{value:g}" for value in values)
