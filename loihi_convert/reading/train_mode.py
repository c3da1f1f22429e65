"""What a CNN computes in train mode, found by a step on a few images before its training."""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.utils.checkpoint import CheckpointError

from loihi_convert.cnn import class_scores
from loihi_convert.cnn.design import Design, inputs_of, pixels
from loihi_convert.cnn.with_qcfs import WithQcfs
from loihi_convert.data.dataset import DataSplits
from loihi_convert.errors import LoihiConvertError, UsageError, first_line
from loihi_convert.reading.model_runs import place_of, require_not_of_machine, users_code

_SHOWN: Final = 8
"""Images of a step in train mode: batch normalization of a single pixel needs several."""


@torch.inference_mode(False)
@torch.enable_grad()
def require_training(design: Design, splits: DataSplits) -> None:
    """Raise an error if the CNN of ``design`` computes something else in training than scores, or without gradients.

    Raises
    ------
    UsageError
        If its forward fails or returns something else in train mode, or computes parts of a QCFS network again for
        gradients.
    MemoryError, OSError, RuntimeError
        If memory or disk space ran out, unchanged.
    """
    if len(splits.train) < 2:
        # Too few for batch normalization, of which the training tells.
        return
    model = design.build()
    model.train()
    shown = inputs_of(pixels(splits.train.images[:_SHOWN]), design.normalization, design.image_shape)
    try:
        with users_code(), torch.random.fork_rng(devices=[]):
            cnn = model.cnn if isinstance(model, WithQcfs) else model
            returned = class_scores.scores_of(cnn(shown))
            if not isinstance(returned, Tensor):
                raise UsageError(
                    f"returns a {type(returned).__name__} in training",
                    where=design.name,
                    expected="must return only its scores, as in eval mode",
                    hint="Switch its auxiliary outputs off, for example by aux_logits=False.",
                )
            if isinstance(model, WithQcfs):
                scores = model(shown)
                scores.sum().backward()
                if _is_checkpointed(scores):
                    raise _checkpointed(design.name)
    except CheckpointError as error:
        raise _checkpointed(design.name) from error
    except LoihiConvertError:
        raise
    # The user's forward may raise any exception.
    except Exception as error:
        require_not_of_machine(error)
        raise UsageError(
            f"its forward fails in train mode ({place_of(error)}{first_line(error)})",
            where=design.name,
            expected="must take the images in training, as in eval mode",
        ) from error


def _is_checkpointed(scores: Tensor) -> bool:
    """Whether a part is computed again in the backward pass, where its ReLUs are not replaced."""
    waiting, seen = [scores.grad_fn], set[object]()
    while waiting:
        step = waiting.pop()
        if step is None or step in seen:
            continue
        seen.add(step)
        if type(step).__name__ == "CheckpointFunctionBackward":
            return True
        waiting += [before for before, _ in step.next_functions]
    return False


def _checkpointed(name: str) -> UsageError:
    return UsageError(
        "computes parts again for its gradients, without QCFS activations",
        where=name,
        expected="must train without torch.utils.checkpoint",
        hint="Switch gradient checkpointing off.",
    )
