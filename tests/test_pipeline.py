"""The flow from a checkpoint to results, on digits: files written, results compared, invalid requests refused."""

from __future__ import annotations

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.evaluations import bytes_of
from support.networks import random_network
from support.training import train
from test_netx import small_network
from torch import nn

from loihi_convert import netx
from loihi_convert.backends.backend import BackendOptions, open_backend
from loihi_convert.backends.reference import ReferenceBackend, run_network
from loihi_convert.backends.result import RunResult, result_size
from loihi_convert.cnn.checkpoint import load_model, save
from loihi_convert.cnn.models import build_model
from loihi_convert.cnn.recipe import default_recipe
from loihi_convert.conversion.options import BalanceOptions, ConversionOptions
from loihi_convert.data import Dataset, DataSplits, HeldOut, load_data
from loihi_convert.errors import InputError, LoihiConvertError, UsageError, VerificationError
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.lowering import to_relu_network
from loihi_convert.metrics.early_exit import choose_margin
from loihi_convert.pipeline import exporting, opening, running
from loihi_convert.pipeline.opening import open_file
from loihi_convert.pipeline.options import RunOptions, WriteOptions
from loihi_convert.reading.source import Source

TRACED = RunOptions(trace=True)


@pytest.fixture(scope="module")
def digits() -> DataSplits:
    return load_data("digits")


