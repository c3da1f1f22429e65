"""The whole flow on one screen: model.pt -> netx file -> backend -> accuracy against latency.

`export` turns a trained CNN into files that Lava runs, `run` runs them and evaluates what comes back, `diagnose` says
where accuracy went. `demo` on the command line is `train`, `export` and `run`, one after the other.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal

from loihi_convert import netx
from loihi_convert.backends import Backend, RunResult, check_run, first_difference, open_backend
from loihi_convert.backends.reference import run_network
from loihi_convert.conversion.balance import Amplitude, InitialPotential, Method, balance
from loihi_convert.conversion.calibrate import calibrate
from loihi_convert.conversion.choice import Trial, choose_method, reason
from loihi_convert.conversion.quantize import Account, account, quantize
from loihi_convert.data import Dataset, DataSplits, HeldOut
from loihi_convert.errors import InputError, VerificationError
from loihi_convert.files import refuse_to_overwrite, sha256
from loihi_convert.network import QuantizedNetwork, Readout, ReluNetwork, Reset, SpikingLayer, SpikingNetwork
from loihi_convert.progress import Bars, no_bar
from loihi_convert.results import run_folder
from loihi_convert.results.advice import advice
from loihi_convert.results.diagnose import Diagnosis
from loihi_convert.results.diagnose import diagnose as diagnose_network
from loihi_convert.results.early_exit import TOLERANCE_POINTS, choose_margin, evaluate_early_exit
from loihi_convert.results.evaluate import Evaluation, evaluate
from loihi_convert.simulation.simulate import cnn_scores, outputs
from loihi_convert.source import Source, open_source, reopen_source
from loihi_convert.synapse import Array

VERIFIED_IMAGES: Final = 32
"""Calibration images on which an exported file is compared, layer by layer, with the network in memory."""

EXIT_IMAGES: Final = 2_000
"""Images, at most, that choose the margin of early exit."""


@dataclass(frozen=True)
class ExportOptions:
    """How thresholds are balanced and numbers are rounded; see `balance.balance` and `quantize.quantize`.

    ``method`` "auto" is the one that `choice.choose_method` finds best for the T of the file, and so is ``percentile``
    then; ``correct`` None leaves to it whether `calibrate.calibrate` follows, and means no with any other method.
    """

    method: Method | Literal["auto"] = "auto"
    amplitude: Amplitude = "compensated"
    alpha: float = 1.0
    percentile: float = 99.0
    initial_potential: InitialPotential | None = None
    reset: Reset = "soft"
    readout: Readout = "potential"
    poisson_seed: int | None = None
    weight_bits: int = 8
    pixel_bits: int | None = None
    correct: bool | None = None


@dataclass(frozen=True, eq=False)
class Exported:
    """One written file, the account of its quantization, and notes: what was dropped, what stock lava-dl differs in."""

    path: Path
    network: QuantizedNetwork
    account: Account
    notes: tuple[str, ...]
    verified_images: int


@dataclass(frozen=True, eq=False)
class Ran:
    """One file's run: its integers, its figures, and the images on which it was found equal to `ref`."""

    path: Path
    network: QuantizedNetwork
    result: RunResult
    evaluation: Evaluation
    equal_to_reference: int


@dataclass(frozen=True, eq=False)
class Diagnosed:
    """Where one file's accuracy went, what to try, what else to know, and the images on which Lava equalled `ref`."""

    path: Path
    diagnosis: Diagnosis
    advice: tuple[str, ...]
    notes: tuple[str, ...]
    equal_on_lava: int


@dataclass(frozen=True, eq=False)
class CompletedRun:
    """A complete folder of results: where it is, its files, and the runs they tell of."""

    folder: Path
    files: tuple[Path, ...]
    runs: tuple[Ran, ...]

    @property
    def figures(self) -> list[tuple[str, Evaluation]]:
        """Each file's name, without its suffix, and its figures."""
        return [(ran.path.stem, ran.evaluation) for ran in self.runs]


def output_paths(model: Path, output: Path | None, timesteps: Sequence[int]) -> tuple[Path, ...]:
    """Return where `export` writes: model.net for one T, model-T4.net, ... for several."""
    base = model.with_suffix(netx.SUFFIX) if output is None else output
    if len(timesteps) == 1:
        return (base,)
    return tuple(base.with_name(f"{base.stem}-T{steps}{base.suffix}") for steps in timesteps)


