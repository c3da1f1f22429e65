"""The meaning of a network's outputs: class scores, or numbers in the CNN's units.

==============  ==========  ========================================================================================
task            outputs     prediction
==============  ==========  ========================================================================================
classification  2 or more   the class of the largest output
classification  1           class 1 where it is above 0, else class 0: the sign of a logit
regression      any         the outputs themselves: membrane potential x scale / T + offset
==============  ==========  ========================================================================================
"""

from __future__ import annotations

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.choices import Task


def classes_of(outputs: Array) -> Array:
    """Return the predicted class of each row of ``outputs``, ``(..., outputs)``: int64 ``(...)``.

    The argmax, the lowest class among equals (paper, alg. 3); for a single output 1 if it is above 0, else 0.
    """
    if outputs.shape[-1] == 1:
        return np.asarray(outputs[..., 0] > 0, np.int64)
    return np.asarray(outputs.argmax(axis=-1))


def class_count(outputs: int) -> int:
    """Return the number of classes of a classification with ``outputs`` outputs: 2 for a single output."""
    return max(outputs, 2)


def name_count(outputs: int, task: Task) -> int:
    """Return the number of names that predictions need: one per class, or one per output of a regression."""
    return outputs if task == "regression" else class_count(outputs)