@pytest.fixture(scope="module")
def folder(digits: DataSplits, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a briefly trained model.pt and a model.net balanced for T = 16."""
    path = tmp_path_factory.mktemp("pipeline")
    train("digits-cnn", digits, replace(default_recipe("digits"), epochs=8), seed=0, output=path / "model.pt")
    exporting.export(path / "model.pt", None, (16,), digits.calibration_images())
    return path


def test_export_writes_one_file_per_t(digits: DataSplits, folder: Path, tmp_path: Path) -> None:
    images = digits.calibration_images()[:100]
    exported = exporting.export(folder / "model.pt", tmp_path / "out.net", (1, 4), images)
    assert [item.path.name for item in exported] == ["out-T1.net", "out-T4.net"]
    for item, steps in zip(exported, (1, 4), strict=True):
        network = netx.read(item.path)
        assert network.timesteps == steps
        assert network.provenance["balance"]["calibration_images"] == 100
        assert network.provenance["model"]["architecture"] == "digits-cnn"
        # Along an axis of 8 a padded kernel of 3 has 22 taps inside the map, along one of 4 it has 10.
        assert network.provenance.model.multiply_accumulates == 16 * 22**2 + 16 * 32 * 10**2 + 32 * 4 * 10
        assert item.verified_images == exporting.VERIFIED_IMAGES
        assert item.report.timesteps == steps


@pytest.mark.parametrize(
    ("output", "timesteps", "names"),
    [
        ("folder", (4,), ["folder/model.net"]),
        ("folder", (1, 4), ["folder/model-T1.net", "folder/model-T4.net"]),
        ("new", (1, 4), ["new-T1", "new-T4"]),
        ("new.net", (4,), ["new.net"]),
    ],
)
def test_an_existing_folder_takes_the_files(
    tmp_path: Path, output: str, timesteps: tuple[int, ...], names: list[str]
) -> None:
    (tmp_path / "folder").mkdir()
    paths = exporting.output_paths(Path("elsewhere/model.pt"), tmp_path / output, timesteps, WriteOptions())
    assert [str(path.relative_to(tmp_path)) for path in paths] == names


def test_export_refuses_before_it_starts(digits: DataSplits, folder: Path, tmp_path: Path) -> None:
    (tmp_path / "out-T4.net").write_bytes(b"precious")
    with pytest.raises(InputError, match=r"out-T4.net: exists already"):
        exporting.export(folder / "model.pt", tmp_path / "out.net", (1, 4), digits.calibration_images()[:50])
    assert [path.name for path in tmp_path.iterdir()] == ["out-T4.net"]


def test_run_gives_cnn_float_and_fixed_point(digits: DataSplits, folder: Path) -> None:
    with open_backend("ref") as backend:
        ran = running.run(folder / "model.net", digits.test, backend, RunOptions(float_snn=True))
    point = ran.evaluation.nominal_point
    assert (point.timesteps, ran.evaluation.image_count, ran.equal_to_reference) == (16, 400, 0)
    assert ran.evaluation.cnn_accuracy is not None
    assert point.accuracy is not None
    assert point.float_accuracy is not None
    # The accuracy that training recorded in the checkpoint.
    _, checkpoint = load_model(folder / "model.pt")
    assert ran.evaluation.cnn_accuracy == pytest.approx(checkpoint.test_accuracy, abs=1 / 400)
    assert abs(point.accuracy - ran.evaluation.cnn_accuracy) <= 0.02
    assert abs(point.accuracy - point.float_accuracy) <= 0.01


@pytest.mark.lava
def test_run_on_lava_is_compared_with_ref(digits: DataSplits, folder: Path) -> None:
    with open_backend("sim") as backend:
        ran = running.run(folder / "model.net", digits.test[:10], backend, TRACED, held_out=digits.held_out)
    assert ran.equal_to_reference == 10
    assert len(ran.result.traces) == 3
    with open_backend("ref") as backend:
        reference = running.run(folder / "model.net", digits.test[:10], backend, held_out=digits.held_out)
    assert ran.evaluation.early_exit is not None
    assert ran.evaluation.early_exit == reference.evaluation.early_exit
    per_layer = ran.result.spike_counts.sum(axis=0).T
    for spikes, expected, counts in zip(
        ran.result.channel_spikes, reference.result.channel_spikes, per_layer, strict=True
    ):
        assert np.array_equal(spikes, expected)
        assert np.array_equal(spikes.sum(axis=1), counts)


@pytest.mark.lava
def test_a_spiking_readout_from_export_to_lava(digits: DataSplits, folder: Path, tmp_path: Path) -> None:
    path = tmp_path / "spikes.net"
    options = BalanceOptions(readout="spikes")
    exporting.export(folder / "model.pt", path, (16,), digits.calibration_images(), ConversionOptions(options))
    assert netx.read(path).readout == "spikes"
    with open_backend("ref") as backend:
        opened = open_file(path, model=folder / "model.pt")
        point = running.run(opened, digits.test, backend, RunOptions(float_snn=True)).evaluation.nominal_point
    assert point.agreement_with_cnn is not None
    assert point.agreement_with_float is not None
    assert point.agreement_with_cnn > 0.9
    assert point.agreement_with_float > 0.97
    assert len(point.firing_rate) == 3
    with open_backend("sim") as backend:
        ran = running.run(path, digits.test[:10], backend, TRACED)
    assert ran.equal_to_reference == 10
    assert ran.result.output_spikes is not None


def test_only_held_out_images_choose_the_margin(digits: DataSplits, folder: Path) -> None:
    held_out = digits.held_out
    assert held_out is not None
    outputs = run_network(netx.read(folder / "model.net"), digits.validation.images, 16).outputs
    expected = choose_margin(outputs, digits.validation.labels, split="validation")
    assert (expected.image_count, expected.timesteps) == (200, 16)
    with open_backend("ref") as backend:
        evaluations = [
            running.run(folder / "model.net", images, backend, held_out=held_out).evaluation
            for images in (digits.test, digits.test[:7], Dataset(digits.test.images, None))
        ]
    for evaluation in evaluations:
        assert evaluation.early_exit is not None
        assert evaluation.early_exit.choice == expected
        # Without a margin every image stops at T, so accuracy is that at T.
        assert evaluation.early_exit.points[-1].accuracy == evaluation.nominal_point.accuracy
        operations = evaluation.nominal_point.synaptic_operations
        assert evaluation.early_exit.points[-1].synaptic_operations == pytest.approx(operations, rel=1e-12)
    early_exit = evaluations[0].early_exit
    assert early_exit is not None
    assert early_exit.chosen_point.average_timesteps < 8
    assert early_exit.chosen_point.agreement_with_last > 0.9


def test_images_of_all_classes_choose_the_margin(
    digits: DataSplits, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Of calibration images in the order of their classes, without labels."""
    monkeypatch.setattr(running, "EXIT_IMAGES", 40)
    by_class = digits.validation[np.argsort(digits.validation.known_labels)]
    others, none = Dataset(by_class.images, None), digits.validation[:0]
    splits = DataSplits("own", (), none, none, others, digits.test)
    with open_backend("ref") as backend:
        opened = [open_file(folder / "model.net")]
        done = running.run_into_folder(tmp_path / "run", opened, backend, splits, digits.test[:20])
    outputs = run_network(netx.read(folder / "model.net"), others.mixed[:40].images, 16).outputs
    early_exit = done.runs[0].evaluation.early_exit
    assert early_exit is not None
    assert early_exit.choice == choose_margin(outputs, None, split="calibration")
    assert len(np.unique(by_class[:40].known_labels)) < 4


@pytest.mark.parametrize("timesteps", [1, 4])
def test_early_exit_needs_two_steps_other_images_and_a_tolerance(
    digits: DataSplits, folder: Path, timesteps: int
) -> None:
    def evaluated(held_out: HeldOut | None, exit_tolerance: float | None) -> bool:
        with open_backend("ref") as backend:
            ran = running.run(
                folder / "model.net",
                digits.test[:5],
                backend,
                RunOptions((timesteps,), exit_tolerance=exit_tolerance),
                held_out=held_out,
            )
        return ran.evaluation.early_exit is not None

    assert evaluated(digits.held_out, 0.1) == (timesteps > 1)
    assert not evaluated(digits.held_out, None)
    assert not evaluated(None, 0.1)


class Wrong(ReferenceBackend):
    """A backend whose last potential is off by one."""

    name = "sim"  # type: ignore[assignment, misc]

    def run(self, *given: Any, **rest: Any) -> RunResult:
        result = super().run(*given, **rest)
        result.potentials[-1, -1, -1] += 1
        return result


def test_a_backend_that_disagrees_is_an_error(digits: DataSplits, folder: Path) -> None:
    with pytest.raises(
        VerificationError, match=r"sim and ref disagree: output potential of image 4 at T = 3, index \(9,\)"
    ):
        running.run(folder / "model.net", digits.test[:5], Wrong(), RunOptions((3,)))


class Unused(ReferenceBackend):
    """A backend that must not be started."""

    def __enter__(self) -> ReferenceBackend:
        raise AssertionError("started")


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"second": "other/model.net"}, "found several files called model"),
        ({"second": "absent.net"}, r"absent\.net: no such file"),
        ({"second": "small.net"}, r"must be uint8 of shape \(N, 1, 2, 7\)"),
        ({"exit_tolerance": 100.5}, r"exit_tolerance: found 100\.5"),
        ({"timesteps": (2**20,)}, r"fit Loihi's range"),
        ({"backend": {"neuron": "stock"}}, r"the file was exported for target lava"),
        ({"model": "typo.pt"}, r"typo\.pt: "),
        ({"model": "wide.pt"}, r"checkpoint: input shape .*, as in the file\."),
        ({"arch": "nets:make"}, r"which names its architecture, input shape and classes"),
        ({"classes": ("a", "b")}, "the network has 10 classes, the data 2 class names"),
    ],
)
def test_invalid_requests_are_refused_before_anything_runs(
    digits: DataSplits, folder: Path, tmp_path: Path, changes: dict[str, Any], message: str
) -> None:
    (tmp_path / "other").mkdir()
    for name in ("model.net", "other/model.net"):
        shutil.copy(folder / "model.net", tmp_path / name)
    shutil.copy(folder / "model.pt", tmp_path)
    netx.write(small_network(), tmp_path / "small.net")
    _, checkpoint = load_model(folder / "model.pt")
    torch.manual_seed(0)
    wide = build_model("mnist-cnn", (1, 28, 28), 10)
    wider = replace(checkpoint, architecture="mnist-cnn", input_shape=(1, 28, 28), state=wide.state_dict())
    save(wider, tmp_path / "wide.pt")
    paths = [tmp_path / name for name in ("model.net", changes.get("second")) if name]
    with pytest.raises(LoihiConvertError, match=message):
        running.run_into_folder(
            tmp_path / "runs",
            [
                open_file(
                    path, model=tmp_path / changes["model"] if "model" in changes else None, arch=changes.get("arch")
                )
                for path in paths
            ],
            Unused(BackendOptions(**changes.get("backend", {}))),
            replace(digits, classes=changes.get("classes", digits.classes)),
            digits.test[:5],
            RunOptions(changes.get("timesteps", ()), exit_tolerance=changes.get("exit_tolerance", 0.1)),
        )
    assert not (tmp_path / "runs").exists()


