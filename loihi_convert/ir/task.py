"""What the outputs of a network mean: classes, or numbers in the CNN's units.

==============  ==========  ========================================================================================
task            outputs     prediction
==============  ==========  ========================================================================================
classification  2 and more  the class of the largest output
classification  1           class 1 where it is above 0, else class 0: the sign of a logit
regression      any         the outputs themselves: membrane potential x scale / T
==============  ==========  ========================================================================================
"""

from __future__ import annotations

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.choices import Task as Task


def classes_of(outputs: Array) -> Array:
    """Return the class that each row of ``outputs``, ``(..., outputs)``, stands for: int64 ``(...)``.

    The arg max, the lowest class among equals (paper, alg. 3); of one output 1 where it is above 0, else 0.
    """
    if outputs.shape[-1] == 1:
        return np.asarray(outputs[..., 0] > 0, np.int64)
    return np.asarray(outputs.argmax(axis=-1))


def class_count(outputs: int) -> int:
    """Return how many classes a classification with that many outputs tells apart: 2 for one output."""
    return max(outputs, 2)


def name_count(outputs: int, task: Task) -> int:
    """Return how many names the predictions of a network need: one for each class, or for each number."""
    return outputs if task == "regression" else class_count(outputs)
