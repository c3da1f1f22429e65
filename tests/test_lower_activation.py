"""Clipped, leaky and repeated activations, and several kinds of them in one layer."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch
from support.lowering import (
    CONV,
    LINEAR,
    Case,
    assert_equals,
    assert_equals_module,
    bare,
    layers_of,
    lowered_case,
    of,
    same,
    stack,
)
from support.modules import Of, prepared, stepped
from torch import Tensor, nn
from torch.nn import functional

from loihi_convert.cnn.qcfs import Qcfs
from loihi_convert.errors import UnsupportedModelError
from loihi_convert.ground.arrays import by_channel
from loihi_convert.lowering import to_relu_network
from loihi_convert.lowering.operations import through
from loihi_convert.lowering.value import Population, Populations, Value, scaled, shifted
from loihi_convert.lowering.window import Window

ZERO = torch.zeros(1)

RELUS: dict[str, Callable[[Tensor], Tensor]] = {
    "threshold": lambda x: functional.threshold(x, 0, 0),
    "maximum with zeros": lambda x: torch.maximum(x, torch.zeros_like(input=x)),
    "zero and max": lambda x: torch.max(ZERO, x),
    "maximum, a method": lambda x: x.maximum(x.new_zeros(1)),
    "clamp from a tensor": lambda x: x.clamp(min=torch.tensor(0.0)),
    "where": lambda x: torch.where(x > 0, x, 0.0),
    "where not negative, zeros": lambda x: torch.where(x >= 0, x, torch.zeros_like(x)),
    "where, a method": lambda x: x.where(x.gt(0), ZERO),
    "times its sign": lambda x: x * (x > 0),
    "its sign times it": lambda x: (x > 0).to(x.dtype) * x,
    "where negative": lambda x: torch.where(x < 0, 0, x),
    "where not positive, zeros": lambda x: torch.where(torch.le(x, 0), torch.zeros_like(x), x),
    "where zeros are larger": lambda x: torch.where(torch.zeros_like(x) > x, ZERO, x),
    "where not, by a name": lambda x: torch.where(torch.logical_not(input=x > 0), torch.zeros_like(x), x),
    "where, a copy by a name": lambda x: torch.where(torch.clone(input=x > 0), x, 0.0),
    "masked": lambda x: x.masked_fill(x < 0, 0),
    "masked, by names": lambda x: torch.masked_fill(input=x, mask=~(x > 0), value=0),
}
IN_PLACE: dict[str, Callable[[Tensor], Any]] = {
    "masked": lambda x: x.masked_fill_(x < 0, 0),
    "assigned": lambda x: x.__setitem__(x < 0, 0),
    "assigned a tensor": lambda x: x.__setitem__(x < 0, ZERO),
    "times its sign": lambda x: x.mul_(x > 0),
}


def changed_input(m: Any, x: Tensor) -> Tensor:
    h = m.one(x)
    y = h.relu()
    h += 1
    clipped: Tensor = m.two(y.clamp(max=0.3))
    return clipped


LARGEST = torch.finfo(torch.float32).max


def bu(x: Tensor, threshold: Tensor, levels: int) -> Tensor:
    x = torch.clamp(x / threshold, 0, 1)
    return (x * levels + 0.5).floor() / levels * threshold


def bu_clamped_last(x: Tensor, threshold: Tensor, levels: int) -> Tensor:
    x = (x / threshold * levels + 0.5).floor() / levels
    return torch.clamp(x, 0, 1) * threshold


def lsq(x: Tensor, scale: float) -> Tensor:
    return (x / scale).round().clamp(0, 15) * scale


def straight_through(x: Tensor) -> Tensor:
    return (x.round() - x).detach() + x


ROUNDED: dict[str, tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]] = {
    "QCFS": (lambda x: bu(x, torch.tensor(0.4), 8), lambda x: bu_clamped_last(x, torch.tensor(0.4), 8)),
    "LSQ": (lambda x: (x / 0.05).clamp(0, 15).round() * 0.05, lambda x: (x / 0.05).round().clamp(0, 15) * 0.05),
    "ReLU, then a minimum": (
        lambda x: (x / 0.05).clamp(0, 15).round() * 0.05,
        lambda x: torch.minimum((x / 0.05).round().relu(), torch.tensor(15)) * 0.05,
    ),
}
"""Each clamped before it is rounded, and after."""


def ramp(x: Tensor, *shape: int) -> Tensor:
    """Constants from -0.3 to 0.3."""
    return torch.linspace(-0.3, 0.3, int(np.prod(shape))).reshape(shape).to(x)


def with_numbers_set_later(x: Tensor) -> Tensor:
    floor = torch.full_like(x, 0.1)
    y = torch.maximum(x, floor)
    floor.zero_()
    return y


CASES = {
    "minus its negative part": of(
        lambda m, x: m.last((y := m.conv(x)) - torch.minimum(y, torch.zeros_like(y))), conv=same(3), last=CONV(2, 3)
    ),
    "relu6": stack(CONV(5, 3), nn.ReLU6()),
    "threshold": stack(CONV(5, 3), nn.Threshold(0, 0), CONV(3, 3)),
    "hardtanh": stack(CONV(5, 3), nn.Hardtanh(0, 0.3)),
    "clamp": of(lambda m, x: m.conv(x).clamp(0, 0.2), conv=CONV(4, 3)),
    "clamp from 0": of(lambda m, x: m.conv(x).clamp(min=0), conv=CONV(4, 3)),
    "clamp_min and relu6": of(
        lambda m, x: functional.relu6(m.two(m.conv(x).clamp_min(0))), conv=CONV(4, 3), two=CONV(4, 3)
    ),
    "a clipped ReLU of a ReLU": stack(nn.Hardtanh(0, 0.2), CONV(5, 3), nn.ReLU()),
    "hardtanh below 0": stack(CONV(5, 3), nn.Hardtanh(-0.3, 0.2), CONV(4, 3, padding=1), nn.ReLU()),
    "hardtanh in place": stack(CONV(5, 3), nn.Hardtanh(-0.2, 0.3, inplace=True), CONV(3, 3)),
    "hardtanh, a function": of(lambda m, x: functional.hardtanh(m.conv(x)), conv=CONV(4, 3)),
    "clamp below 0": of(lambda m, x: m.two(m.one(x).clamp(-0.1, 0.2)), one=CONV(4, 3), two=CONV(3, 3, padding=1)),
    "guard before a ReLU": stack(CONV(5, 3), Of(lambda m, x: x.clamp(-65504, 65504)), nn.ReLU()),
    "guard before a ReLU in place": stack(CONV(5, 3), Of(lambda m, x: x.clamp(-2, 2)), nn.ReLU(inplace=True)),
    "guard before and beside a ReLU": of(
        lambda m, x: functional.relu(y := m.conv(x).clamp(-0.3, 0.2)) + m.two(y), conv=CONV(4, 3), two=CONV(4, 1)
    ),
    "guard before a ReLU, by a keyword": of(
        lambda m, x: m.relu(input=m.conv(x).clamp(-2, 2)), conv=CONV(4, 3), relu=nn.ReLU()
    ),
    "guard without an end": stack(CONV(5, 3), Of(lambda m, x: x.clamp(-float("inf"), float("inf"))), nn.ReLU()),
    "guard with one end": stack(CONV(5, 3), Of(lambda m, x: x.clamp(-float("inf"), 0.2)), nn.ReLU()),
    "hardtanh before a ReLU": of(lambda m, x: functional.hardtanh(m.conv(x), -1, 0.3).relu(), conv=CONV(5, 3)),
    "clamp above 0": of(lambda m, x: torch.clip(m.conv(x), min=0.1, max=0.4), conv=CONV(4, 3)),
    "clamp_min below 0": of(lambda m, x: m.conv(x).clamp_min(-0.1), conv=CONV(4, 3)),
    "clamp above the lower bounds of some channels": of(
        lambda m, x: (m.conv(x).relu() + ramp(x, 4, 1, 1)).clamp(min=0.2), conv=CONV(4, 3)
    ),
    "clamp of a ReLU below 0": of(
        lambda m, x: m.conv(x).relu().clamp(max=-0.1) + m.two(x), conv=CONV(4, 1), two=same(4)
    ),
    "clamp from above": of(lambda m, x: m.two(m.one(x).clamp(max=0.1)), one=CONV(4, 3), two=CONV(3, 3, padding=1)),
    "clamp_max below 0": of(lambda m, x: m.conv(x).clamp_max(-0.1), conv=CONV(4, 3)),
    "clamp of a ReLU whose input changed in place": of(changed_input, one=CONV(4, 3), two=CONV(3, 3, padding=1)),
    "clamp of a ReLU": stack(CONV(5, 3), nn.ReLU(), Of(lambda m, x: x.clamp(max=0.2))),
    "clamp of a function": of(lambda m, x: (y := functional.relu(m.conv(x))).clamp_max(0.2) + y, conv=CONV(4, 3)),
    "clamp of a ReLU in place": stack(CONV(5, 3), nn.ReLU(inplace=True), Of(lambda m, x: x.clamp(max=0.2))),
    "guard at the end": stack(CONV(5, 3), nn.ReLU(), nn.Flatten(), LINEAR(3), nn.Hardtanh(-32768, 32768)),
    "guard between linear layers": stack(CONV(5, 3), Of(lambda m, x: x.clamp(-1000, 1000)), CONV(4, 3)),
    "guard of signed pixels": bare(
        lambda m, x: m.head(m.conv((x - 2).clamp(-2.5, -0.9)).relu().flatten(1)), conv=CONV(4, 3), head=LINEAR(3)
    ),
    "clamps of a ReLU that change nothing": of(
        lambda m, x: m.two(m.one(x).relu().clamp(min=-1).clamp(0, 1e4)), one=CONV(4, 3), two=CONV(3, 3)
    ),
    "a ReLU, then between 0 and a number": of(lambda m, x: m.conv(x).relu().clamp(0, 0.2), conv=CONV(4, 3)),
    "hardtanh of a ReLU, above 0": stack(CONV(5, 3), nn.ReLU(), nn.Hardtanh(0.1, 0.2)),
    "clamps in place": of(lambda m, x: m.two(m.one(x).clamp_(-0.1, 0.2)).clamp_max_(0.1), one=same(4), two=same(4)),
    "clamp of a sum of ReLUs": of(lambda m, x: (m.one(x).relu() + x).clamp(max=0.4), one=same(4)),
    "clamps that exclude each other": of(
        lambda m, x: m.one(x).clamp(0.2, 0.3).clamp(max=0.1) + m.two(x), one=same(4), two=same(4)
    ),
    "clipped beside plain": of(lambda m, x: m.conv(x).clamp(0, 0.2) + x, conv=CONV(4, 3, padding=1)),
    "leaky": stack(CONV(5, 3), nn.LeakyReLU(0.2), CONV(5, 3, padding=1), nn.LeakyReLU(0.1)),
    "leaky_relu": of(lambda m, x: functional.leaky_relu(m.conv(x)), conv=CONV(4, 3)),
    "leaky with a skip": of(
        lambda m, x: functional.leaky_relu(m.two(functional.leaky_relu(m.one(x), 0.3)) + x, 0.1),
        one=CONV(4, 3, padding=1),
        two=CONV(4, 3, padding=1),
    ),
    "PReLU": stack(CONV(5, 3), nn.PReLU(init=-0.3), CONV(4, 3), nn.ReLU()),
    "PReLU per channel": Case(
        lambda: nn.Sequential(CONV(5, 3), nn.PReLU(5), nn.Flatten(), LINEAR(6), nn.PReLU(6), LINEAR(3))
    ),
    "prelu": of(lambda m, x: functional.prelu(m.conv(x), m.conv.bias), conv=CONV(4, 3)),
    "PReLU of flattened maps": stack(CONV(5, 3), nn.Flatten(), nn.PReLU(init=0.3)),
    "RReLU": stack(CONV(5, 3), nn.RReLU(), CONV(5, 3, padding=1), nn.RReLU(-0.2, 0.4)),
    "rrelu": of(lambda m, x: functional.rrelu(m.conv(x), upper=0.5), conv=CONV(4, 3)),
    "Hardsigmoid": stack(CONV(5, 3), nn.Hardsigmoid(), same(3)),
    "hardsigmoid": of(lambda m, x: functional.hardsigmoid(20 * m.conv(x)), conv=CONV(4, 3)),
    "Softshrink": stack(CONV(5, 3), nn.Softshrink(0.1), CONV(3, 3)),
    "softshrink": of(lambda m, x: functional.softshrink(m.two(m.one(x)), lambd=0.05), one=CONV(4, 3), two=CONV(4, 3)),
    "absolute values": of(lambda m, x: m.two(abs(m.one(x))).abs(), one=CONV(4, 3), two=CONV(4, 3)),
    "of flattened maps": stack(CONV(5, 3), nn.Flatten(), nn.ReLU()),
    "twice": stack(nn.ReLU(), CONV(4, 3), nn.ReLU(), nn.ReLU(), nn.Flatten(), nn.ReLU()),
    "maximum with a number": of(lambda m, x: torch.maximum(m.conv(x), torch.tensor(0.2)), conv=CONV(4, 3)),
    "minimum with a number": of(
        lambda m, x: m.two(torch.minimum(m.one(x).relu(), torch.full((1, 1, 1), 0.1))), one=CONV(4, 3), two=CONV(3, 3)
    ),
    "maximum with a number per channel": of(lambda m, x: torch.maximum(m.conv(x), ramp(x, 4, 1, 1)), conv=CONV(4, 3)),
    "minimum with a number per pixel": of(
        lambda m, x: m.two(torch.min(ramp(x, 1, 6, 6), m.one(x))), one=CONV(4, 3), two=CONV(3, 3)
    ),
    "maximum with numbers set later": of(lambda m, x: with_numbers_set_later(m.conv(x)), conv=CONV(4, 3)),
    "clamp, all by keyword": of(lambda m, x: torch.clamp(input=m.conv(x), min=0, max=0.2), conv=CONV(4, 3)),
    "clamp up to the largest float": of(lambda m, x: m.conv(x).clamp(-LARGEST, 0.2), conv=CONV(4, 3)),
    # Bu et al. (ICLR 2022), module IF of the official code: floor of a multiple of 1 / 8.
    "QCFS": of(lambda m, x: m.two(bu(m.one(x), torch.tensor(0.4), 8)), one=CONV(4, 3), two=CONV(3, 3, padding=1)),
    "QCFS, clamped last, thresholds per channel": of(
        lambda m, x: m.two(bu_clamped_last(m.one(x), ramp(x, 2, 1, 1) + 0.5, 8)), one=CONV(2, 3), two=CONV(3, 3)
    ),
    "LSQ": of(lambda m, x: (m.one(x) / 0.05).clamp(0, 15).round() * 0.05, one=CONV(4, 3)),
    "LSQ, straight-through gradient": of(
        lambda m, x: straight_through((m.one(x) / 0.05).clamp(0, 15)) * 0.05, one=CONV(4, 3)
    ),
    "a sum plus one of its numbers": of(
        lambda m, x: (m.one(x).relu() + (y := m.two(x))) + y, one=CONV(4, 3), two=CONV(4, 3)
    ),
    "a number minus its sum with a ReLU": of(
        lambda m, x: (y := m.one(x)) - (y + m.two(x).relu()), one=CONV(4, 3), two=CONV(4, 3)
    ),
    "LSQ, straight-through gradient, clamped last": of(
        lambda m, x: straight_through(m.one(x) / 0.05).clamp(0, 15) * 0.05, one=CONV(4, 3)
    ),
    "LSQ, clamped last, after batch norm of one channel": of(
        lambda m, x: lsq(-m.norm(m.one(x)), 0.2), one=CONV(1, 3), norm=nn.BatchNorm2d(1)
    ),
    "LSQ, clamped last, of the negative part": of(lambda m, x: lsq(-m.one(x), 0.05), one=CONV(4, 3)),
    "LSQ, a ReLU and a maximum": of(lambda m, x: (m.one(x).relu() / 0.05).round().clamp(max=15) * 0.05, one=CONV(4, 3)),
    "LSQ, clamps before and after": of(
        lambda m, x: (m.one(x).clamp(0, 0.23) / 0.1).round().clamp(0, 4) * 0.1, one=CONV(4, 3)
    ),
    "QCFS, clamped last, after batch norm of one channel": of(
        lambda m, x: bu_clamped_last(-m.norm(m.one(x)), torch.tensor(2.4), 8), one=CONV(1, 3), norm=nn.BatchNorm2d(1)
    ),
    "two of one value": of(lambda m, x: torch.cat([(y := m.conv(x)).relu(), (-1 * y).relu()], 1), conv=CONV(4, 3)),
}


@pytest.mark.parametrize("name", CASES)
def test_the_chain_equals_the_module(name: str) -> None:
    assert_equals_module(CASES[name])


@pytest.mark.parametrize("name", ROUNDED)
def test_clamping_after_rounding_is_clamping_before(name: str) -> None:
    before, after = ROUNDED[name]
    # The middles between levels, where they round up, and the floats beside them; numbers on both sides of the bounds.
    middles = (torch.arange(-20, 40) + 0.5) * 0.05
    beside = [torch.nextafter(middles, torch.tensor(bound)) for bound in (-9.0, 9.0)]
    points = torch.cat([torch.linspace(-1, 2, 100_001), middles, *beside])
    assert torch.equal(before(points), after(points))
    case, other = (
        of(lambda m, x, function=function: m.two(function(m.one(x))), one=CONV(4, 3), two=CONV(3, 3))
        for function in (after, before)
    )
    assert_equals_module(case)
    layers = [lowered_case(each).layers[1] for each in (case, other)]
    assert layers[0].levels == layers[1].levels is not None
    # In units of the threshold.
    weights = [each.synapse.weight / by_channel(np.array(each.threshold), 4) for each in layers]
    np.testing.assert_allclose(*weights, rtol=1e-12)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x / 0.1).round().clamp(0, 3.4),
        lambda x: (x / 0.1).round().clamp(1, 4),
        lambda x: ((x / 0.1).round() + 0.2).clamp(0, 4),
        # An offset of 0.9 levels.
        lambda x: ((x / 1e-4).round() * 1e-4 + 0.9e-4).clamp(0, 4e-4),
        lambda x: (x / 0.1).floor().clamp(0, 4),
        lambda x: (-(x / 0.1).round()).clamp(0, 4),
        lambda x: (y := (x / 0.1).round()).clamp(0, 4) + y,
        lambda x: ((x / 0.1).round() * 0).clamp(0, 4),
        lambda x: (x.relu() / 0.1).round().clamp(1, 4),
        lambda x: (x / 0.1).round().relu(),
        lambda x: (x / 0.1).round().clamp(max=4),
    ],
)
def test_other_rounding_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        lowered_case(of(lambda m, x: function(m.conv(x)), conv=same(2)))
    assert raised.value.found.endswith("rounds something else than a clipped ReLU")


def lsq_clamped_before(x: Tensor, scale: float) -> Tensor:
    return (x / scale).clamp(0, 15).round() * scale


def fixed_point(conv: nn.Module, x: Tensor, bits: int) -> Tensor:
    weight, bias = (torch.round(each * 2**bits) / 2**bits for each in (conv.weight, conv.bias))
    return functional.conv2d(x, weight, bias, padding=1)


def of_the_image(function: Callable[..., Tensor], quantized: Callable[[Tensor, float], Tensor]) -> Case:
    modules = {"conv": same(2), "norm": nn.BatchNorm2d(2), "head": LINEAR(3)}
    return bare(lambda m, x: m.head(function(m, x, quantized).relu().flatten(1)), **modules)


@pytest.mark.parametrize("quantized", [lsq, lsq_clamped_before])
@pytest.mark.parametrize(
    "function",
    [
        # Quarters of a level, pooled levels, weights in fixed point, and pixels.
        lambda m, x, q: q(functional.avg_pool2d(q(m.conv(x), 1 / 16), 2), 1 / 16),
        lambda m, x, q: q((y := q(m.conv(x), 0.1)) + q(m.conv(y), 0.1), 0.2),
        lambda m, x, q: q(functional.max_pool2d(q(m.conv(x), 0.1).flip(1).relu(), 2), 0.2),
        lambda m, x, q: q(fixed_point(m.conv, q(m.conv(x), 1 / 16), bits=5), 1 / 16),
        lambda m, x, q: m.conv(q(x * 3 - 1, 6 / 255)),
    ],
)
def test_rounding_to_even_is_refused_where_numbers_are_often_halfway(
    function: Callable[..., Tensor], quantized: Callable[[Tensor, float], Tensor]
) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        lowered_case(of_the_image(function, quantized))
    assert raised.value.found.endswith(
        "rounds pixels or levels, which often lie halfway between two levels, to the even one"
    )


@pytest.mark.parametrize("quantized", [lsq, lsq_clamped_before])
@pytest.mark.parametrize(
    "function",
    [
        lambda m, x, q: m.conv(q(m.conv(q(m.conv(x), 0.1)), 0.2)),
        # Halves of a level, plus weighted sums.
        lambda m, x, q: q(m.norm(m.conv(y := q(m.conv(x), 1 / 16))) / 8 + y, 1 / 8),
        lambda m, x, q: m.conv(bu(functional.avg_pool2d(q(m.conv(x), 1 / 16), 2), torch.tensor(1.0), 16)),
        lambda m, x, q: m.conv(bu_clamped_last(functional.avg_pool2d(q(m.conv(x), 1 / 16), 2), torch.tensor(1.0), 16)),
    ],
)
def test_other_rounding_of_rounded_numbers_is_read(
    function: Callable[..., Tensor], quantized: Callable[[Tensor, float], Tensor]
) -> None:
    assert_equals_module(of_the_image(function, quantized))


def test_thresholds_of_negated_numbers_are_positive() -> None:
    first = lowered_case(CASES["LSQ, clamped last, of the negative part"]).layers[1]
    assert first.threshold is not None
    assert (first.threshold > 0).all()


@pytest.mark.parametrize("name", RELUS)
def test_a_relu_by_another_name_is_a_relu(name: str) -> None:
    case = of(lambda m, x: m.last(RELUS[name](m.conv(x))), conv=same(3), last=CONV(2, 3))
    assert_equals_module(case)
    assert layers_of(case) == "2x8x8-4c3-3c3-3"


@pytest.mark.parametrize("name", IN_PLACE)
def test_a_relu_in_place_changes_what_others_take(name: str) -> None:
    def function(m: Any, x: Tensor) -> Tensor:
        y = m.conv(x)
        IN_PLACE[name](y)
        joined: Tensor = m.last(y) + y
        return joined

    assert_equals_module(of(function, conv=same(3), last=same(3)))


def of_an_earlier_sign(x: Tensor) -> Tensor:
    sign = x > 0
    x += 1
    return x * sign


@pytest.mark.parametrize(
    "function",
    [
        of_an_earlier_sign,
        lambda x: torch.where(x > 0, x, 1.0),
        lambda x: torch.where(x > 0.5, x, 0.0),
        lambda x: torch.where(x < 0, 0.0, x + 1),
        lambda x: x.masked_fill(x < 0, 1),
        lambda x: x * (x > 0).to(x.dtype) + (x > 0),
        lambda x: functional.threshold(x, 0.5, 0),
        lambda x: x.clamp(min=torch.tensor([[[0.0]], [[0.1]]])),
    ],
)
def test_what_looks_like_a_relu_is_refused(function: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        lowered_case(of(lambda m, x: function(m.conv(x)), conv=same(2)))
    assert "(after conv)" in str(raised.value.where)


@pytest.mark.parametrize(
    "function",
    [
        lambda x: torch.where(x < 0, x, 0.0),
        lambda x: x.masked_fill(x > 0, 0),
        lambda x: x * ~(x > 0),
        lambda x: torch.maximum(x, ZERO, out=x + 1),
    ],
)
def test_what_is_made_of_a_relu_is_read(function: Callable[[Tensor], Tensor]) -> None:
    assert_equals_module(of(lambda m, x: function(m.conv(x)), conv=same(2)))


@pytest.mark.parametrize(
    ("name", "copies", "expected"),
    [
        ("leaky", 1, "2x8x8-4c3-10c3-10c3-3"),
        ("RReLU", 1, "2x8x8-4c3-10c3-10c3-3"),
        ("Hardsigmoid", 1, "2x8x8-4c3-5c3-3"),
        ("Softshrink", 1, "2x8x8-4c3-10c3-3"),
        ("clamp of a ReLU", 1, layers_of(CASES["hardtanh"])),
        ("guard before a ReLU", 1, layers_of(CASES["hardtanh"])),
        ("hardtanh before a ReLU", 1, layers_of(CASES["hardtanh"])),
        ("clamp of a ReLU in place", 1, layers_of(CASES["hardtanh"])),
        ("a ReLU, then between 0 and a number", 1, "2x8x8-4c3-4c3-3"),
        ("clamps of a ReLU that change nothing", 1, "2x8x8-4c3-4c3-3"),
        ("guard at the end", 1, "2x8x8-4c3-5c3-3"),
        ("guard between linear layers", 1, "2x8x8-4c3-3"),
        ("guard of signed pixels", 1, "2x8x8-4c3-3"),
        ("clamp of a sum of ReLUs", 1, "2x8x8-4c3-4c3+4r-4c1-3"),
        ("LSQ, straight-through gradient", 1, "2x8x8-4c3-4c3-3"),
        ("LSQ, straight-through gradient, clamped last", 1, "2x8x8-4c3-4c3-3"),
    ],
)
def test_layers(name: str, copies: int, expected: str) -> None:
    assert layers_of(CASES[name], copies) == expected


def neurons(populations: Populations, value: Value, **activation: Any) -> Value:
    return populations.add(Population("neurons", value, **activation))


def weighted(value: Value, *weights: float, pad: int = 0) -> Value:
    """The sum of both channels with ``weights``, with ``pad`` zeros around them."""
    size = (4 + 2 * pad, 4 + 2 * pad)
    return through(value, Window(np.reshape(weights, (1, 2, 1, 1)).astype(np.float64), size, padding=(pad, pad)))


@pytest.mark.parametrize(
    ("function", "low", "high"),
    [
        (lambda made, x: shifted(scaled(x, np.array([1.0, -3.0])), np.array([-2.0, 0.5])), [-2, -2.5], [-1, 0.5]),
        (lambda made, x: shifted(weighted(x, 3, -5), np.ones(1)), [-4], [4]),
        # Around the map it is 0, within it 2 minus both pixels.
        (lambda made, x: weighted(shifted(x, -np.ones(2)), -1, -1, pad=1), [-2], [2]),
        (lambda made, x: weighted(neurons(made, shifted(x, np.array([-0.25, 5])), ceiling=3), 1, -1), [-3], [0.75]),
        (lambda made, x: weighted(neurons(made, x, threshold=np.array([0.5, 2]), levels=4), -1, 1), [-1], [2]),
        (lambda made, x: made.carried(shifted(scaled(x, -4.0), np.array([1.0, 5.0])), ""), [-3, 0], [1, 5]),
        (lambda made, x: scaled(neurons(made, scaled(neurons(made, x), 2.0)), -1.0), [-2, -2], [0, 0]),
    ],
)
def test_bounds_hold_for_all_images(
    function: Callable[[Populations, Value], Value], low: list[float], high: list[float]
) -> None:
    """Pixels are in 0..1. Rounding errors may move a bound outwards, by a millionth of its terms, but not one of 0."""
    populations = Populations((2, 4, 4))
    found = populations.bounds(function(populations, populations.image()))
    for bound, wanted, outwards in zip(found, (low, high), (-1, 1), strict=True):
        assert (outwards * (bound - wanted) >= 0).all()
        assert bound == pytest.approx(wanted, rel=1e-5, abs=0)


def test_ceilings_and_thresholds_stand_beside_channels_without() -> None:
    """ReLU6 in one branch, QCFS in another, ReLU in the third, and a relay: one layer has them all."""
    model = Of(
        lambda m, x: m.head(
            torch.cat(
                [m.a(y := m.stem(x).relu()).clamp(0, 0.2), m.steps(m.b(y)), m.c(y).relu() + m.d(m.a(y)).relu()], 1
            ).flatten(1)
        ),
        stem=same(4),
        a=same(2),
        b=same(2),
        c=same(3),
        d=CONV(3, 1),
        steps=Qcfs(2, 4),
        head=LINEAR(3),
    )
    case = Case(lambda: model)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Qcfs, "forward", lambda q, x: stepped(x, q.thresholds.reshape(-1, 1, 1), q.levels))
        prepared(model, case.shape)
        model.steps.threshold.data.copy_(torch.tensor([0.2, 0.4]))
        network = to_relu_network(model, case.shape)
        assert_equals(model, network, case)
    layer = network.layers[1]
    assert layer.levels == 4
    assert layer.threshold is not None
    assert layer.ceiling is not None
    assert sorted(layer.threshold[~np.isnan(layer.threshold)].tolist()) == pytest.approx([0.2, 0.4])
    assert np.sort(layer.ceiling)[:3].tolist() == [0.2, 0.2, np.inf]


def test_other_numbers_of_levels_in_one_layer_are_refused() -> None:
    model = Of(
        lambda m, x: m.head(torch.cat([m.few(m.a(x)), m.many(m.b(x))], 1).flatten(1)),
        a=nn.Conv2d(2, 2, 3),
        b=nn.Conv2d(2, 2, 3),
        few=Qcfs(2, 4),
        many=Qcfs(2, 8),
        head=nn.Linear(4 * 36, 3),
    )
    with pytest.raises(UnsupportedModelError) as caught:
        to_relu_network(model, (2, 8, 8))
    assert caught.value.found == "has Qcfs activations with 4 and 8 levels in one layer"
    model.many = Qcfs(2, 4)
    assert to_relu_network(model, (2, 8, 8)).layers[0].levels == 4


def test_a_ceiling_is_above_0() -> None:
    """A threshold of 0 or less could not stand for it: min(relu(x), -0.1) is a constant, which needs no neuron."""
    case = CASES["clamp of a ReLU below 0"]
    network = to_relu_network(prepared(case.make(), case.shape), case.shape)
    assert [layer.ceiling for layer in network.layers] == [None] * len(network.layers)