@pytest.mark.parametrize("seed", range(4))
@pytest.mark.parametrize("trace", [False, True])
def test_the_size_of_a_result_is_foretold(seed: int, trace: bool) -> None:
    """Both kinds of readout are among them."""
    network, _ = random_network(seed)
    images = np.random.default_rng(0).integers(0, 256, (5, *network.input_shape), np.uint8)
    assert bytes_of(run_network(network, images, 7, trace=trace)) == result_size(network, 5, 7, trace=trace)


@pytest.mark.slow
@pytest.mark.parametrize(("images_at_once", "steps"), [(3, 4), (1, 4), (1, 2)])
@pytest.mark.parametrize("wrong", ["layer 0 potential", "output potential"])
def test_many_steps_are_verified_in_parts(
    digits: DataSplits,
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    images_at_once: int,
    steps: int,
    wrong: str,
) -> None:
    """At T = 512 the trace of 32 images would take gigabytes. Every image is compared; where the trace of one has no
    room for all steps, each layer in the first steps, and the output in all."""
    network = netx.read(folder / "model.net")
    monkeypatch.setattr(exporting, "TRACED_BYTES", images_at_once * result_size(network, 1, steps, trace=True))
    runs: list[tuple[int, int, bool]] = []

    def run(network: QuantizedNetwork, images: np.ndarray, timesteps: int, *, trace: bool) -> Any:
        runs.append((len(images), timesteps, trace))
        result = run_network(network, images, timesteps, trace=trace)
        if sum(count for count, _, was_traced in runs if was_traced == trace) == exporting.VERIFIED_IMAGES:
            if wrong == "output potential" and timesteps == 4:
                result.potentials[-1, -1, -1] += 1
            elif wrong == "layer 0 potential" and trace:
                result.traces[0].potentials[-1, -1, -1] += 1
        return result

    monkeypatch.setattr(exporting, "run_network", run)
    at = 4 if wrong == "output potential" else steps
    with pytest.raises(VerificationError, match=f"{wrong} of image {exporting.VERIFIED_IMAGES - 1} at T = {at}, "):
        exporting.export(folder / "model.pt", tmp_path / "out.net", (4,), digits.calibration_images())
    traced = [(count, timesteps) for count, timesteps, trace in runs if trace]
    assert {timesteps for _, timesteps in traced} == {steps}
    assert max(count for count, _ in traced) == images_at_once
    assert sum(count for count, _ in traced) == exporting.VERIFIED_IMAGES
    assert {timesteps for _, timesteps, trace in runs if not trace} == ({4} if steps < 4 else set())


