"""The summary of a run: verdict, bars with a fair scale, known and unknown values."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support.evaluations import entry

from loihi_convert.cli import run_output
from loihi_convert.cli.run_output import (
    BAR_CELLS,
    RunScene,
    accuracy_scale,
    figure_table,
    loss_margin,
    remarks,
    say_run,
    verdict,
)
from loihi_convert.ground.statistics import POOR_CNN, Z_SCORE
from loihi_convert.metrics.evaluation import Evaluation
from loihi_convert.metrics.regression import RegressionOutputs
from loihi_convert.pipeline.running import FileRun, RunFolder

CURVE = (120, 190, 194, 196)


def _regression(
    *, has_targets: bool = True, has_cnn: bool = True, error: float = 0.1, cnn_error: float = 0.05
) -> Evaluation:
    """Return a regression of 200 images whose error falls to ``error`` at T = 4."""
    wanted = np.linspace(0, 1, 200)[:, None]
    outputs = np.stack([wanted + error * factor for factor in (4, 2, 1.5, 1)], axis=1)
    numbers = RegressionOutputs(
        ("y",), outputs, targets=wanted if has_targets else None, cnn_outputs=wanted + cnn_error if has_cnn else None
    )
    known = entry(CURVE, labels=None, has_cnn=False, has_float=False).evaluation
    return known.model_copy(update={"regression": numbers.evaluated([point.timesteps for point in known.points])})


@pytest.mark.parametrize(
    ("evaluation", "sentence"),
    [
        (entry(CURVE).evaluation, "98.00 % at T = 4 (CNN 99.50 %, loss 1.50 ±2.16 points)"),
        (entry(CURVE, has_cnn=False).evaluation, "98.00 % at T = 4"),
        (entry(CURVE[:2], has_cnn=False).evaluation, "95.00 % at T = 2 (made for T = 4)"),
        (entry(CURVE, balanced=2, has_cnn=False).evaluation, "98.00 % at T = 4 (made for T = 2)"),
        (entry(CURVE, labels=None).evaluation, "same class as the CNN on 98.00 % of images at T = 4 (no labels)"),
        (entry(CURVE, labels=None, has_cnn=False).evaluation, "ran at T = 4; accuracy unknown (no labels, no CNN)"),
        (_regression(), "RMSE 0.1 at T = 4 (CNN 0.05, R² 0.8812)"),
        (_regression(has_targets=False), "RMSE to the CNN 0.05 at T = 4 (no targets)"),
        (_regression(has_targets=False, has_cnn=False), "ran at T = 4; error unknown (no targets, no CNN)"),
    ],
)
def test_the_verdict_contains_the_known_values(evaluation: Evaluation, sentence: str) -> None:
    assert verdict([("m.net", evaluation)], "mnist") == f"m.net on mnist: {sentence}"


def test_the_best_of_several_files() -> None:
    figures = [(f"m-T{n}.net", entry(CURVE[:n], balanced=n).evaluation) for n in (1, 2, 4)]
    best = "m-T4.net, 98.00 % at T = 4 (CNN 99.50 %, loss 1.50 ±2.16 points)"
    assert verdict(figures, "mnist") == f"3 files on mnist, best: {best}"
    lines = figure_table(figures)
    assert [line.split()[:2] for line in lines[1:-1]] == [["m-T1.net", "1"], ["m-T2.net", "2"], ["m-T4.net", "4"]]
    assert lines[-1].split()[:2] == ["CNN", "99.50"]


@pytest.mark.parametrize(
    ("first", "better", "answer"),
    [
        (
            entry([100], labels=None, balanced=1).evaluation,
            entry([190], labels=None, balanced=1).evaluation,
            ", best: b.net, same class as the CNN on 95.00 % of images at T = 1 (no labels)",
        ),
        (
            entry([100], labels=None, has_cnn=False, balanced=1).evaluation,
            entry([190], labels=None, balanced=1).evaluation,
            ", best: b.net, same class as the CNN on 95.00 % of images at T = 1 (no labels)",
        ),
        (
            entry([100], labels=None, has_cnn=False).evaluation,
            entry([190], labels=None, has_cnn=False).evaluation,
            ": accuracy unknown (no labels, no CNN)",
        ),
        (_regression(error=0.2), _regression(), ", best: b.net, RMSE 0.1 at T = 4 (CNN 0.05, R² 0.8812)"),
        (
            _regression(has_targets=False, error=0.2),
            _regression(has_targets=False),
            ", best: b.net, RMSE to the CNN 0.05 at T = 4 (no targets)",
        ),
        (
            _regression(has_targets=False, has_cnn=False),
            _regression(has_targets=False, has_cnn=False),
            ": error unknown (no targets, no CNN)",
        ),
    ],
)
def test_the_best_of_several_files_by_what_is_known(first: Evaluation, better: Evaluation, answer: str) -> None:
    assert verdict([("a.net", first), ("b.net", better)], "x") == f"2 files on x{answer}"


def test_errors_of_different_cnns_have_a_column() -> None:
    same = figure_table([("a.net", _regression()), ("b.net", _regression(error=0.2))])
    assert same[0].split()[-2:] == ["R²", "SynOps"]
    assert same[-1].split()[:2] == ["CNN", "0.05"]
    lines = figure_table([("a.net", _regression()), ("b.net", _regression(cnn_error=0.03))])
    assert lines[0].split()[-3:] == ["CNN", "R²", "SynOps"]
    assert [line.split()[-3] for line in lines[1:]] == ["0.05", "0.03"]


def test_several_files_at_a_given_t() -> None:
    """Each at its own T and at the one asked for, which answers."""
    figures = [(f"m-T{n}.net", entry(CURVE, balanced=n).evaluation) for n in (1, 4)]
    lines = figure_table(figures)
    assert [line.split()[:2] for line in lines[1:-1]] == [["m-T1.net", "1"], ["m-T1.net", "4"], ["m-T4.net", "4"]]
    assert "best: m-T1.net, 98.00 % at T = 4 (made for T = 1)" in verdict(figures[:1] * 2, "mnist")


def test_each_t_has_a_bar_and_the_files_own_t_a_mark() -> None:
    lines = figure_table([("m.net", entry(CURVE).evaluation)])
    found = [re.fullmatch(r" +(\S+) +(\d+\.\d\d) %  (\S+)(.*)", line) for line in lines[1:]]
    names, _, bars, rest = zip(*(match.groups() for match in found if match), strict=True)
    assert names == ("1", "2", "4", "CNN")
    assert [len(bar) for bar in bars] == sorted(len(bar) for bar in bars)
    assert len(bars[-1]) == BAR_CELLS
    assert [text.endswith("<- this file's T") for text in rest] == [False, False, True, False]
    assert all(len(line) <= 80 for line in lines)


def test_a_difference_by_chance_is_at_most_a_quarter_of_a_bar() -> None:
    scale = accuracy_scale([0.994, 0.995], widest_interval=0.003)
    assert len(scale.bar(0.995)) - len(scale.bar(0.994)) <= BAR_CELLS * 0.001 / 0.012 + 1
    # If differences are large, the smallest value still has a visible bar.
    scale = accuracy_scale([0.30, 0.99], widest_interval=0.02)
    assert scale.bar(0.30)
    assert accuracy_scale([0.01, 0.02], widest_interval=0.1).low == 0
    assert accuracy_scale([1.0], widest_interval=0.0).bar(1.0) == "█" * BAR_CELLS


def test_no_bar_for_zero_if_nothing_is_larger() -> None:
    assert accuracy_scale([0.0, 0.0], widest_interval=0.0).bar(0.0) == ""


def test_a_loss_below_what_is_printed_has_no_sign() -> None:
    evaluation = entry(CURVE).evaluation
    (*points, last) = evaluation.points
    gained = last.model_copy(update={"conversion_loss_points": -0.004})
    evaluation = evaluation.model_copy(update={"points": (*points, gained)})
    assert "loss 0.00 " in verdict([("m.net", evaluation)], "mnist")


def test_the_interval_of_a_loss() -> None:
    (*_, point) = entry(CURVE).evaluation.points
    known = point.model_copy(update={"conversion_loss_points": 0.0, "agreement_with_cnn": 1.0})
    # Without any difference the loss is uncertain by points on 50 images, by hundredths on 10,000.
    assert loss_margin(known, 50) == pytest.approx(100 * Z_SCORE / 52)
    assert loss_margin(known, 10_000) == pytest.approx(0.0196, abs=1e-4)
    # 19 of 10,000 images get another class, and the loss is 15 images: b = 17, c = 2.
    known = point.model_copy(update={"conversion_loss_points": 0.15, "agreement_with_cnn": 0.9981})
    assert loss_margin(known, 10_000) == pytest.approx(100 * Z_SCORE * (20 - 225 / 10_002) ** 0.5 / 10_002)
    assert loss_margin(point.model_copy(update={"agreement_with_cnn": None}), 50) is None


def test_warnings_are_printed_for_doubtful_results() -> None:
    evaluation = entry(CURVE).evaluation.model_copy(update={"wrapped_images": 3, "saturated_images": 2})
    labels = [fact.label for fact in run_output.figure_facts(evaluation)]
    assert labels == ["energy", "warning", "warning"]
    assert not list(run_output.warnings(evaluation.model_copy(update={"wrapped_images": 0, "saturated_images": 0})))


@pytest.mark.parametrize(("agreement", "is_said"), [(0.98, True), (1.0, False)])
def test_a_file_that_gives_one_class_is_named_unless_its_cnn_does(agreement: float, is_said: bool) -> None:
    made = entry(CURVE)
    points = [
        point.model_copy(update={"agreement_with_cnn": agreement, "accuracy": 0.5}) for point in made.evaluation.points
    ]
    evaluation = made.evaluation.model_copy(update={"points": tuple(points)})
    result = replace(made.result, potentials=np.zeros_like(made.result.potentials))
    ran = FileRun(Path("model.net"), made.network, result, evaluation, equal_to_reference=0)
    labels = [fact.label for fact in remarks(ran, RunScene("mnist", "ref", 1.0))]
    assert labels == ["warning"] * is_said


def test_a_run_fits_on_a_screen(capsys: pytest.CaptureFixture[str]) -> None:
    made = entry(CURVE, exit_leads=[1, 6, 7, 8])
    ran = FileRun(Path("model.net"), made.network, made.result, made.evaluation, equal_to_reference=200)
    say_run(
        RunFolder(Path("runs/x"), (Path("runs/x/accuracy.csv"),), (ran,)),
        RunScene("mnist", "sim", 41.2),
        as_json=False,
        details=False,
    )
    lines = capsys.readouterr().out.splitlines()
    assert lines[1] == "200 test images, Lava's CPU simulator (sim): 0.5 s, 41 s in all"
    assert len(lines) <= 18
    assert all(len(line) <= 110 for line in lines)
    facts = {line[:10].strip(): line[12:] for line in lines[lines.index("", 3) + 1 :]}
    assert facts["equal"].startswith("Lava equals ref in every output potential and spike count")
    assert facts["early exit"] == ("2.00 of 4 steps on average: 95.00 %, 50 % fewer SynOps; loses 3.00 points here")
    assert facts["saved"] == "runs/x/"
    assert facts["next"] == "loihi-convert report runs/x"


@pytest.mark.parametrize(("poor", "whose"), [([True], ""), ([True, True], ""), ([False, True], "1.net: ")])
def test_a_poor_cnn_is_in_the_second_line(poor: list[bool], whose: str, capsys: pytest.CaptureFixture[str]) -> None:
    made, doubt = entry(CURVE), f"{POOR_CNN}classifies 10.00 % of these images."
    runs = []
    for number, is_poor in enumerate(poor):
        notes = (doubt, "another") if is_poor else ("another",)
        evaluation = made.evaluation.model_copy(update={"notes": notes})
        runs.append(FileRun(Path(f"{number}.net"), made.network, made.result, evaluation, 0))
    say_run(RunFolder(Path("runs/x"), (), tuple(runs)), RunScene("mnist", "ref", 1.0), as_json=False, details=False)
    out = capsys.readouterr().out
    assert out.splitlines()[1] == f"warning: {whose}{doubt}"
    assert (out.count(POOR_CNN), out.count("another")) == (1, 1)


def test_why_early_exit_is_missing_is_said_once(capsys: pytest.CaptureFixture[str]) -> None:
    made = entry(CURVE)
    runs = [FileRun(Path(f"{name}.net"), made.network, made.result, made.evaluation, 0) for name in "ab"]
    scene = RunScene("mnist", "ref", 1.0, no_early_exit="not evaluated")
    for as_json in (True, False):
        say_run(RunFolder(Path("runs/x"), (), tuple(runs)), scene, as_json=as_json, details=False)
        done = capsys.readouterr()
        assert (done.err if as_json else done.out).count("not evaluated") == 1


def test_details_contain_every_table(capsys: pytest.CaptureFixture[str]) -> None:
    made = entry(CURVE)
    ran = FileRun(Path("model.net"), made.network, made.result, made.evaluation, equal_to_reference=0)
    say_run(
        RunFolder(Path("runs/x"), (Path("runs/x/accuracy.csv"),), (ran,)),
        RunScene("mnist", "ref", 1.0),
        as_json=False,
        details=True,
    )
    out = capsys.readouterr().out
    assert "model.net on mnist: " in out
    assert "anytime readout" in out
    assert "firing" in out
    assert "No energy per operation" in " ".join(out.split())


def test_a_single_file_without_labels_does_not_have_bars() -> None:
    evaluation = entry(CURVE, labels=None, has_cnn=False).evaluation
    assert [line.split() for line in figure_table([("m.net", evaluation)])][:2] == [["T", "SynOps"], ["1", "6.0"]]


def test_errors_of_a_regression_have_bars_from_0() -> None:
    lines = figure_table([("m.net", _regression())])
    assert "bars from 0" in lines[0]
    assert "█" * BAR_CELLS in lines[1]
    assert lines[-1].split()[:2] == ["CNN", "0.05"]
