"""Weight bits that an identity costs the convolution in its layer, and the number of relays per skip."""

from __future__ import annotations

import math

import numpy as np
import pytest
from support.relay_networks import NETWORKS, images, residual
from test_balance import random_cnn

from loihi_convert.conversion.balancing import balance
from loihi_convert.conversion.copies import choose_copies
from loihi_convert.conversion.flow import identity_ratio, report_quantization
from loihi_convert.conversion.options import BalanceOptions, ConversionOptions, QuantizeOptions
from loihi_convert.conversion.quantization import quantize
from loihi_convert.ir.network import ReluNetwork
from loihi_convert.ir.synapse import Conv, Dense
from loihi_convert.report.conversion_tables import quantization_table

OPTIONS = BalanceOptions(method="percentile")


def test_an_identity_is_compared_with_the_largest_other_weight() -> None:
    """Ratios 6 : 2 and 4 : 4; the last output only has weights of a relay, so nothing is compared."""
    weight = np.array([[1.0, -2, 6, 0, 0], [4, 1, 0, -4, 0], [0, 0, 0, 0, 9]])
    relay_of = np.array([-1, -1, 0, 1, 2])
    assert identity_ratio(Dense(weight), relay_of) == (3 + 1) / 2
    assert identity_ratio(Dense(weight), None) is None
    assert identity_ratio(Dense(weight), np.full(5, -1)) is None
    kernel = np.zeros((3, 5, 3, 3))
    kernel[:, :, 1, 1] = weight
    kernel[0, 0, 2, 2] = -3
    assert identity_ratio(Conv(kernel), relay_of) == (2 + 1) / 2


def test_a_relay_with_several_weights_is_not_an_identity() -> None:
    """A 1 x 1 shortcut or a separate kernel counts as ordinary weights."""
    assert identity_ratio(Dense(np.array([[1.0, 5], [1, 5]])), np.array([-1, 0])) is None
    kernel = np.ones((1, 2, 1, 2))
    assert identity_ratio(Conv(kernel * 5), np.array([-1, 0])) is None


def test_groups_are_compared_separately() -> None:
    """Two groups of two inputs: in the second group the relay's weight is 5 times the other one."""
    weight = np.array([[1.0, 2], [1, 5]]).reshape(2, 2, 1, 1)
    assert identity_ratio(Conv(weight, groups=2), np.array([-1, -1, -1, 0])) == 5


def test_the_report_gives_the_cost_of_a_skip() -> None:
    for name, has_identity in (("residual", [False, False, True, False]), ("strided", [False] * 4)):
        spiking = balance(NETWORKS[name], images(), 4, OPTIONS)
        report = report_quantization(quantize(spiking, images()), spiking, images())
        assert [layer.identity_ratio is not None for layer in report.layers] == has_identity
        table = quantization_table(report)
        assert any(header.startswith("identity") for header in table.headers) == any(has_identity)
        assert ("Identity" in table.caption) == any(has_identity)
        for layer in report.layers:
            if layer.identity_ratio is not None:
                assert layer.identity_bits == max(0, math.log2(layer.identity_ratio))


def test_copies_restore_the_bits() -> None:
    """With r copies of weight 1/r the ratio is r times smaller, so the other integers are larger."""
    ratios = []
    for copies in (1, 2, 4):
        spiking = balance(residual(copies, seed=1), images(), 4, OPTIONS)
        ratio = report_quantization(quantize(spiking, images()), spiking, images()).layers[2].identity_ratio
        assert ratio is not None
        ratios.append(ratio)
    assert ratios == pytest.approx([ratios[0], ratios[0] / 2, ratios[0] / 4], rel=0.02)
    assert ratios[0] > 3


def test_copies_are_chosen_if_agreement_improves() -> None:
    """With 4 bits a convolution next to a skip of one relay keeps hardly any levels."""
    seen: list[int] = []

    def variant(copies: int) -> ReluNetwork:
        seen.append(copies)
        return residual(copies)

    best, *others = choose_copies(variant, images(400), 8, ConversionOptions(OPTIONS, QuantizeOptions(weight_bits=4)))
    # With two copies an identity costs nothing, so four are not tried.
    assert seen == [1, 2]
    assert (best.copies, [trial.copies for trial in others]) == (2, [1])
    assert best.agreement > others[0].agreement + 0.1
    assert (best.identity_bits, best.neurons) == (0, others[0].neurons + 4 * 64)
    assert best.image_count == 200


def test_copies_without_a_gain_are_not_chosen() -> None:
    """Eight bits are enough for identity and convolution."""
    best, *others = choose_copies(lambda copies: residual(copies, seed=2), images(400), 8, ConversionOptions(OPTIONS))
    assert best.copies == 1
    assert len(others) > 0


def test_without_a_skip_nothing_is_tried() -> None:
    calibration = np.random.default_rng(0).integers(0, 256, (60, 1, 8, 8)).astype(np.uint8)
    (trial,) = choose_copies(lambda copies: random_cnn(copies), calibration, 4)
    assert (trial.copies, trial.identity_bits) == (1, 0)