def test_a_file_that_computes_something_else_is_an_error(
    digits: DataSplits, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The writer loses the initial potentials: verification reads the file back and detects it."""
    write = netx.write

    def careless(network: QuantizedNetwork, path: Path, *, overwrite: bool = False) -> None:
        first = network.layers[0]
        assert first.neuron is not None
        lost = replace(first, neuron=replace(first.neuron, initial_potential=0 * first.neuron.initial_potential))
        write(replace(network, layers=(lost, *network.layers[1:])), path, overwrite=overwrite)

    monkeypatch.setattr(netx, "write", careless)
    with pytest.raises(VerificationError, match=exporting.NOT_THE_SAME):
        exporting.export(folder / "model.pt", tmp_path / "out.net", (4,), digits.calibration_images()[:50])
    assert not (tmp_path / "out.net").exists()
    exported = exporting.export(
        folder / "model.pt",
        tmp_path / "out.net",
        (4,),
        digits.calibration_images()[:50],
        writing=WriteOptions(verify=False, overwrite=True),
    )
    assert exported[0].verified_images == 0


def test_without_its_model_a_file_still_runs(digits: DataSplits, folder: Path, tmp_path: Path) -> None:
    alone = Path(shutil.copy(folder / "model.net", tmp_path))
    with open_backend("ref") as backend:
        ran = running.run(alone, digits.test[:20], backend, RunOptions((4,)))
        assert ran.evaluation.cnn_accuracy is None
        assert ran.evaluation.points[-1].accuracy is not None
        # Another checkpoint with the same name is not used.
        (tmp_path / "model.pt").write_bytes(b"something else")
        assert opening.source_model(alone, ran.network) is None
        with_model = running.run(
            open_file(alone, model=folder / "model.pt"), digits.test[:20], backend, RunOptions((4,))
        )
        assert with_model.evaluation.cnn_accuracy is not None


def test_a_model_of_other_layers_is_refused(folder: Path) -> None:
    network = netx.read(folder / "model.net")
    cnn, checkpoint = load_model(folder / "model.pt")
    relu = to_relu_network(cnn, checkpoint.input_shape)
    renamed = replace(relu, layers=(replace(relu.layers[0], name="other"), *relu.layers[1:]))
    with pytest.raises(
        InputError, match=r"input shape \(1, 8, 8\), layers other \(16, 8, 8\), .* and conv1 \(16, 8, 8\)"
    ):
        opening.float_network(network, renamed)


@pytest.mark.slow
def test_accuracies_of_literal_and_compensated_differ(digits: DataSplits, folder: Path, tmp_path: Path) -> None:
    """With per-channel thresholds only compensated amplitudes keep the CNN's classes."""
    agreement = {}
    for amplitude in ("compensated", "literal"):
        options = BalanceOptions(amplitude=amplitude)  # type: ignore[arg-type]
        path = tmp_path / f"{amplitude}.net"
        exporting.export(folder / "model.pt", path, (32,), digits.calibration_images(), ConversionOptions(options))
        with open_backend("ref") as backend:
            ran = running.run(open_file(path, model=folder / "model.pt"), digits.test, backend)
        agreement[amplitude] = ran.evaluation.nominal_point.agreement_with_cnn
    assert np.all(agreement["compensated"] > agreement["literal"])


def test_one_run_reports_every_requested_t(digits: DataSplits, folder: Path) -> None:
    with open_backend("ref") as backend:
        ran = running.run(folder / "model.net", digits.test[:20], backend, RunOptions((6, 3)))
        last = running.run(folder / "model.net", digits.test[:20], backend, RunOptions((3,)))
    points = {point.timesteps: point for point in ran.evaluation.points}
    assert list(points) == [1, 2, 3, 4, 6]
    assert points[3] == last.evaluation.points[-1]


def test_a_module_in_memory_is_exported_to_a_named_file(digits: DataSplits, tmp_path: Path) -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 10))
    source = Source.from_module(model, (1, 8, 8))
    images = digits.calibration_images()[:50]
    (exported,) = exporting.export(source, tmp_path / "out.net", (4,), images)
    assert opening.source_model(exported.path, netx.read(exported.path)) is None
    with pytest.raises(UsageError) as raised:
        exporting.export(source, None, (4,), images)
    assert raised.value.where == "output"
