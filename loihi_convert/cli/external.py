"""`loihi-convert run` of a netx file that another tool wrote."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING

from loihi_convert.cli.console import Fact, log
from loihi_convert.cli.options import refuse_given
from loihi_convert.cli.run_output import say_single
from loihi_convert.cli.run_request import RunRequest

if TYPE_CHECKING:
    from loihi_convert.normalization import Normalization
    from loihi_convert.pipeline.external_run import ExternalNetwork
    from loihi_convert.pipeline.run_results import RunFolder


def run_external(request: RunRequest, network: ExternalNetwork, sha256: str) -> None:
    """Run the only file, which contains ``network``, on `ref`; ``sha256`` is its digest.

    Raises
    ------
    UsageError
        If there are several files, or an option was given that such a file does not support.
    """
    from loihi_convert.external.cuba import CubaNetwork
    from loihi_convert.ir.provenance import ModelRecord
    from loihi_convert.pipeline import external_run
    from loihi_convert.pipeline.external_run import used_normalization
    from loihi_convert.progress import progress_bar

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
