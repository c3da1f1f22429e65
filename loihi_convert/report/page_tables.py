"""Table cells for one file at one T: accuracy first, with its interval in the same cell."""

from __future__ import annotations

from dataclasses import replace

from loihi_convert.metrics.evaluation import Evaluation, Point
from loihi_convert.report.entries import Entry
from loihi_convert.report.formats import count, percent, percent_interval, points
from loihi_convert.report.run_tables import accuracy_table, error_cells
from loihi_convert.report.table import Table, table_of


def page_cells(evaluation: Evaluation, point: Point) -> dict[str, str | None]:
    """Return the known results of one file at one T, by column header."""
    accuracy = (percent(point.accuracy), percent_interval(point.accuracy_interval))
    return {
        "accuracy %\n95 % interval": "\n".join(text for text in accuracy if text) or None,
        **error_cells(evaluation.regression, point),
        "loss,\npoints": points(point.conversion_loss_points),
        "T": str(point.timesteps),
        "SynOps\n/image": count(point.synaptic_operations),
        "spikes\n/image": count(point.spikes_per_image),
        "CNN\n%": percent(evaluation.cnn_accuracy),
        "float\nSNN %": percent(point.float_accuracy),
        "same as\nCNN %": percent(point.agreement_with_cnn),
        "steps\non Lava": str(point.global_steps),
    }


def anytime_table(entry: Entry) -> Table:
    """Return one row per reported T of one run."""
    evaluation = entry.evaluation
    cells = [page_cells(evaluation, point) for point in evaluation.points]
    rows = [{"T": row["T"], **{header: text for header, text in row.items() if header != "T"}} for row in cells]
    measured = accuracy_table(evaluation, is_balanced=entry.is_balanced)
    caption = f"{measured.title}; {measured.caption}".replace("\n", "; ")
    return replace(table_of(rows, words=("T",), caption=caption), title=entry.label, text_columns=0)
