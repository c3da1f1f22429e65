"""Run folders, tables and reports of networks with relays: relays are marked, and omitted or listed separately."""

from __future__ import annotations

import csv
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from support.evaluations import LABELS, entry
from support.residual import OWN_CHANNELS, RELAY_OF, RELAYS, residual_images, residual_network
from support.run_folders import CLASSES, write_runs
from test_tables import printed

from loihi_convert.backends.reference import run_network
from loihi_convert.errors import InputError
from loihi_convert.face import Result
from loihi_convert.metrics.evaluation import ExpectedClasses, evaluate
from loihi_convert.report.build import write_report
from loihi_convert.report.run_tables import accuracy_table, energy_table, layer_table
from loihi_convert.runs.columns import FileResults
from loihi_convert.runs.run_folder import read_run

IMAGES = 20
LABELS_OF_RUN = LABELS[:IMAGES]


def residual_run(name: str = "model") -> FileResults:
    network = residual_network()
    result = run_network(network, residual_images(IMAGES), 8)
    return FileResults(name, evaluate(result, network, ExpectedClasses(LABELS_OF_RUN)), result, network)


def rows_of(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def by_layer(rows: list[dict[str, str]], layer: str) -> list[str]:
    return [row["relay_of"] for row in rows if row["layer"] == layer]


def test_rows_of_relays_contain_their_source(tmp_path: Path) -> None:
    run = residual_run()
    folder = write_runs(tmp_path, run, labels=LABELS_OF_RUN)
    marks = ["" if source < 0 else str(source) for source in RELAY_OF]
    assert by_layer(rows_of(folder / "thresholds.csv"), "inner") == marks
    assert by_layer(rows_of(folder / "thresholds.csv"), "stem") == [""] * 4
    rates = rows_of(folder / "firing_rates.csv")
    assert by_layer(rates, "inner") == marks * len(run.evaluation.points)
    # The row of a relay has the relay's own rate.
    last = [row for row in rates if row["timesteps"] == "8"]
    stem, inner = ([row["firing_rate"] for row in last if row["layer"] == layer] for layer in ("stem", "inner"))
    assert inner[OWN_CHANNELS:] == stem
    for name, column in (("accuracy.csv", "relay_spikes_per_image"), ("energy.csv", "relay_spikes")):
        found = [float(row[column]) for row in rows_of(folder / name)]
        assert found == [point.relay_spikes_per_image for point in run.evaluation.points]


def test_marks_are_read_back(tmp_path: Path) -> None:
    run = residual_run()
    stored = read_run(write_runs(tmp_path, run, labels=LABELS_OF_RUN))
    rows = stored.firing_rates["model", "inner", 8]
    assert [row.relay_of is not None for row in rows] == [False] * OWN_CHANNELS + [True] * RELAYS
    assert stored.evaluations["model"] == run.evaluation


def test_runs_without_relays_have_no_columns_of_relays(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, entry([20, 150, 190, 199]))
    for path in folder.glob("*.csv"):
        assert not any(column.startswith(("relay", "circuit")) for column in rows_of(path)[0]), path.name


@pytest.mark.parametrize("name", ["firing_rates.csv", "thresholds.csv"])
def test_marks_inconsistent_with_the_results_are_refused(tmp_path: Path, name: str) -> None:
    folder = write_runs(tmp_path, residual_run(), labels=LABELS_OF_RUN)
    rows = (folder / name).read_text().splitlines()
    marked = [line.rsplit(",", 1)[0] + ",0" if ",inner,0," in line else line for line in rows]
    assert marked != rows
    (folder / name).write_text("\n".join(marked))
    with pytest.raises(InputError) as caught:
        read_run(folder)
    assert caught.value.where == str(folder / name)
    assert caught.value.found.startswith("damaged: inner of model ")


def test_thresholds_with_the_marks_of_other_channels_are_refused(tmp_path: Path) -> None:
    folder = write_runs(tmp_path, residual_run(), labels=LABELS_OF_RUN)
    path = folder / "thresholds.csv"
    of = {f",inner,{channel},": source for channel, source in ((0, "0"), (OWN_CHANNELS, ""))}
    rows = path.read_text().splitlines()
    for index, line in enumerate(rows):
        for channel, source in of.items():
            if channel in line:
                rows[index] = f"{line.rsplit(',', 1)[0]},{source}"
    path.write_text("\n".join(rows))
    with pytest.raises(InputError) as caught:
        read_run(folder)
    assert caught.value.where == str(path)
    assert caught.value.found == "damaged: inner of model has other channels or relays than elsewhere"


def test_tables_list_relays_separately() -> None:
    evaluation = residual_run().evaluation
    layers = layer_table(evaluation)
    assert layers.headers[1] == "neurons\n+ relays"
    assert [row[1] for row in layers.rows] == ["144", "108 + 144", "144", "3"]
    point = evaluation.points[-1]
    assert layers.rows[1][2] == f"{100 * point.firing_rate[1]:.2f}"
    share = 100 * point.relay_spikes_per_image / point.spikes_per_image
    text = " ".join(printed(accuracy_table(evaluation)).split())
    assert "spikes and SynOps include relays, neurons that repeat the spikes of another layer" in text
    assert f"144 of 543 neurons, {share:.2f} % of the spikes, " in text
    energy = energy_table([("model", evaluation)])
    assert "Relays take 9..11 % of Loihi 1's energy" in energy.caption
    for table in (layers, accuracy_table(evaluation), energy):
        assert "\N{HORIZONTAL ELLIPSIS}" not in printed(table)


def test_a_data_frame_has_columns_of_relays_only_where_there_are_relays(monkeypatch: pytest.MonkeyPatch) -> None:
    class DataFrame(list[dict[str, object]]):
        def set_index(self, column: str) -> DataFrame:
            assert column in self[0]
            return self

    monkeypatch.setitem(sys.modules, "pandas", SimpleNamespace(DataFrame=DataFrame))
    columns = []
    for run in (residual_run(), entry([20, 150, 190, 199])):
        (row, *_) = Result(run.network, run.result, run.evaluation, "ref").to_dataframe()
        columns.append({column for column in row if column.startswith(("relay_", "circuit_"))})
    assert columns == [{"relay_spikes_per_image", "relay_synaptic_operations"}, set()]


def test_tables_without_relays_do_not_mention_them() -> None:
    evaluation = entry([20, 150, 190, 199]).evaluation
    energy = energy_table([("model", evaluation)])
    for table in (layer_table(evaluation), accuracy_table(evaluation), energy):
        assert "relay" not in printed(table).lower()


def test_the_report_omits_relays_from_ranges_and_marks_them_in_lists(tmp_path: Path) -> None:
    run = residual_run()
    folder = write_runs(tmp_path, run, labels=LABELS_OF_RUN, classes=CLASSES)
    written = write_report([folder], tmp_path / "report.html")
    text = written.markdown.read_text()
    line = next(line for line in text.splitlines() if line.startswith("| inner ") and "108 + 144" in line)
    neuron = run.network.layers[1].neuron
    thresholds = neuron.threshold[:OWN_CHANNELS]
    assert f"{thresholds.min():,}..{thresholds.max():,}" in line
    # The report shows the file at the T it is balanced for: 4 of the 8 steps.
    rates = run.result.channel_spikes[1][:4].sum(axis=0)[:OWN_CHANNELS] / (IMAGES * 4 * 36)
    assert rates.max() < 1
    assert f"{100 * rates.min():.2f}..{100 * rates.max():.2f}" in " ".join(text.split())
    assert "| 6 (relay) " in text
    assert "| 2 (relay) " not in text
    assert "of these, from relays" in " ".join(text.split())
    # One bar for each channel that is not a relay.
    page = written.html.read_text()
    assert np.count_nonzero([f"channel {channel}:" in page for channel in range(7)]) == 4
