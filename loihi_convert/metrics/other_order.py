"""Labels in another order of classes than the CNN's outputs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, NamedTuple

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.statistics import NOT_CHANCE, constant_accuracy, mcnemar_p_value

# Share of the labels that are not in their own place for which another place must be found.
_FOUND: Final = 2 / 3
_MOST_NAMED: Final = 4


class OtherOrder(NamedTuple):
    """The accuracy with the classes in another order, 0..1, and what to do, in words."""

    accuracy: float
    sentence: str


def other_order(classes: Array, labels: Array, names: Sequence[str]) -> OtherOrder | None:
    """Return the order of classes in which the labels seem to be; None if it is that of the CNN's outputs.

    A label is in another place if the CNN gives more than half of its images one other class, which it gives most often
    to no other label. These are looked for in one half of the images and confirmed in the other half, where the
    accuracy must rise by more than chance explains, above that of a constant answer. There must be at least two such
    labels, and they must be at least two thirds of the labels of which at most half of the images get their own
    class: an untrained CNN, or rotated images, also move a few labels. Each label needs several images.

    Parameters
    ----------
    classes, labels
        The CNN's class and the label of each image, int64 ``(N,)``, from 0.
    names
        The name of each output of the CNN; empty if unknown.
    """
    by_label = np.argsort(labels, kind="stable")
    chosen, tested = by_label[::2], by_label[1::2]
    moved = _moved(classes[chosen], labels[chosen])
    confirmed = _moved(classes[tested], labels[tested])
    moved = {label: output for label, output in moved.items() if confirmed.get(label) == output}
    at_home, of_label = np.bincount(labels[classes == labels], minlength=labels.max() + 1), np.bincount(labels)
    astray = int(((of_label > 0) & (2 * at_home <= of_label)).sum())
    if len(moved) < max(2, _FOUND * astray):
        return None
    found, before = classes[tested], labels[tested]
    after = np.array([moved.get(label, label) for label in before.tolist()], np.int64)
    accuracy = float(np.mean(found == after))
    only_before, only_after = ((found == one) & (found != other) for one, other in ((before, after), (after, before)))
    is_chance = mcnemar_p_value(int(only_before.sum()), int(only_after.sum())) > NOT_CHANCE
    if is_chance or constant_accuracy(accuracy, before) is not None:
        return None
    named = {number: f"{number} ({name})" for number, name in enumerate(names) if name != str(number)}
    pairs = [f"{label} as {named.get(output, output)}" for label, output in moved.items()]
    more = f" and {len(pairs) - _MOST_NAMED} more" if len(pairs) > _MOST_NAMED else ""
    return OtherOrder(
        accuracy,
        f"With the classes in another order it is {100 * accuracy:.2f} % of {len(tested):,}: the CNN classifies most "
        f"images with label {', '.join(pairs[:_MOST_NAMED])}{more}. Number the labels in the order of the CNN's "
        "outputs; read class folders with that order as `classes`, or with a `class_map`.",
    )


def _moved(classes: Array, labels: Array) -> dict[int, int]:
    """The class of more than half of the images of each label that is not itself, and that no other label has."""
    counts = {label: np.bincount(classes[labels == label]) for label in np.unique(labels).tolist()}
    usual = {label: int(count.argmax()) for label, count in counts.items()}
    outputs = [*usual.values()]
    return {
        label: output
        for label, output in usual.items()
        if label != output and outputs.count(output) == 1 and 2 * counts[label][output] > counts[label].sum()
    }
