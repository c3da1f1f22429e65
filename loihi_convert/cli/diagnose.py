"""`loihi-convert diagnose`."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from loihi_convert.backends.backend import BackendOptions, open_backend
from loihi_convert.cli import options
from loihi_convert.cli.console import echo, flagged, log, say, say_json, say_tables
from loihi_convert.cli.options import (
    first_images,
    is_cnn,
    is_netx,
    require_cnn,
    require_netx,
    validation_images,
)
from loihi_convert.errors import UsageError
from loihi_convert.ground.files import require_no_pipe
from loihi_convert.ground.options import Flag
from loihi_convert.ground.ready_made import file_of
from loihi_convert.pipeline.options import CnnOptions, DataRequest, RunOptions

if TYPE_CHECKING:
    from loihi_convert.ir.provenance import ModelRecord
    from loihi_convert.pipeline.diagnosing import DiagnosisReport

DIAGNOSED_IMAGES = 1_000
"""Images a diagnosis takes unless told otherwise: seconds, and a few tenths of a point of accuracy."""


def diagnose(
    model: Annotated[Path, Flag("MODEL", is_argument=True)],
    file: Annotated[Path, Flag("FILE", is_argument=True)],
    *,
    timesteps: options.Timesteps = None,
    image_count: options.ImageCount = None,
    device: options.OnDevice = "auto",
    details: bool = False,
    as_json: options.AsJson = False,
    request: DataRequest,
    cnn: Annotated[CnnOptions, Flag(only=("arch",))],
    sim: Annotated[int, Flag(panel="Lava")] = 0,
    lava: Annotated[BackendOptions, Flag(only=("lava_python", "lava_layout"))],
) -> None:
    """Show where accuracy was lost between a CNN and its exported file, by cause and by layer, and what to try.

    Parameters
    ----------
    model
        Checkpoint that the file was made from.
    file
        Exported .net file, or a name of `loihi-convert models`.
    image_count
        Use the first N validation images. Default: 1,000, or all.
    details
        Also print the difference of each layer from the CNN.
    sim
        Also run the first N of these images on Lava and compare every layer.
    """
    file = file_of(file)
    if is_netx(model) and is_cnn(file):
        raise UsageError("the files are in the wrong order", hint=f"Run `loihi-convert diagnose {file} {model}`.")
    require_cnn(model)
    require_netx(file)
    require_no_pipe(file)
    for name in ("lava_python", "lava_layout"):
        if getattr(lava, name) is not None and not sim:
            raise UsageError("given, but no images run on Lava", where=name, expected="needs `sim`")
    from loihi_convert import netx
    from loihi_convert.ground.devices import chosen_device
    from loihi_convert.pipeline import diagnosing
    from loihi_convert.pipeline.opening import OpenedFile, doubt
    from loihi_convert.pipeline.running import run
    from loihi_convert.reading.source import reopen_source

    chosen = chosen_device(device)
    network, sha256 = netx.read_with_digest(file)
    recorded = network.provenance.model
    splits = request.load_for(file, recorded, network.input_shape)
    known, kind = validation_images(splits)
    count = first_images(image_count, DIAGNOSED_IMAGES, len(known), f"{kind} of {splits.name}")
    if not 0 <= sim <= count:
        raise UsageError(f"found {sim}", where="sim", expected=f"must be 0..{count}, the number of images in use")
    log(f"looking at the first {count:,} of {len(known):,} {kind} of {splits.name}{_remark(kind, recorded)}")
    source = reopen_source(model, recorded, network.input_shape, cnn.arch)
    opened, steps = OpenedFile(file, network, sha256), network.timesteps if timesteps is None else timesteps
    done = diagnosing.diagnose(
        network,
        source,
        known[:count],
        steps,
        path=file,
        doubt=doubt(network, source, file.name, str(model)),
        data=splits.name,
        fingerprint=splits.test.fingerprint,
        device=chosen,
    )
    if sim:
        every_layer = RunOptions((steps,), trace=True, device=chosen)
        with open_backend("sim", lava) as runner:
            done = replace(done, equal_on_lava=run(opened, known[:sim], runner, every_layer).equal_to_reference)
    if done.equal_on_lava:
        log(f"Lava: every layer of the first {done.equal_on_lava} images equal to ref at every step, error 0")
    if as_json:
        say_json(_json(done))
    else:
        _say(done, details=details)


def _remark(kind: str, recorded: ModelRecord) -> str:
    """Return a note on the images: only `train` is known to exclude these validation images from training."""
    if kind != "validation images":
        return ""
    if recorded.arch is not None:
        return "; your CNN may have been trained on them, and accuracies are then too high"
    return "; test images are kept for the final result"


def _say(diagnosed: DiagnosisReport, *, details: bool) -> None:
    """Print the verdict, reasons to doubt it, the recommendations, then the losses."""
    say(diagnosed.verdict)
    for note in diagnosed.notes:
        say(f"warning: {flagged(note, 'export')}")
    for sentence in diagnosed.advice:
        say(f"- {flagged(sentence, 'export')}")
    echo("")
    say_tables(diagnosed.tables() if details else diagnosed.tables()[:1])
    if not details:
        echo("--details: difference of each layer from the CNN")


def _json(diagnosed: DiagnosisReport) -> dict[str, Any]:
    return {
        **diagnosed.diagnosis.model_dump(),
        "file": str(diagnosed.path),
        "verdict": diagnosed.verdict,
        "advice": [flagged(sentence, "export") for sentence in diagnosed.advice],
        "notes": diagnosed.notes,
        "equal_on_lava": diagnosed.equal_on_lava,
    }
