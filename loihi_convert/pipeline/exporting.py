"""model.pt -> netx files: convert, balance, quantize, write, and compare what was written with what was meant."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Final

from loihi_convert import netx
from loihi_convert.arrays import Array
from loihi_convert.backends import open_backend
from loihi_convert.backends.difference import first_difference
from loihi_convert.backends.reference import run_network
from loihi_convert.backends.request import result_size
from loihi_convert.choices import AnyMethod
from loihi_convert.conversion.balancing import Amplitude, InitialPotential, balance
from loihi_convert.conversion.bias_correction import correct_biases
from loihi_convert.conversion.choice import Trial, choose_method, reason
from loihi_convert.conversion.quantization import quantize, require_choices
from loihi_convert.conversion.quantization_report import QuantizationReport, report_quantization
from loihi_convert.errors import VerificationError
from loihi_convert.files import refuse_to_overwrite, refuse_to_replace, require_writable
from loihi_convert.frontend.source import Source, open_source
from loihi_convert.ir.network import Readout, Reset, SpikingNetwork
from loihi_convert.ir.quantized import Granularity, QuantizedNetwork, Target
from loihi_convert.progress import ProgressFactory, no_progress_bar
from loihi_convert.simulation.simulator import outputs

VERIFIED_IMAGES: Final = 32
"""Calibration images on which an exported file is compared, layer by layer, with the network in memory."""

TRACED_BYTES: Final = 2**29
"""Of the spikes and potentials of a run that are compared at once."""


@dataclass(frozen=True)
class ExportOptions:
    """How thresholds are balanced and numbers are rounded; see `balancing.balance` and `quantization.quantize`.

    ``method`` "auto" is the one that `choice.choose_method` finds best for the T of the file, and so is ``percentile``
    then; ``correct`` None leaves to it whether `bias_correction.correct_biases` follows, and means no with any other
    method.
    """

    method: AnyMethod = "auto"
    amplitude: Amplitude = "compensated"
    alpha: float = 1.0
    percentile: float = 99.0
    initial_potential: InitialPotential | None = None
    reset: Reset = "soft"
    readout: Readout = "potential"
    poisson_seed: int | None = None
    weight_bits: int = 8
    pixel_bits: int | None = None
    thresholds: Granularity = "channel"
    correct: bool | None = None
    target: Target = "lava"


@dataclass(frozen=True, eq=False)
class ExportResult:
    """One written file, the report of its quantization, and notes: what was dropped, what stock lava-dl differs in."""

    path: Path
    network: QuantizedNetwork
    report: QuantizationReport
    notes: tuple[str, ...]
    verified_images: int


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
    bars: ProgressFactory = no_progress_bar,
) -> tuple[ExportResult, ...]:
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
        If the checkpoint cannot be used, or does not take the calibration images, or a file exists or cannot be
        written.
    UsageError
        If a file to write is the checkpoint, or options do not go together.
    UnsupportedModelError
        If the CNN holds what cannot spike.
    VerificationError
        If a written file does not compute what the network in memory does.
    """
    checkpoint = model.path if isinstance(model, Source) else model
    paths = output_paths(checkpoint, output, timesteps)
    for path in paths:
        require_writable(path)
        refuse_to_replace(checkpoint, path)
        refuse_to_overwrite(path, overwrite)
    require_choices(options.reset, options.weight_bits, options.pixel_bits, options.target, options.thresholds)
    source = model if isinstance(model, Source) else open_source(model)
    exported = []
    for path, steps in zip(paths, timesteps, strict=True):
        neurons: dict[str, Any] = {
            "amplitude": options.amplitude,
            "alpha": options.alpha,
            "initial_potential": options.initial_potential,
            "reset": options.reset,
            "readout": options.readout,
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
                    target=options.target,
                    thresholds=options.thresholds,
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
                progress=progress,
                **neurons,
            )
        if correct:
            with bars(f"T = {steps}: correcting biases") as progress:
                spiking = correct_biases(source.network, spiking, calibration, device=device, progress=progress)
        made = {**spiking.provenance, "choice": [asdict(trial) for trial in trials], "model": dict(source.provenance)}
        spiking = replace(spiking, provenance=made)
        with bars(f"T = {steps}: quantizing") as progress:
            quantized = quantize(
                spiking,
                calibration,
                weight_bits=options.weight_bits,
                pixel_bits=options.pixel_bits,
                target=options.target,
                thresholds=options.thresholds,
                device=device,
                progress=progress,
            )
        with bars(f"T = {steps}: counting what clips") as progress:
            costs = report_quantization(quantized, spiking, calibration, device=device, progress=progress)
        netx.write(quantized, path, overwrite=overwrite)
        verified = _verify(path, quantized, calibration[:VERIFIED_IMAGES]) if verify else 0
        notes = (
            *source.notes,
            *((reason(trials, steps),) if trials else ()),
            *_notes_on_biases(spiking),
            *_notes_on_rounding(spiking, quantized, calibration[:VERIFIED_IMAGES]),
            *netx.stock_netx_notes(quantized),
        )
        exported.append(ExportResult(path, quantized, costs, notes, verified))
    return tuple(exported)


def _notes_on_biases(network: SpikingNetwork) -> tuple[str, ...]:
    """A warning where spikes are literal and there are biases behind them; the paper's networks have none."""
    biased = [
        layer.name
        for before, layer in itertools.pairwise(network.layers)
        if before.neuron is not None and before.neuron.is_literal and layer.synapse.bias is not None
    ]
    if not biased:
        return ()
    return (
        f"--amplitude literal: spikes worth 1 change the scale of the currents of {', '.join(biased)}, but not of "
        "their biases (batch norm leaves some when it is folded); all accuracy may be lost. Use --amplitude "
        "compensated.",
    )


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
    """Compare what the file computes with what is meant, every layer at every step; return the number of images.

    Spikes and potentials, of as many images at once as fit into `TRACED_BYTES`. Where not even all steps of one image
    do, those of the first steps, and of all steps the output's potentials, each layer's spike counts and operations.
    """
    steps = min(network.timesteps, max(1, TRACED_BYTES // result_size(network, 1, 1, trace=True)))
    at_once = max(1, TRACED_BYTES // result_size(network, 1, steps, trace=True))
    runs = [(steps, True)] if steps == network.timesteps else [(steps, True), (network.timesteps, False)]
    with open_backend("ref") as backend:
        for first in range(0, len(images), at_once):
            some = images[first : first + at_once]
            for timesteps, trace in runs:
                written = backend.run(path, some, timesteps, trace=trace)
                meant = run_network(network, some, timesteps, trace=trace)
                difference = first_difference(written, meant, first_image=first)
                if difference:
                    raise VerificationError(
                        f"{path}: the written file does not compute what the network in memory does: {difference}."
                    )
    return len(images)
