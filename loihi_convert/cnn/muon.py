"""Muon, an optimizer whose every step of a weight is an orthogonal matrix."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.nn import functional

_MUON_MOMENTUM: Final = 0.95
_RMS: Final = 0.2
_ITERATIONS: Final = 5
_COEFFICIENTS: Final = (3.4445, -4.775, 2.0315)
_SMALLEST: Final = torch.finfo(torch.float32).eps
"""Entries below it, as a share of the matrix's norm, are 0."""


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum 0.95 and decoupled weight decay: every step is an orthogonal matrix.

    It takes fewer epochs than AdamW or SGD (Jordan 2024, https://kellerjordan.github.io/posts/muon). `torch.optim.Muon`
    has the same arithmetic, but only for matrices, rounded to bfloat16, and only since torch 2.9.

    A weight of shape (out, ...) is a matrix with one row per output. A step has a root mean square of about 0.2
    ``lr``, which is AdamW's: learning rates and weight decays of the two are comparable (Liu et al. 2025, section 2.2).

    Parameters
    ----------
    parameters
        Weights of at least two dimensions.
    weight_decay
        >= 0.
    lr
        > 0.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], weight_decay: float, lr: float = 1e-3) -> None:
        super().__init__(parameters, {"lr": lr, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Take one step along the gradients; a weight without one stays."""
        for group in self.param_groups:
            for weight in group["params"]:
                if weight.grad is None:
                    continue
                state: dict[str, Any] = self.state[weight]
                if not state:
                    state["momentum"] = torch.zeros_like(weight)
                state["momentum"].lerp_(weight.grad, 1 - _MUON_MOMENTUM)
                direction = orthogonalized(weight.grad.lerp(state["momentum"], _MUON_MOMENTUM).flatten(1))
                rate = group["lr"] * _RMS * max(direction.shape) ** 0.5
                weight.mul_(1 - group["lr"] * group["weight_decay"])
                weight.sub_(direction.view(weight.shape), alpha=rate)


def orthogonalized(matrix: Tensor) -> Tensor:
    """Return about U V^T for ``matrix`` = U S V^T, by five iterations of Newton and Schulz.

    Singular values become 0.7 to 1.2, but those below about 0.002 of the norm stay smaller. Each iteration multiplies X
    from the left by a polynomial of X X^T, and so only these small square matrices are iterated: the longer side is
    needed for the first one and for the result ("Gram Newton-Schulz", https://dao-lab.ai/blog/2026/gram-newton-schulz;
    its restarts are for half precision).
    """
    if matrix.shape[0] > matrix.shape[1]:
        return orthogonalized(matrix.T).T
    # A norm of 1 bounds every singular value by 1. The momenta of channels that never fire fade; their products become
    # subnormal numbers, each of which takes a CPU many cycles.
    scaled: Tensor = functional.hardshrink(matrix / matrix.norm().clamp(min=1e-7), _SMALLEST)
    gram = scaled @ scaled.T
    factor = product = _polynomial(gram)
    for _ in range(_ITERATIONS - 1):
        gram = factor @ gram @ factor
        factor = _polynomial(gram)
        product = factor @ product
    even: Tensor = product @ scaled
    return even


def _polynomial(gram: Tensor) -> Tensor:
    """Return the polynomial of ``gram`` = X X^T by which one iteration multiplies X."""
    linear, cubic, quintic = _COEFFICIENTS
    factor: Tensor = torch.addmm(gram, gram, gram, beta=cubic, alpha=quintic)
    factor.diagonal().add_(linear)
    return factor
