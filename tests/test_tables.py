"""Tables contain the values of the evaluation and of the quantization report, in 80 columns."""

from __future__ import annotations

import io
from dataclasses import replace
from typing import Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console
from support.evaluations import entry

from loihi_convert.conversion.flow import LayerReport, QuantizationReport
from loihi_convert.metrics.diagnosis import Diagnosis, LayerError, LayerLoss, Stage
from loihi_convert.report.conversion_tables import cause_table, divergence_table, quantization_table
from loihi_convert.report.figure import run_figure
from loihi_convert.report.run_tables import accuracy_table, early_exit_table, layer_table, per_t_table
from loihi_convert.report.table import Table, count
from loihi_convert.simulation.intermediate import Cause


def printed(table: Table) -> str:
    console = Console(file=io.StringIO(), width=80, color_system=None)
    console.print(table)
    output = console.file
    assert isinstance(output, io.StringIO)
    return output.getvalue()


def rows(table: Table) -> list[list[str]]:
    return list(map(list, table.rows))


def test_accuracy_table() -> None:
    evaluation = entry([20, 150, 190, 199]).evaluation
    table = accuracy_table(evaluation)
    # Images 198 and 199 have labels 0 and 1, the CNN predicts 0: 199 of 200 correct. SynOps: 6 per step.
    assert rows(table) == [
        ["1", "3", "99.50", "10.50", "10.00", "6.57-14.94", "89.50", "10.00", "2.0", "6.0"],
        ["2", "4", "99.50", "75.50", "75.00", "68.57-80.49", "24.50", "75.00", "4.0", "12.0"],
        ["4", "6", "99.50", "100.00", "99.50", "97.22-99.91", "0.00", "99.50", "8.0", "24.0"],
    ]
    text = printed(table)
    assert "200 images in 0.5 s (400 images/s, 0.2 s to start)" in text
    assert "made for T = 4; anytime readout: potentials" in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert "end of Loihi's range" not in text


def test_notes_are_below_the_accuracies() -> None:
    run = entry([20, 150])
    noted = run.evaluation.model_copy(update={"notes": ("All [red] images are one.",)})
    for table in (accuracy_table(noted), per_t_table([("a", noted), ("b", run.evaluation), ("c", noted)])):
        assert table.caption.splitlines()[1:] == ["All [red] images are one."]
        assert "All [red] images are one." in printed(table)


def test_a_table_in_a_notebook_is_escaped() -> None:
    table = Table("a < b", ("x\ny", "z"), (("<i>", "1"),), title="t")
    assert table._repr_html_() == (
        "<table><caption>t: a &lt; b</caption><tr><th>x\ny</th><th>z</th></tr><tr><td>&lt;i&gt;</td><td>1</td></tr>"
        "</table>"
    )
    # In a plain interpreter it is one, too.
    assert ["<i>", "1"] in [line.split() for line in repr(table).splitlines()]


def test_words_are_folded_and_numbers_kept_in_narrow_terminals() -> None:
    table = Table("", ("layer", "value", "n"), (("0 conv", "x" * 100, "12,345"),), text_columns=2)
    text = printed(table)
    assert text.count("x") == 100
    assert "0 conv" in text
    assert "12,345" in text


def test_layer_table() -> None:
    evaluation = entry([20, 150, 190, 199]).evaluation
    table = layer_table(evaluation)
    # 2 of 4 neurons spike at each step; 8 spikes in 4 steps reach 3 synapses each.
    assert rows(table) == [["first.conv", "4", "50.00", "", "4"], ["classes", "3", "", "24", "12"]]
    assert "at T = 4; SynOps" in printed(table)


def test_a_spiking_readout_has_a_firing_rate_and_no_synapses_after_it() -> None:
    evaluation = entry([20, 150, 190, 199])[1]
    point = evaluation.points[-1].model_copy(
        update={"firing_rate": (0.5, 0.25), "synaptic_operations_per_layer": (24.0, 0.0)}
    )
    spiking = evaluation.model_copy(update={"readout": "spikes", "points": (point,)})
    assert rows(layer_table(spiking)) == [
        ["first.conv", "4", "50.00", "", "4"],
        ["classes", "3", "25.00", "24", "12"],
    ]
    assert "anytime readout: spike counts after each step" in " ".join(printed(accuracy_table(spiking)).split())