def export(
    model: Path | Source,
    output: Path | None,
    timesteps: Sequence[int],
    calibration: Array,
    *,
    options: ExportOptions = ExportOptions(),
    device: str = "cpu",
    overwrite: bool = False,
    verify: bool = True,
    bars: Bars = no_bar,
) -> tuple[Exported, ...]:
    """Write one netx file per T for the CNN ``model``; each is balanced, quantized and verified on its own.

    Parameters
    ----------
    model
        A checkpoint of ours (``.pt`` or ``.safetensors``), or what `source.open_source` made of another file.
    output
        The ``.net`` file; by default beside ``model``. Several T get ``-T4`` and so on before the suffix.
    timesteps
        The latencies T to balance for.
    calibration
        Training images, uint8 ``(N, C, H, W)``.
    device
        Where it is simulated: ``"cpu"``, or another one of torch's.
    overwrite
        Replace files that exist.
    verify
        Read each file back and compare it with the network in memory, bit for bit.

    Raises
    ------
    InputError
        If the checkpoint cannot be used, or does not take the calibration images, or a file exists.
    UnsupportedModelError
        If the CNN holds what cannot spike.
    VerificationError
        If a written file does not compute what the network in memory does.
    """
    paths = output_paths(model.path if isinstance(model, Source) else model, output, timesteps)
    for path in paths:
        refuse_to_overwrite(path, overwrite)
    source = model if isinstance(model, Source) else open_source(model)
    exported = []
    for path, steps in zip(paths, timesteps, strict=True):
        neurons: dict[str, Any] = {
            "amplitude": options.amplitude,
            "alpha": options.alpha,
            "initial_potential": options.initial_potential,
            "reset": options.reset,
            "poisson_seed": options.poisson_seed,
            "device": device,
        }
        method, percentile, correct = options.method, options.percentile, bool(options.correct)
        trials: tuple[Trial, ...] = ()
        if method == "auto":
            with bars(f"T = {steps}: choosing the balancing method") as progress:
                trials = choose_method(
                    source.network,
                    calibration,
                    steps,
                    correct=options.correct,
                    weight_bits=options.weight_bits,
                    pixel_bits=options.pixel_bits,
                    progress=progress,
                    **neurons,
                )
            method, percentile, correct = trials[0].method, trials[0].percentile, trials[0].corrected
        with bars(f"T = {steps}: balancing thresholds") as progress:
            spiking = balance(
                source.network,
                calibration,
                steps,
                method=method,
                percentile=percentile,
                readout=options.readout,
                progress=progress,
                **neurons,
            )
        if correct:
            with bars(f"T = {steps}: correcting biases") as progress:
                spiking = calibrate(source.network, spiking, calibration, device=device, progress=progress)
        made = {**spiking.provenance, "choice": [asdict(trial) for trial in trials], "model": dict(source.provenance)}
        spiking = replace(spiking, provenance=made)
        with bars(f"T = {steps}: quantizing") as progress:
            quantized = quantize(
                spiking,
                calibration,
                weight_bits=options.weight_bits,
                pixel_bits=options.pixel_bits,
                device=device,
                progress=progress,
            )
        with bars(f"T = {steps}: counting what clips") as progress:
            costs = account(quantized, spiking, calibration, device=device, progress=progress)
        netx.write(quantized, path, overwrite=overwrite)
        verified = _verify(path, quantized, calibration[:VERIFIED_IMAGES]) if verify else 0
        notes = (
            *source.notes,
            *((reason(trials, steps),) if trials else ()),
            *_notes_on_rounding(spiking, quantized, calibration[:VERIFIED_IMAGES]),
            *netx.stock_netx_notes(quantized),
        )
        exported.append(Exported(path, quantized, costs, notes, verified))
    return tuple(exported)


