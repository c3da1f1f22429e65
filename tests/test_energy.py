"""Estimates of energy and time: by hand, what they grow with, and that no number stands without its boundary."""

from __future__ import annotations

from dataclasses import replace

import pytest
from pydantic import ValidationError
from support.evaluations import entry
from test_evaluate import full_evaluation, small_network, small_run

from loihi_convert.chip.energy import BOUNDARY, CONSTANTS, Constant, Estimate, NetworkSize, energy, estimate
from loihi_convert.metrics.evaluation import Evaluation, evaluate
from loihi_convert.report.run_tables import energy_table
from loihi_convert.report.table import quantity, quantity_range


def in_picojoules(joules: tuple[float, float]) -> list[float]:
    return [pytest.approx(end * 1e12) for end in joules]


def test_an_estimate_by_hand() -> None:
    """8 + 3 neurons, T = 2: 22 updates. 5 spikes reach 15 synapses; pixels reach 68 in each step, 136 in both.

    Energy, low: 23.6 x 15 + 52 x 22 + 1.7 x 5 = 354 + 1144 + 8.5; high: 35.5 x (15 + 136) + 81 x 22 + 213.9 x 5
    = 5360.5 + 1782 + 1069.5, a spike being 69.3 + 111.0 + 7 x 3.0 + 3 x 4.2. Time, four steps with two layers: low
    (3.1 x 15 + 5.3 x 22 + 2.1 x 5) / 128 + 113 x 4 = 173.6 / 128 + 452; high, on one core, 4.7 x 151 + 9.7 x 22
    + 51.1 x 5 + 1800 x 4 = 1178.6 + 7200. Arithmetic, low: 0.03 x (15 + 22) + 0.23 x 68; high: 0.9 x 37 + 4.6 x 136.
    """
    found = estimate(NetworkSize([8, 3], 68), 2, 5.0, 15.0)
    assert found.membrane_updates == 22
    assert in_picojoules(found.loihi1_joules) == [1506.5, 8212.0]
    assert [pytest.approx(end * 1e9) for end in found.loihi1_seconds] == [453.35625, 8378.6]
    assert in_picojoules(found.arithmetic_joules) == [16.75, 658.9]
    # 74 multiplications of the CNN.
    assert in_picojoules(energy([found], 74).cnn_arithmetic_joules) == [17.02, 340.4]


def test_poisson_pixels_are_added_not_multiplied() -> None:
    """The same counts: low 0.03 x (15 + 22), without pixels; high 0.9 x (15 + 22 + 136). Loihi's bounds stay."""
    found, numbers = (estimate(NetworkSize([8, 3], 68, is_poisson), 2, 5.0, 15.0) for is_poisson in (True, False))
    assert in_picojoules(found.arithmetic_joules) == [1.11, 155.7]
    assert found.loihi1_joules == numbers.loihi1_joules


def test_an_evaluation_of_a_poisson_file_adds_its_pixels() -> None:
    first, *rest = small_network().layers
    network = replace(small_network(), layers=(replace(first, largest_input=1), *rest), poisson_seed=0)
    found = evaluate(small_run(), network).energy
    assert found is not None
    for one in found.estimates:
        counted = (one.timesteps, one.spikes, one.synaptic_operations)
        assert one == estimate(NetworkSize([8, 3], 68, True), *counted)
    assert "without their Poisson spikes" in found.boundary


def test_more_neurons_than_a_core_or_a_chip_holds_take_more_of_them() -> None:
    """1,025 neurons need a second core, 131,073 a second chip: the same work is then done in half the time."""

    def working_time(neurons: int, end: int) -> float:
        idle = estimate(NetworkSize([neurons], 0), 1, 0, 0).loihi1_seconds[end]
        return estimate(NetworkSize([neurons], 0), 1, 0, 1e6).loihi1_seconds[end] - idle

    assert working_time(1025, 1) == pytest.approx(working_time(1024, 1) / 2)
    assert working_time(131_073, 0) == pytest.approx(working_time(131_072, 0) / 2)


