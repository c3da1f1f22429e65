"""`inspect` on native, external and hostile files, and the differences between two."""

from __future__ import annotations

import json
import os
import re
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest
from support.changed_files import overwrite
from support.external_files import NEURON, lava_dl_file, small_layers, write_external
from support.residual import residual_network
from test_netx import small_network

from loihi_convert import external, netx
from loihi_convert.__main__ import main
from loihi_convert.errors import NetxError
from loihi_convert.pipeline import running
from loihi_convert.report.contents import BINS, describe, tables
from loihi_convert.report.differences import Difference, differences, kinds_table
from loihi_convert.runs.run_folder import read_run


def test_a_native_file(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    network = replace(small_network(), provenance={"balance": {"method": "percentile"}, "model": {"data": "mnist"}})
    netx.write(network, path)
    contents = describe(path)
    assert contents.written_by_us
    assert contents.refusal is None
    assert contents.about["timesteps"] == "4"
    assert contents.about["reset"] == "soft"
    assert contents.about["balance"] == "percentile"
    assert contents.provenance["model"] == {"data": "mnist"}
    pixels, conv, flatten, dense = contents.layers
    assert (pixels.type, pixels.shape, pixels.neuron_count, flatten.neuron_count) == ("input", (1, 2, 7), 0, 0)
    assert (conv.name, conv.kernel, conv.padding, conv.groups) == ("conv", (3, 2), (1, 0), (1,))
    # 2 x 2 x 6 outputs of a 3 x 2 kernel on 2 x 7 pixels padded by a row above and below: a kernel's row lies outside.
    assert (conv.neuron_count, conv.synapse_count) == (24, 24 * 4 - 6)
    assert conv.threshold is not None
    assert (conv.threshold.least, conv.threshold.largest, conv.threshold.mean) == (499, 699, 599)
    # The readout has no neuron group; its pooling of 2 x 2 is written out.
    assert (dense.name, dense.pool, dense.neuron_type, dense.neuron_count) == ("fc", (2, 2), None, 3)
    assert dense.weight is not None
    assert dense.weight.count == 3 * 24


def test_relays_are_counted_and_compared(tmp_path: Path) -> None:
    for name, seed in (("a.net", 0), ("b.net", 0)):
        netx.write(residual_network(seed), tmp_path / name)
    contents = describe(tmp_path / "a.net")
    assert [layer.relay_count for layer in contents.layers] == [None, None, 4, None, None, None]
    table = tables(contents)[0]
    assert [row[table.headers.index("relays")] for row in table.rows] == ["", "", "4", "", "", ""]
    assert "relays: channels that repeat" in table.caption
    overwrite(tmp_path / "b.net", "layer/1/relay_of", [-1, -1, -1, 0, 1, 2, -1])
    assert [(found.place, found.differing_count) for found in differences(tmp_path / "a.net", tmp_path / "b.net")] == [
        ("loihi_convert/layer/1/relay_of", 1)
    ]


def test_a_histogram_counts_every_number(tmp_path: Path) -> None:
    layers = small_layers()
    layers[4]["weight"] = np.array([[-8, -8, 0, 0, 0, 1, 8], [7.9] + [0] * 6, [np.nan, np.inf] + [0] * 5])
    contents = describe(write_external(tmp_path / "model.net", layers))
    weight = contents.layers[4].weight
    assert weight is not None
    assert (weight.count, weight.nonzero_count, weight.not_finite_count) == (21, 7, 2)
    assert (weight.least, weight.largest) == (-8, 8)
    # Bins of width 1 from -8; the last holds 7.9 and 8.
    expected = [0] * BINS
    expected[0], expected[8], expected[9], expected[15] = 2, 14, 1, 2
    assert list(weight.histogram) == expected
    assert contents.refusal is not None
    assert contents.refusal.startswith("layer 4: weight has numbers beyond +-2,147,483,647")


def test_a_histogram_of_denormal_numbers(tmp_path: Path) -> None:
    layers = small_layers()
    layers[3]["neuron"] = {**NEURON, "vThMant": np.array([0, 5e-324, 0])}
    threshold = describe(write_external(tmp_path / "model.net", layers)).layers[3].threshold
    assert threshold is not None
    assert threshold.histogram == (2, *[0] * (BINS - 2), 1)


def test_recurrent_weights_are_counted_and_listed(tmp_path: Path) -> None:
    layers = small_layers()
    layers[3] |= {"type": "dense_rec", "weight": np.ones((7, 54)), "weight_rec": np.eye(7) * 3}
    layer = describe(write_external(tmp_path / "model.net", layers)).layers[3]
    assert layer.synapse_count == 7 * 54 + 7
    assert layer.others["weight_rec"] == "float64 (7, 7), 0..3"


def test_files_of_lava_dl() -> None:
    pilotnet = describe(lava_dl_file("gts/pilotnet_lif/network.net"))
    assert (pilotnet.written_by_us, pilotnet.refusal, pilotnet.about["tSample"]) == (False, None, "16")
    assert [layer.neuron_count for layer in pilotnet.layers[:2]] == [3 * 66 * 200, 24 * 32 * 99]
    assert pilotnet.layers[4].stride == (2, 1)
    # Weights of 24 kernels of 3 x 3 x 3, each used at 32 x 99 places, without padding.
    weight = pilotnet.layers[1].weight
    assert weight is not None
    assert pilotnet.layers[1].synapse_count == weight.nonzero_count * 32 * 99
    digits = describe(lava_dl_file("gts/ntidigits/ntidigits.net"))
    assert digits.refusal is not None
    assert digits.refusal.startswith("layer 2: has delays")
    assert digits.layers[2].others["delay"] == "float32 (256,), 0..62"
    sdnn = describe(lava_dl_file("gts/pilotnet_sdnn/network.net"))
    assert (sdnn.layers[1].neuron_type, sdnn.refusal) == ("SDNN", None)
    assert sdnn.about["spikes"] == "graded (sigma-delta neurons)"


def test_differences_are_counted(tmp_path: Path) -> None:
    first = write_external(tmp_path / "a.net", small_layers())
    layers = small_layers()
    layers[3]["weight"][0, :2] += [2, -6]
    layers[3]["neuron"] = {**NEURON, "vThMant": 50}
    layers[4]["bias"] = np.ones(3)
    layers[1]["shape"] = [6, 3, 3, 1]
    found = differences(first, write_external(tmp_path / "b.net", layers))
    assert [(item.place, item.differing_count, item.count, item.largest_difference) for item in found] == [
        ("layer/1/shape", None, None, None),
        ("layer/3/neuron/vThMant", 1, 1, 10),
        ("layer/3/weight", 2, 7 * 54, 6),
        ("layer/4/bias", None, None, None),
    ]
    assert (found[1].first, found[1].second) == ("40", "50")
    assert (found[3].first, found[3].second) == (None, "float64 (3,), 1..1")
    assert differences(first, first) == ()


def test_how_a_number_is_stored_makes_no_difference(tmp_path: Path) -> None:
    first = write_external(tmp_path / "a.net", small_layers())
    layers = small_layers()
    layers[3]["weight"] = layers[3]["weight"].astype(np.int8)
    assert differences(first, write_external(tmp_path / "b.net", layers)) == ()


def test_provenance_is_compared_value_by_value(tmp_path: Path) -> None:
    for name, seed in (("a.net", 1), ("b.net", 2)):
        network = replace(small_network(), provenance={"model": {"seed": seed, "data": "mnist"}})
        netx.write(network, tmp_path / name)
    (found,) = differences(tmp_path / "a.net", tmp_path / "b.net")
    assert (found.place, found.first, found.second) == ("loihi_convert/provenance/model/seed", "1", "2")


def run(monkeypatch: pytest.MonkeyPatch, *words: object) -> int:
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    monkeypatch.setattr(sys, "argv", ["loihi-convert", *map(str, words)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


def test_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    native, other = tmp_path / "native.net", write_external(tmp_path / "other.net", small_layers())
    netx.write(small_network(), native)
    assert run(monkeypatch, "inspect", native) == 0
    out = capsys.readouterr().out
    assert "native.net: written by loihi-convert" in out
    assert "1x2x7" in out
    assert out.endswith("--details: histograms of weights and thresholds\n")
    assert "█" not in out
    assert max(map(len, out.splitlines()[3:])) <= 80
    assert run(monkeypatch, "inspect", native, "--details") == 0
    assert "█" in capsys.readouterr().out
    assert run(monkeypatch, "inspect", other, "--json") == 0
    captured = capsys.readouterr()
    assert json.loads(captured.out)["neuron_count"] == 40 + 54 + 7 + 3
    assert captured.err == ""
    assert run(monkeypatch, "inspect", other, other) == 0
    assert "the same network, number by number" in capsys.readouterr().out
    assert run(monkeypatch, "inspect", native, other) == 5
    assert capsys.readouterr().out.startswith("native.net and other.net differ in ")
    assert run(monkeypatch, "inspect", native, other, "--details") == 5
    assert "layer/0/shape" in capsys.readouterr().out
    assert run(monkeypatch, "inspect", native, other, "--json") == 5
    assert json.loads(capsys.readouterr().out)["equal"] is False
    assert run(monkeypatch, "inspect", tmp_path / "absent.net") == 3
    assert "no such file" in capsys.readouterr().err
    # As `inspect <(ssh host cat native.net)`; a pipe takes 64 KiB at once.
    out_of, into = os.pipe()
    assert os.write(into, native.read_bytes()) == native.stat().st_size
    os.close(into)
    assert run(monkeypatch, "inspect", Path(f"/dev/fd/{out_of}")) == 0
    os.close(out_of)
    assert "written by loihi-convert" in capsys.readouterr().out


def test_control_characters_of_a_file_are_not_shown(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    evil = "\x1b]0;owned\x07"
    layers = small_layers()
    layers[1] |= {"note" + evil: evil, "type": evil}
    layers[3]["neuron"] = {**NEURON, "type": evil}
    path = write_external(tmp_path / "model.net", layers)
    with h5py.File(path, "r+") as file:
        file["simulation/" + evil] = evil
    for words in (["inspect", path], ["inspect", path, write_external(tmp_path / "b.net", small_layers())]):
        run(monkeypatch, *words)
        run(monkeypatch, *words, "--json")
    run(monkeypatch, "run", path, "--data", "digits")
    captured = capsys.readouterr()
    assert "\x1b" not in captured.out + captured.err
    assert "\x07" not in captured.out + captured.err
    assert r"\x1b]0;owned" in captured.out


def test_a_provenance_that_would_write_to_the_terminal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "model.net"
    netx.write(replace(small_network(), provenance={"balance": {"method": "\x1b[2J[red]"}}), path)
    assert run(monkeypatch, "inspect", path) == 0
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert r"balance \x1b[2J[red]" in out


def test_what_is_not_a_netx_file(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    with h5py.File(path, "w") as file:
        file["weights"] = 1
    with pytest.raises(NetxError, match="without layers in a group 'layer'") as caught:
        describe(path)
    assert caught.value.where == str(path)
    write_external(path, [])
    with h5py.File(path, "r+") as file:
        file["layer/1/type"] = "input"
    with pytest.raises(NetxError, match="layers 1") as caught:
        describe(path)
    assert caught.value.where == f"{path}: layer"
    netx.write(small_network(), path, overwrite=True)
    path.write_bytes(path.read_bytes()[:-9])
    with pytest.raises(NetxError, match="damaged: ") as caught:
        describe(path)
    assert caught.value.where == str(path)


def test_a_broken_native_file_is_not_taken_for_an_external_one(tmp_path: Path) -> None:
    path = tmp_path / "model.net"
    netx.write(small_network(), path)
    path.write_bytes(path.read_bytes()[512:])
    with h5py.File(path, "r+") as file:
        file["layer/1/weight"][0, 0, 0, 0] += 1
    for read in (describe, external.read_any):
        with pytest.raises(NetxError, match="damaged: "):
            read(path)


def test_run_takes_an_external_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rng = np.random.default_rng(0)
    dense = {"type": "dense", "shape": [10], "weight": 2 * rng.integers(-30, 31, (10, 64)), "neuron": NEURON}
    pixels = {"type": "input", "shape": [1, 8, 8], "weight": 60, "bias": 20, "neuron": NEURON}
    path = write_external(tmp_path / "other.net", [pixels, {"type": "flatten"}, dense])
    words = ("run", path, "--data", "digits", "--images", 20, "-o", tmp_path / "refused")
    evaluate = running.evaluate

    def doubted(*given: Any, **named: Any) -> Any:
        return evaluate(*given, **named).model_copy(update={"notes": ("a reason to doubt",)})

    monkeypatch.setattr(running, "evaluate", doubted)
    assert run(monkeypatch, *words[:-1], tmp_path / "runs", "--json") == 0
    captured = capsys.readouterr()
    figures = json.loads(captured.out)["other"]
    # simulation/tSample of the file; one synapse adds one step.
    assert (figures["timesteps"], figures["depth"], figures["readout"]) == (6, 1, "spikes")
    assert "another tool wrote the file; its CUBA neurons run as in Lava" in captured.err
    folder = tmp_path / "runs"
    files = {file.name for file in folder.iterdir()}
    assert {"predictions.csv", "result.json", "accuracy.csv", "firing_rates.csv", "manifest.json"} <= files
    assert "thresholds.csv" not in files
    assert "other.net: pixels: as (x - 0.5) / 0.5 with x = pixel / 255 (default" in captured.err
    assert "other.net: note: a reason to doubt" in captured.err
    assert (read_run(folder).manifest.mean, read_run(folder).manifest.std) == ((0.5,), (0.5,))
    assert run(monkeypatch, *words[:-1], tmp_path / "given", "--mean", "0.1", "--std", "0.25", "--details") == 0
    out = capsys.readouterr().out
    assert "pixels      as (x - 0.1) / 0.25 with x = pixel / 255\n" in out
    assert "anytime readout: spike counts after each step of one run" in " ".join(out.split())
    assert "balanced" not in out
    assert run(monkeypatch, "report", folder, "-o", tmp_path / "report.html") == 0
    capsys.readouterr()
    assert run(monkeypatch, *words[:-1], folder) == 3
    assert "runs: exists already and is not empty; nothing was changed." in capsys.readouterr().err
    refused = {
        ("--backend", "sim"): "--backend: found sim; must be ref",
        ("--trace",): "--trace: given for .*another tool wrote",
        ("--exit-tolerance", "1"): "--exit-tolerance: given for .*another tool wrote",
        (str(path),): "must be run alone",
        (
            "--mean",
            "0,0",
            "--std",
            "1",
        ): "mean: found \\(0.0, 0.0\\); must be one number, or one per channel \\(1\\).\n$",
        (
            "--mean",
            "127.5",
            "--std",
            "127.5",
        ): "mean: found \\(127.5,\\), with a --std of \\(127.5,\\); must be those of pixels in 0..1",
    }
    for more, message in refused.items():
        capsys.readouterr()
        assert run(monkeypatch, *words, *more) == 2
        assert re.search(message, capsys.readouterr().err)
    nine = {**dense, "shape": [9], "weight": dense["weight"][:9]}
    few = write_external(tmp_path / "few.net", [pixels, {"type": "flatten"}, nine])
    with monkeypatch.context() as patch:
        patch.setattr("loihi_convert.pipeline.running.run_cuba", None)
        assert run(monkeypatch, "run", few, *words[2:]) == 3
    assert "few: the network has 9 classes, the data 10 class names" in capsys.readouterr().err
    with h5py.File(path, "r+") as file:
        del file["simulation"]
    assert run(monkeypatch, *words) == 2
    assert "its time steps per sample" in capsys.readouterr().err
    assert not (tmp_path / "refused").exists()
    netx.write(small_network(), tmp_path / "native.net")
    assert run(monkeypatch, "run", tmp_path / "native.net", "--data", "digits", "--mean", "0.5", "--std", "0.5") == 2
    assert "native.net already has its normalization" in capsys.readouterr().err


def test_differences_by_kind(tmp_path: Path) -> None:
    network = small_network()
    first, *others = network.layers
    assert first.neuron is not None
    changed = replace(first, neuron=replace(first.neuron, threshold=first.neuron.threshold + 1))
    netx.write(network, tmp_path / "a.net")
    netx.write(replace(network, layers=(changed, *others)), tmp_path / "b.net")
    found = (
        *differences(tmp_path / "a.net", tmp_path / "b.net"),
        Difference(place="layer/2/weight", first="(10, 12)", second="(20, 12)"),
        Difference(place="layer/4/weight", first="1..5", second="1..6", differing_count=1, count=50),
        Difference(place="layer/4/bias", first=None, second="1..6"),
    )
    table = kinds_table(found, ("a.net", "b.net"))
    count = len(first.neuron.threshold)
    assert [dict(zip(table.headers, row, strict=True)) for row in table.rows[:3]] == [
        {name: cells.get(name, "") for name in table.headers}
        for cells in (
            {"what": "thresholds", "layers": "1", "differ": f"{count} of {count}", "by up to": "1"},
            {"what": "weights", "layers": "4", "differ": "1 of 50", "other\nshape": "2"},
            {"what": "biases", "layers": "4", "only in\nb.net ": "1"},
        )
    ]