def run(
    path: Path,
    images: Dataset,
    backend: Backend,
    timesteps: int | None = None,
    *,
    held_out: HeldOut | None = None,
    exit_tolerance: float | None = TOLERANCE_POINTS,
    model: Path | None = None,
    arch: str | None = None,
    trace: bool = False,
    device: str = "cpu",
    bars: Bars = no_bar,
) -> Ran:
    """Run one netx file on ``images`` and evaluate it beside the CNN and the spiking network in real numbers.

    Parameters
    ----------
    path
        The ``.net`` file.
    images
        Test images and labels.
    backend
        From `backends.open_backend`. A run of any other backend is compared with `ref`, integer by integer.
    timesteps
        T; by default the one the file was balanced for.
    held_out
        Other images than ``images``: a run of them on `ref` chooses the margin of early exit. Without them, with T = 1
        or with one class, early exit is not evaluated.
    exit_tolerance
        Percentage points of accuracy that stopping early may lose on them; None: early exit is not evaluated.
    model
        The checkpoint the file was made from; by default the one beside the file, if it is still the same.
        Without it there are no figures of the CNN.
    arch
        As in `source.open_source`, if the file was made with one. Without it there are no figures of such a CNN: the
        code that a file names is not imported unless the user names it too.
    trace
        Record and compare every layer's spikes and potentials.
    device
        Where the comparison with `ref` and the real numbers are simulated: ``"cpu"``, or another one of torch's.

    Raises
    ------
    InputError
        If the file or ``model`` cannot be used.
    VerificationError
        If the backend's integers are not those of `ref`.
    """
    network = netx.read(path)
    steps = network.timesteps if timesteps is None else timesteps
    choice = None
    if held_out is not None and exit_tolerance is not None and steps > 1 and network.shapes[-1][0] > 1:
        with bars(f"{path.name}: choosing the margin of early exit") as progress:
            others = run_network(network, held_out.images.images, steps, device=device, progress=progress).outputs
        choice = choose_margin(others, held_out.images.labels, split=held_out.split, tolerance_points=exit_tolerance)
    with bars(f"{path.name}: running on {backend.name}") as progress:
        result = backend.run(path, images.images, steps, trace=trace, progress=progress)
    equal = 0
    if backend.name != "ref":
        with bars(f"{path.name}: comparing with ref") as progress:
            reference = run_network(network, images.images, steps, trace=trace, device=device, progress=progress)
        if difference := first_difference(result, reference):
            raise VerificationError(f"{path}: the backend and ref disagree: {difference}.")
        result = replace(result, channel_spikes=reference.channel_spikes)
        equal = len(images)
    cnn_predictions = float_predictions = None
    if (source := _source(path, network, model, arch)) is not None:
        spiking = float_network(network, source.network)
        cnn_predictions = cnn_scores(source.network, images.images).argmax(axis=1)
        with bars(f"{path.name}: the same in real numbers") as progress:
            scores = outputs(spiking, images.images, steps, device=device, progress=progress)
        float_predictions = scores.argmax(axis=2)
    early_exit = None
    if choice is not None:
        early_exit = evaluate_early_exit(result, choice, labels=images.labels, cnn_predictions=cnn_predictions)
    evaluation = evaluate(
        result,
        network,
        labels=images.labels,
        cnn_predictions=cnn_predictions,
        float_predictions=float_predictions,
        early_exit=early_exit,
    )
    return Ran(path, network, result, evaluation, equal)


def run_into_folder(
    root: Path,
    paths: Sequence[Path],
    backend: Backend,
    splits: DataSplits,
    images: Dataset,
    timesteps: int | None = None,
    *,
    exit_tolerance: float | None = TOLERANCE_POINTS,
    model: Path | None = None,
    arch: str | None = None,
    trace: bool = False,
    device: str = "cpu",
    bars: Bars = no_bar,
) -> CompletedRun:
    """Run netx files on ``images``, as `run` does, and write a folder below ``root`` that tells everything about it.

    ``splits`` is the data set that ``images`` are from, and whose held-out images, the first `EXIT_IMAGES` of
    them, choose the margin of early exit; ``backend``, from `backends.open_backend`, is started and ended. If anything
    fails, no folder is left.
    """
    held_out = splits.held_out
    if held_out is not None:
        held_out = held_out._replace(images=held_out.images[:EXIT_IMAGES])
    with run_folder.run_folder(root, f"{paths[0].stem}-{backend.name}") as folder:
        with backend:
            runs = tuple(
                run(
                    path,
                    images,
                    backend,
                    timesteps,
                    held_out=held_out,
                    exit_tolerance=exit_tolerance,
                    model=model,
                    arch=arch,
                    trace=trace,
                    device=device,
                    bars=bars,
                )
                for path in paths
            )
        manifest = run_folder.manifest(
            network=paths[0].stem,
            data=splits.name,
            backend=backend.name,
            files=paths,
            command_line=sys.argv,
            seed=None,
        )
        files = run_folder.write_run(
            folder,
            [run_folder.RunOfFile(ran.path.stem, ran.evaluation, ran.result, ran.network) for ran in runs],
            labels=images.labels,
            classes=splits.classes or None,
            manifest={
                **manifest,
                "lava_layout": backend.layout,
                "backend_versions": backend.versions,
                "provenance": {ran.path.stem: dict(ran.network.provenance) for ran in runs},
            },
        )
    return CompletedRun(folder, files, runs)


