"""The reader of recorded runs makes the networks of the traced reader, and reads models which that one refuses."""

from __future__ import annotations

import time
from itertools import pairwise

import pytest
import test_lower
import test_lower_activation
import test_lower_affine
import test_lower_concat
import test_lower_groups
import test_lower_linear
import test_lower_max_pool
import test_lower_moves
import test_lower_pooling
import test_lower_residual
import torch
from support.compare_readers import difference
from support.lowering import CONV, LINEAR, Case, assert_equals, bare, of, same
from support.modules import Of, prepared
from torch import Tensor, nn
from torch.nn import functional

from loihi_convert.frontend.from_torch.reader import read_graph as traced
from loihi_convert.frontend.lower import lowering, to_relu_network
from loihi_convert.read.reader import read_graph as recorded

TABLES = (
    test_lower,
    test_lower_activation,
    test_lower_affine,
    test_lower_concat,
    test_lower_groups,
    test_lower_linear,
    test_lower_max_pool,
    test_lower_moves,
    test_lower_pooling,
    test_lower_residual,
)
CASES = {f"{table.__name__}: {name}": case for table in TABLES for name, case in table.CASES.items()}

# The networks are equal, but PyTorch pads the map by a row or column more, which the convolution then reads.
EVEN_KERNEL = "macs"

DIFFERENT = {
    "test_lower_linear: an even kernel that keeps the size": EVEN_KERNEL,
    "test_lower_linear: a dilated even kernel that keeps the size": EVEN_KERNEL,
    "test_lower_linear: an even kernel of signals that keeps the size": EVEN_KERNEL,
}
"""How the first difference begins."""
