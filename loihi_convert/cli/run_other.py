"""`loihi-convert run` of a netx file with graded spikes, or that another tool wrote."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from loihi_convert.cli.console import Fact, log
from loihi_convert.cli.options import refuse_given
from loihi_convert.cli.run_output import remarks, say_single
from loihi_convert.cli.run_request import RunRequest

if TYPE_CHECKING:
    from loihi_convert.ground.normalization import Normalization
    from loihi_convert.ir.graded import GradedNetwork
    from loihi_convert.pipeline.external_run import ExternalNetwork
    from loihi_convert.pipeline.run_results import FileRun, RunFolder


def run_graded(request: RunRequest, network: GradedNetwork, sha256: str) -> None:
    """Run the only file, which contains ``network``; ``sha256`` is its digest.

    Raises
    ------
    UsageError
        If there are several files, or an option was given that graded spikes do not support.
    """
    from loihi_convert.ground.progress import progress_bar
    from loihi_convert.pipeline.graded import run_graded_into_folder

    path = request.require_one_file("its spikes are graded")
    given = {"timesteps": request.options.timesteps not in ((), (1,)), "mean": request.normalization}
    refuse_given(
        {**given, **request.given}, "given for graded spikes", "must be left out: they take one step, on the CPU"
    )
    splits = request.load(network.provenance.model, network.input_shape)

    def say(done: RunFolder[GradedNetwork]) -> None:
        scene = request.scene(splits)
        (ran,) = done.runs
        facts = [*remarks(ran, scene), *_message_facts(ran, is_stream=request.is_stream)]
        say_single(done, scene, facts, as_json=request.as_json, details=request.details)

    say(
        run_graded_into_folder(
            request.output,
            path,
            network,
            sha256,
            splits,
            request.images(splits),
            request.backend,
            is_stream=request.is_stream,
            model=request.model,
            arch=request.arch,
            command_line=sys.argv,
            unwritten=say,
            bars=progress_bar,
        )
    )


def _message_facts(ran: FileRun[GradedNetwork], *, is_stream: bool) -> Iterator[Fact]:
    """Return what an event is, and how many there are."""
    point, depth = ran.evaluation.nominal_point, ran.evaluation.depth
    neurons = sum(layer.neuron_count for layer in ran.evaluation.layers[: len(ran.network.spiking_layers)])
    since = "the frame before" if is_stream else "the settled state, which is written back before each image"
    share = 100 * point.spikes_per_image / neurons
    yield Fact(
        "messages",
        f"{point.spikes_per_image:,.0f} an image, from {share:.1f} % of the neurons (pixels included): each is a "
        f"change since {since}. Every SynOp is a multiplication by a message.",
    )
    if is_stream and len(ran.result.spike_counts) > 1:
        first, later = ran.result.spike_counts[0].sum(), ran.result.spike_counts[1:].sum(axis=(1, 2)).mean()
        operations = ran.result.synaptic_operations
        fewer = operations[1:].sum(axis=(1, 2)).mean() / max(1, operations[0].sum())
        yield Fact(
            "sequence",
            f"{first:,} messages for the first frame, {later:,.0f} for each later one, with {fewer:.2f} of its SynOps",
        )
    yield Fact("latency", f"the output is there {depth} steps after the image; energy is not estimated")


def run_external(request: RunRequest, network: ExternalNetwork, sha256: str) -> None:
    """Run the only file, which contains ``network``, on `ref`; ``sha256`` is its digest.

    Raises
    ------
    UsageError
        If there are several files, or an option was given that such a file does not support.
    """
    from loihi_convert.external.cuba import CubaNetwork
    from loihi_convert.ground.progress import progress_bar
    from loihi_convert.ir.provenance import ModelRecord
    from loihi_convert.pipeline import external_run
    from loihi_convert.pipeline.external_run import used_normalization

    path, normalization = request.require_one_file("another tool wrote it"), request.normalization
    given = {"backend": request.backend.name != "ref", "model": request.model, "arch": request.arch, **request.given}
    refuse_given(given, f"given, but another tool wrote {path}", "must be left out: such a file runs on ref")
    splits = request.load(ModelRecord(), network.input_shape)

    def say(done: RunFolder[ExternalNetwork]) -> None:
        kind = "CUBA" if isinstance(network, CubaNetwork) else "sigma-delta"
        log(f"{path.name}: another tool wrote it; its {kind} neurons run as in Lava, without early exit")
        pixels = _pixels(used_normalization(network, normalization), is_default=normalization is None)
        say_single(done, request.scene(splits), pixels, as_json=request.as_json, details=request.details)

    say(
        external_run.run_external_into_folder(
            request.output,
            path,
            network,
            sha256,
            splits,
            request.images(splits),
            timesteps=request.options.timesteps,
            is_stream=request.is_stream,
            normalization=normalization,
            command_line=sys.argv,
            unwritten=say,
            bars=progress_bar,
        )
    )


def _pixels(normalization: Normalization | None, *, is_default: bool) -> list[Fact]:
    """How pixels enter: ``as (x - 0.5) / 0.5``; nothing for a network without input neurons."""
    if normalization is None:
        return []
    texts = (", ".join(f"{number:g}" for number in numbers) for numbers in normalization)
    subtracted, divisor = (f"({text})" if "," in text else text for text in texts)
    origin = " (default; --mean and --std for others)" if is_default else ""
    return [Fact("pixels", f"as (x - {subtracted}) / {divisor} with x = pixel / 255{origin}")]