def diagnose(
    model: Path,
    path: Path,
    images: Dataset,
    timesteps: int | None = None,
    *,
    arch: str | None = None,
    lava: Backend | None = None,
    lava_images: int = 0,
    device: str = "cpu",
    bars: Bars = no_bar,
) -> Diagnosed:
    """Return where the accuracy of the CNN ``model`` goes on its way to the netx file ``path``.

    Parameters
    ----------
    model
        The checkpoint that the file was made from.
    path
        The ``.net`` file.
    images
        Validation images, with or without labels: what the answer is acted on must not be the test images.
    timesteps
        T; by default the one the file was balanced for.
    arch
        As in `source.open_source`, if the file was made with one.
    lava
        Lava's simulator, to run the first ``lava_images`` and compare every layer with `ref`.
    device
        As in `run`.

    Raises
    ------
    InputError
        If a file cannot be used, or the checkpoint has other layers than the netx file.
    VerificationError
        If Lava's integers are not those of `ref`.
    """
    network = netx.read(path)
    steps = network.timesteps if timesteps is None else timesteps
    check_run(network, images.images, steps)
    recorded = network.provenance.get("model", {})
    source = reopen_source(model, recorded, network.input_shape, arch)
    notes = []
    if source.provenance["sha256"] != recorded.get("sha256"):
        notes.append(
            f"{path} was not made from {model} as it is now: what differs between the two CNNs is counted as loss, "
            "mostly of weight bits."
        )
    spiking = float_network(network, source.network)
    with bars(f"{path.name}: from the CNN to the file") as progress:
        found = diagnose_network(
            source.network,
            spiking,
            network,
            images.images,
            images.labels,
            steps,
            device=device,
            progress=progress,
        )
    if lava is not None and lava_images:
        with lava:
            run(path, images[:lava_images], lava, steps, model=model, arch=arch, trace=True, device=device, bars=bars)
    return Diagnosed(path, found, advice(found, network), tuple(notes), lava_images if lava is not None else 0)


def source_model(path: Path, network: QuantizedNetwork) -> Path | None:
    """Return the checkpoint that ``network``'s file was made from, if it lies beside it unchanged."""
    recorded = network.provenance.get("model", {})
    candidate = path.parent / Path(str(recorded.get("file", ""))).name
    return candidate if candidate.is_file() and sha256(candidate) == recorded.get("sha256") else None


def float_network(network: QuantizedNetwork, cnn: ReluNetwork) -> SpikingNetwork:
    """Return the spiking network in real numbers that ``network`` was rounded from.

    Raises
    ------
    InputError
        If ``cnn`` does not have the layers of ``network``.
    """
    found = ", ".join(f"{layer.name} {shape}" for layer, shape in zip(cnn.layers, cnn.shapes, strict=True))
    expected = ", ".join(f"{layer.name} {shape}" for layer, shape in zip(network.layers, network.shapes, strict=True))
    if found != expected or cnn.input_shape != network.input_shape:
        raise InputError(
            f"the checkpoint takes images {cnn.input_shape} and has layers {found}; the file was made from one that "
            f"takes {network.input_shape} and has {expected}. Give the one it was exported from."
        )
    layers = tuple(
        SpikingLayer(
            source.name,
            source.synapse if layer.correction is None else source.synapse.with_added_bias(layer.correction),
            layer.balanced,
            layer.correction,
        )
        for source, layer in zip(cnn.layers, network.layers, strict=True)
    )
    return SpikingNetwork(
        network.input_shape, layers, network.timesteps, network.reset, poisson_seed=network.poisson_seed
    )


def _source(path: Path, network: QuantizedNetwork, model: Path | None, arch: str | None) -> Source | None:
    """The CNN that the file at ``path`` was made from, if it can be had."""
    recorded = network.provenance.get("model", {})
    if model is None and arch is None and "arch" in recorded:
        return None
    found = source_model(path, network) if model is None else model
    return None if found is None else reopen_source(found, recorded, network.input_shape, arch)


def _notes_on_rounding(network: SpikingNetwork, quantized: QuantizedNetwork, images: Array) -> tuple[str, ...]:
    """A warning where the integers choose other classes than the real numbers: a single huge weight can do that."""
    steps = network.timesteps
    real = outputs(network, images, steps)[:, -1].argmax(axis=1)
    rounded = run_network(quantized, images, steps).predictions[:, -1]
    equal = int((real == rounded).sum())
    if equal >= 0.9 * len(images):
        return ()
    return (
        f"the integers choose the class of the real numbers on only {equal} of {len(images)} calibration images; look "
        "for layers of few weight bits, and for single weights or biases far larger than the others.",
    )


def _verify(path: Path, network: QuantizedNetwork, images: Array) -> int:
    with open_backend("ref") as backend:
        written = backend.run(path, images, network.timesteps, trace=True)
    difference = first_difference(written, run_network(network, images, network.timesteps, trace=True))
    if difference:
        raise VerificationError(
            f"{path}: the written file does not compute what the network in memory does: {difference}."
        )
    return len(images)
