"""`loihi-convert diagnose`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from loihi_convert.cli import options
from loihi_convert.cli.console import echo, flagged, log, say, say_json, say_tables
from loihi_convert.cli.images import DataRequest, first_images, validation_images
from loihi_convert.cli.options import DATA_AND_CNN, LAVA
from loihi_convert.cli.wrong_files import is_cnn, is_netx, require_cnn, require_netx
from loihi_convert.errors import UsageError
from loihi_convert.files import require_no_pipe
from loihi_convert.ready_made import file_of

if TYPE_CHECKING:
    from loihi_convert.ir.provenance import ModelRecord
    from loihi_convert.pipeline.diagnosing import DiagnosisReport

DIAGNOSED_IMAGES = 1_000
"""Images a diagnosis takes unless told otherwise: seconds, and a few tenths of a point of accuracy."""

_MODEL = typer.Argument(help="Checkpoint that the file was made from.", metavar="MODEL", show_default=False)
_FILE = typer.Argument(
    help="Exported .net file, or a name of `loihi-convert models`.", metavar="FILE", show_default=False
)
_IMAGES = f"validation images; default: {DIAGNOSED_IMAGES:,}, or all."
_SIM = "Also run the first N of these images on Lava and compare every layer."


def diagnose(
    model: Annotated[Path, _MODEL],
    file: Annotated[Path, _FILE],
    timesteps: Annotated[int | None, options.timesteps()] = None,
    image_count: Annotated[int | None, options.images(_IMAGES)] = None,
    device: options.OnDevice = "auto",
    details: Annotated[bool, options.details("Also print the difference of each layer from the CNN.")] = False,
    as_json: options.AsJson = False,
    data: Annotated[str | None, options.data(DATA_AND_CNN)] = None,
    data_root: Annotated[Path | None, options.data_root(DATA_AND_CNN)] = None,
    class_map: Annotated[str | None, options.class_map(DATA_AND_CNN)] = None,
    arch: Annotated[str | None, options.arch(DATA_AND_CNN)] = None,
    sim: Annotated[int, options.number("--sim", LAVA, _SIM, metavar="N")] = 0,
    lava_python: options.LavaPython = None,
    lava_layout: options.LayoutOnLava = None,
) -> None:
    """Show where accuracy was lost between a CNN and its exported file, by cause and by layer, and what to try."""
    file = file_of(file)
    if is_netx(model) and is_cnn(file):
        raise UsageError("the files are in the wrong order", hint=f"Run `loihi-convert diagnose {file} {model}`.")
    require_cnn(model)
    require_netx(file)
    require_no_pipe(file)
    for name, value in (("lava_python", lava_python), ("lava_layout", lava_layout)):
        if value is not None and not sim:
            raise UsageError("given, but no images run on Lava", where=name, expected="needs `sim`")
    request = DataRequest(data, data_root, options.parse_class_map(class_map))
    from loihi_convert import netx
    from loihi_convert.backends import BackendOptions, open_backend
    from loihi_convert.devices import chosen_device
    from loihi_convert.pipeline import diagnosing
    from loihi_convert.progress import progress_bar

    chosen = chosen_device(device)
    network = netx.read(file)
    recorded = network.provenance.model
    splits = request.load(file, recorded, network.input_shape)
    known, kind = validation_images(splits)
    count = first_images(image_count, DIAGNOSED_IMAGES, len(known), f"{kind} of {splits.name}")
    if not 0 <= sim <= count:
        raise UsageError(f"found {sim}", where="sim", expected=f"must be 0..{count}, the number of images in use")
    log(f"looking at the first {count:,} of {len(known):,} {kind} of {splits.name}{_remark(kind, recorded)}")
    lava_options = BackendOptions(lava_python=lava_python, lava_layout=lava_layout)
    done = diagnosing.diagnose(
        model,
        file,
        known[:count],
        timesteps,
        data=splits.name,
        fingerprint=splits.test.fingerprint,
        arch=arch,
        lava=open_backend("sim", lava_options) if sim else None,
        lava_images=sim,
        device=chosen,
        bars=progress_bar,
    )
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