def test_per_t_table_reads_each_file_at_its_own_timesteps() -> None:
    files = [
        entry([180, 1, 2, 3], name="model-T1", balanced=1)[:2],
        entry([1, 2, 3, 196], name="model-T4", balanced=4)[:2],
    ]
    table = per_t_table(files)
    assert [(row[0], row[1], row[5]) for row in rows(table)] == [("model-T1", "1", "90.00"), ("model-T4", "4", "98.00")]
    text = printed(table)
    assert "one file per T" in text
    assert "anytime" not in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


def test_per_t_table_of_a_run_that_ended_earlier_says_so() -> None:
    whole, short = entry([1, 2, 3, 196], name="whole")[:2], entry([1, 180], name="short")[:2]
    said = "the T it was made for, or the last T of its run"
    assert said in " ".join(printed(per_t_table([whole, short])).split())
    assert "or the last T" not in printed(per_t_table([whole, whole]))
    figure = run_figure([whole, short], "several")
    assert figure is not None
    assert said in " ".join(figure.axes[0].get_title(loc="left").split())


def test_early_exit_table() -> None:
    """Leads of 4, then 7: every image stops after step 2 of 3, where 150 are correct; 6 SynOps per step."""
    evaluation = entry([20, 150, 190], exit_leads=[4, 7, 9])[1]
    table = early_exit_table([("model", evaluation)])
    assert table is not None
    # 40 images change their class after step 2.
    assert rows(table) == [["3", "5", "2.00", "2, 2", "95.00", "75.00", "68.57-80.49", "80.00", "33.33"]]
    text = printed(table)
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert "costs at most 0.1 points of accuracy on 2,000 validation images" in " ".join(text.split())


def test_names_with_markup_are_printed_as_they_are() -> None:
    evaluation = entry([20])[1]
    assert "[red]x" in printed(per_t_table([("[red]x", evaluation)]))


def test_quantization_table() -> None:
    account = QuantizationReport(
        layers=(
            LayerReport("conv[1]", (5, 7, 8), 0.0061, (900, 1100), (2, 9), 1200, 3, 1200, is_low_harmless=True),
            LayerReport("fc1", (8, 8, 8), 0.12, (64, 64), (), low_clipped=0, high_clipped=0, either_clipped=0),
            LayerReport("fc2", None, 0.0, None, (0, 1), low_clipped=0, high_clipped=0, either_clipped=0),
            LayerReport("classes", (6, 7, 8), 0.0, None, (), low_clipped=0, high_clipped=41, either_clipped=41),
        ),
        image_count=5000,
        timesteps=64,
        max_timesteps=1234,
    )
    table = quantization_table(account)
    headers = ["layer", "weight bits\nleast..most", "weights\noff by", "thresholds", "dead\nchannels"]
    headers += ["images clipped\nlow / high"]
    assert list(table.headers) == headers
    # One number if all channels have the same bits or threshold; a layer that only integrates has no thresholds.
    assert rows(table) == [
        ["conv[1]", "5..8", "0.61 %", "900..1100", "2", "1,200 / 3"],
        ["fc1", "8", "12 %", "64", "", "0 / 0"],
        ["fc2", "", "0 %", "none fires", "2", "0 / 0"],
        ["classes", "6..8", "0 %", "only integrates", "", "0 / 41"],
    ]
    text = printed(table)
    assert "conv[1]" in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text
    assert (
        "clipping in 64 steps of 5,000 calibration images; low is harmless in conv[1]. Output potentials "
        "fit, with a margin, for T <= 1,234"
    ) in " ".join(text.split())
    numbered = replace(account, layers=(replace(account.layers[0], name="0"),))
    assert "; low is harmless in layer 0. " in quantization_table(numbered).caption
    both = replace(account, layers=(replace(account.layers[0], is_high_harmless=True),))
    assert "; low and high are harmless in conv[1]. " in quantization_table(both).caption


