"""Distillation: a CNN in training also learns the scores of a trained one (Hinton et al. 2015, arXiv 1503.02531).

A label names one class. A teacher's scores also say which other classes an image resembles, and how clearly, and so a
network of few levels or time steps gets closer to them than to labels.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn import functional

TEACHER_SHARE: Final = 0.9
"""Of the loss; the rest is that of the labels."""

TEMPERATURE: Final = 4.0
"""Scores are divided by it, so that unlikely classes count."""


@dataclass(frozen=True, eq=False)
class Teacher:
    """A trained CNN that another one imitates.

    Parameters
    ----------
    network
        From pixels / 255 ``(N, C, H, W)`` to scores ``(N, outputs)``, see `design.Design.network`.
    record
        What a checkpoint says of it: ``architecture`` and ``sha256``.
    gives_probabilities
        Whether its scores are computed from probabilities, for which bfloat16 is too coarse.
    """

    network: nn.Module
    record: dict[str, JsonValue]
    gives_probabilities: bool = False

    @property
    def recorded(self) -> dict[str, JsonValue]:
        """The record for the checkpoint of what it teaches."""
        return {**self.record, "share": TEACHER_SHARE, "temperature": TEMPERATURE}


def teachers_loss(scores: Tensor, taught: Tensor, of_labels: Tensor) -> Tensor:
    """Return the loss of ``scores`` ``(N, outputs)`` with respect to those of the teacher, and to labels.

    The first is the Kullback-Leibler divergence of the classes' probabilities at `TEMPERATURE`, times its square, which
    keeps the size of gradients.
    """
    found, wanted = (functional.log_softmax(_two(each) / TEMPERATURE, 1) for each in (scores, taught))
    divergence = functional.kl_div(found, wanted, reduction="batchmean", log_target=True) * TEMPERATURE**2
    return (1 - TEACHER_SHARE) * of_labels + TEACHER_SHARE * divergence


def _two(scores: Tensor) -> Tensor:
    """``scores``; a single one is that of class 1, against 0."""
    return scores if scores.shape[1] > 1 else torch.cat([torch.zeros_like(scores), scores], 1)