def test_an_evaluation_estimates_each_of_its_points_from_what_was_counted() -> None:
    evaluation = full_evaluation()
    assert evaluation.energy is not None
    assert [one.timesteps for one in evaluation.energy.estimates] == [point.timesteps for point in evaluation.points]
    for one, point in zip(evaluation.energy.estimates, evaluation.points, strict=True):
        assert one.spikes == point.spikes_per_image
        assert one.synaptic_operations == point.synaptic_operations
        # 8 + 3 neurons; the first layer multiplies 68 times.
        assert one == estimate(NetworkSize([8, 3], 68), point.timesteps, one.spikes, one.synaptic_operations)
    # 74 x 0.23 pJ.
    assert evaluation.energy.cnn_arithmetic_joules is not None
    assert evaluation.energy.cnn_arithmetic_joules[0] == pytest.approx(74 * 0.23e-12)


def test_no_number_without_its_boundary() -> None:
    found = full_evaluation().energy
    assert found is not None
    assert found.boundary.startswith("Estimated from counted spikes, not measured on a chip.")
    for left_out in ("static power", "host", "input and output", "without memory", "Loihi 2"):
        assert left_out in found.boundary
    assert found.constants == CONSTANTS
    assert all("doi:10." in constant.source and constant.leaves_out for constant in CONSTANTS)
    assert {(constant.event, constant.unit, constant.end) for constant in CONSTANTS} == {
        (constant.event, constant.unit, end) for constant in CONSTANTS for end in ("low", "high")
    }
    for low, high in zip(CONSTANTS[::2], CONSTANTS[1::2], strict=True):
        assert (low.event, low.end, high.end) == (high.event, "low", "high")
        assert low.value < high.value


def test_figures_that_make_no_sense_are_refused() -> None:
    whole = estimate(NetworkSize([1], 1), 1, 1, 1).model_dump()
    for change in ({"spikes": float("inf")}, {"watts": 3.0}, {"loihi1_joules": 1e-6}):
        with pytest.raises(ValidationError):
            Estimate.model_validate({**whole, **change})
    with pytest.raises(ValidationError, match="leaves_out"):
        Constant.model_validate({**CONSTANTS[0].model_dump(exclude={"leaves_out"})})


@pytest.mark.parametrize(
    ("value", "unit", "text"),
    [
        (0.0, "J", "0.00 pJ"),
        (1.7e-12, "J", "1.70 pJ"),
        (23.64e-12, "J", "23.6 pJ"),
        (999.4e-9, "s", "999 ns"),
        (999.6e-9, "s", "1.00 \N{MICRO SIGN}s"),
        (0.0125, "s", "12.5 ms"),
        (3.0, "J", "3.00 J"),
        (12_345.0, "J", "12345 J"),
    ],
)
def test_quantities(value: float, unit: str, text: str) -> None:
    assert quantity(value, unit) == text


def test_ranges() -> None:
    assert quantity_range((8.5e-5, 1.24e-3), "J") == "85.0 \N{MICRO SIGN}J..1.24 mJ"


def rows(evaluations: list[tuple[str, Evaluation]]) -> list[list[str]]:
    table = energy_table(evaluations)
    assert table is not None
    return list(map(list, table.rows))


def test_the_table_of_one_file_has_a_row_per_t_and_of_several_one_each() -> None:
    run, other = entry([20, 150, 190, 199]), entry([20, 150], name="other", balanced=2)
    found = rows([("model", run.evaluation)])
    # Two spikes a step, each reaching three synapses; 4 + 3 neurons.
    assert [row[:3] for row in found] == [["1", "6.0", "7.0"], ["2", "12.0", "14.0"], ["4", "24.0", "28.0"]]
    assert run.evaluation.energy is not None
    assert found[0][3] == quantity_range(run.evaluation.energy.estimates[0].loihi1_joules, "J")
    several = rows([("model", run.evaluation), ("other", other.evaluation)])
    assert [row[:2] for row in several] == [["model", "4"], ["other", "2"]]
    table = energy_table([("model", run.evaluation)])
    assert table is not None
    assert str(table.caption).startswith(BOUNDARY)
    # 16 multiplications.
    assert str(table.caption).endswith("The CNN: 3.68 pJ..73.6 pJ")
    unknown = energy_table([("model", entry([20, 150, 190, 199], has_cnn=False).evaluation)])
    assert unknown is not None
    assert "The CNN:" not in str(unknown.caption)
    assert energy_table([("old", run.evaluation.model_copy(update={"energy": None}))]) is None