def test_quantization_table_for_a_chip() -> None:
    layers = (
        LayerReport("conv1", (8, 8, 8), 0.0067, (64, 128), (), 0, 0, 0, threshold_error=0.0068, is_proven=True),
        LayerReport("fc1", (8, 8, 8), 0.012, (64, 64), (), 0, 0, 0, threshold_error=0.1, is_proven=False),
        LayerReport("classes", (8, 8, 8), 0.012, None, (), 2, 0, 2, is_proven=False),
    )
    account = QuantizationReport(layers, image_count=5000, timesteps=4, max_timesteps=4, target="loihi2", pixel_bits=6)
    table = quantization_table(account)
    assert [header.split("\n")[0] for header in table.headers[4:]] == [
        "thresholds",
        "dead",
        "images wrapped",
        "u cannot wrap:",
    ]
    assert rows(table) == [
        ["conv1", "8", "0.67 %", "64..128", "0.68 %", "", "0 / 0", "proven"],
        ["fc1", "8", "1.2 %", "64", "10 %", "", "0 / 0", "held on 5,000 images"],
        ["classes", "8", "1.2 %", "only integrates", "", "", "2 / 0", "not held"],
    ]
    assert "target loihi2, pixels of 6 bits, T = 4: proven for any image, or held" in " ".join(printed(table).split())


def diagnosis(measure: Literal["accuracy", "agreement"]) -> Diagnosis:
    """From CNN to file, 190, 190, 150, 160 of 200 are correct. Errors of the last layer are known for the file only."""

    def stage(cause: Cause | None, correct: int, lost: int, error: float | None) -> Stage:
        layer = LayerError(correlation=error, mean_squared_error=0.5, relative_error=0.25)
        return Stage(
            cause=cause,
            correct_count=correct if measure == "accuracy" else None,
            accuracy=correct / 200 if measure == "accuracy" else None,
            agreement_count=correct,
            agreement_with_cnn=correct / 200,
            lost_images=lost,
            changed_images=lost,
            loss_points=lost / 2,
            remaining_images=max(0, lost),
            layers=() if cause is None else (layer, layer),
        )

    hidden = LayerLoss(
        name="conv[1]",
        lost_images=20,
        loss_points=10,
        threshold_to_largest=1.5,
        share_above_threshold=0.125,
        weight_bits=8,
        saturated_images=0,
    )
    classes = hidden.model_copy(update={"name": "fc", "threshold_to_largest": None, "share_above_threshold": None})
    return Diagnosis(
        image_count=200,
        timesteps=4,
        balanced_timesteps=4,
        readout="potential",
        reset="soft",
        measure=measure,
        stages=(
            stage(None, 190, 0, None),
            stage("clipping", 190, 0, 1.0),
            stage("levels", 150, 40, 0.8),
            stage("timing", 160, -10, None),
        ),
        layers=(hidden, classes),
        lost_images=30,
        loss_points=15,
        newly_wrong=31,
        newly_right=1,
        is_small=False,
        is_noteworthy=True,
        main_cause="levels",
        first_layer="conv[1]",
    )


def test_stage_table() -> None:
    table = cause_table(diagnosis("accuracy"))
    assert rows(table) == [
        ["(the CNN)", "95.00", "95.00", "", ""],
        ["clipping at the thresholds", "95.00", "95.00", "0.00", "1.000"],
        ["rounding to T + 1 spike counts", "75.00", "75.00", "20.00", "0.800"],
        ["uneven spike timing", "80.00", "80.00", "-5.00", ""],
        ["in all", "", "", "15.00", ""],
    ]
    assert "\N{HORIZONTAL ELLIPSIS}" not in printed(table)
    without_labels = rows(cause_table(diagnosis("agreement")))
    assert without_labels[2] == ["rounding to T + 1 spike counts", "75.00", "20.00", "0.800"]
    assert without_labels[-1] == ["in all", "", "15.00", ""]


def test_divergence_table() -> None:
    table = divergence_table(diagnosis("accuracy"))
    assert rows(table) == [
        ["conv[1]", "1.000", "0.800", "", "", "25.00", "10.00", "1.50", "12.50", "8"],
        ["fc", "1.000", "0.800", "", "", "25.00", "10.00", "", "", "8"],
    ]
    text = printed(table)
    assert "conv[1]" in text
    assert "\N{HORIZONTAL ELLIPSIS}" not in text


@given(st.floats(0, 9e14))
def test_counts_keep_three_digits_in_six_characters(value: float) -> None:
    text = count(value)
    assert len(text) <= 6
    number, _, unit = text.replace(",", "").partition(" ")
    assert float(number) * 1000 ** " kMGT".index(unit or " ") == pytest.approx(value, rel=0.005, abs=0.0501)
