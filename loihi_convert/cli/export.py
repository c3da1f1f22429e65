"""`loihi-convert export`."""

from __future__ import annotations

import shlex
from collections.abc import Iterator, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final, get_args

import typer

from loihi_convert.batch.places import NO_SHARD, PlaceOptions
from loihi_convert.cli import options
from loihi_convert.cli.console import (
    Fact,
    aligned,
    echo,
    flagged,
    log,
    on_interrupt,
    say_answer,
    say_json,
    say_tables,
    told_once,
)
from loihi_convert.cli.options import changed, flags_of, is_netx, option_words, require_cnn, validation_images
from loihi_convert.conversion.options import BalanceOptions, ConversionOptions, QuantizeOptions, published_neurons
from loihi_convert.errors import UsageError, with_flags
from loihi_convert.ground.choices import DatasetName, SpikeKind
from loihi_convert.ground.files import require_output
from loihi_convert.ground.options import Flag, parse_timesteps
from loihi_convert.pipeline.options import DATA, CnnOptions, DataRequest, NetworkFile, WriteOptions

if TYPE_CHECKING:
    from loihi_convert.conversion.flow import QuantizationReport
    from loihi_convert.data import Dataset, DataSplits
    from loihi_convert.pipeline.exporting import ExportResult, GradedExport, Rewritten
    from loihi_convert.reading.source import Source
    from loihi_convert.report.table import Table

GOOD_AGREEMENT: Final = 0.98
"""From here on, potentials that clip on some images cost nothing that is worth a line."""


_OF_A_FILE = ("model", "output", "file_format", "allow_hard_reset", "verify", "overwrite", "details", "as_json")
"""The parameters that apply where a netx file is written again in another format."""

_OF_GRADED_SPIKES = (
    *("model", "output", "spikes", "task", "verify", "overwrite", "details", "as_json", "arch", "mean", "std"),
    *("input_shape", "classes", "data", "data_root", "class_map", "calibration", "expect"),
)
"""The parameters that apply to graded spikes."""


def export(
    ctx: typer.Context,
    model: Annotated[Path, Flag("MODEL", is_argument=True)],
    *,
    cnn: CnnOptions,
    images: DataRequest,
    calibration: Annotated[str, Flag("IMAGES", panel=DATA)] = "split",
    expect: Annotated[float | None, Flag("PERCENT", panel=DATA)] = None,
    output: Annotated[Path | None, Flag(name="-o,--output")] = None,
    timesteps: Annotated[tuple[int, ...], Flag("T", "-T,--timesteps", parse=parse_timesteps)] = (64,),
    balancing: BalanceOptions,
    quantization: QuantizeOptions,
    spikes: SpikeKind = "binary",
    writing: WriteOptions,
    device: options.OnDevice = "auto",
    chips: int | None = None,
    details: bool = False,
    as_json: options.AsJson = False,
    bundle: Annotated[Path | None, Flag("FOLDER")] = None,
    skip_copies: Annotated[int | None, Flag(panel="Balancing")] = None,
    place_options: Annotated[PlaceOptions, Flag(only=NO_SHARD)],
) -> None:
    """Convert a CNN to spikes, balance its thresholds, round it to Loihi's integers, write a netx or NIR file.

    Parameters
    ----------
    model
        Trained CNN: a checkpoint (from torch.save, with any suffix, or safetensors), an ONNX file, or a NIR file.
    data
        Data set (a name of `loihi-convert data`, such as mnist), a folder of images, or an .npz file. Default: the
        benchmark set the CNN was trained on.
    calibration
        Calibration images: split, all, or a number (first N of the split).
    expect
        Known accuracy of the CNN in percent; a warning is given if that on validation images, or on your own images, is
        lower. Default: an accuracy that any CNN reaches on the data set; for your own images, that of a constant
        answer.
    output
        File to write, or an existing folder; with several T, one file each, such as FILE-T8.net. Default: MODEL with
        the suffix .net or .nir.
    timesteps
        Latency T to balance for; a list such as 1,2,4 gives one file for each.
    spikes
        binary: T steps per image. graded: spikes that carry integers, one step of each layer per image (Lava's
        sigma-delta neurons); only for ReLU, and without options for thresholds or T.
    chips
        The same limit as `max_cores` in chips of 128 neurocores (Kapoho Point has 8 chips).
    details
        Also print bits, thresholds and clipping of each layer.
    bundle
        Folder for a bundle that runs where only Lava is installed, such as a board's machine: the file, ten images,
        their expected potentials, a script. Needs `target='loihi2'` and one T.
    skip_copies
        Relays for each value of a skip connection, 1..8. More relays leave more weight bits to the convolution in their
        layer. Default: as few as possible without losing agreement with the CNN.
    """
    if writing.file_format != "netx" and is_netx(model):
        options.refuse_others(ctx, _OF_A_FILE, "given for a netx file, which contains a converted network")
        from loihi_convert.pipeline.exporting import rewritten

        _say_rewritten(rewritten(model, output, writing), as_json=as_json)
        return
    require_cnn(model)
    if spikes == "graded":
        binary = "must be left out: it is for binary spikes, or not supported for graded ones"
        options.refuse_others(ctx, _OF_GRADED_SPIKES, "given with `spikes='graded'`", expected=binary)
    place = place_options.chosen(default=0)
    if expect is not None and not 1 < expect <= 100:
        raise UsageError(f"found {expect:g}", where="expect", expected="must be in percent, in (1, 100]")
    is_poisson = (balancing.input_coding or published_neurons(balancing.method)[1]) == "poisson"
    if balancing.poisson_seed is not None and not is_poisson:
        raise UsageError("given", where="poisson_seed", expected="is only for `input_coding='poisson'`")
    from loihi_convert.pipeline import bundle as bundles
    from loihi_convert.pipeline import exporting
    from loihi_convert.pipeline.converting import require_convertible
    from loihi_convert.pipeline.opening import open_cnn
    from loihi_convert.simulation.image_shards import DividedImages

    paths = exporting.output_paths(model, output, timesteps, writing)
    for path in paths:
        require_output(path, writing.overwrite, model)
    exporting.require_file_format(writing, paths[0])
    if bundle is not None:
        bundles.require_bundle(quantization.target, timesteps, is_poisson=is_poisson, readout=balancing.output)
        bundles.require_new_bundle(bundle, paths[0], writing)
    quantization = replace(quantization, max_cores=_most_cores(quantization.max_cores, chips))
    source, splits = open_cnn(NetworkFile(model, cnn, images))
    known, kind = validation_images(splits)
    chosen = ConversionOptions(balancing, quantization, skip_copies, place.device(device))
    require_convertible(source, known.images, chosen)
    own = _say_own(ctx, source, known, f"{kind} of {splits.name}", expect, splits.name)
    calibrated_on = splits.calibration_images(calibration)
    if len(timesteps) > 1:
        on_interrupt(lambda: "no partial files were left; files of finished T are complete")
    exported: Sequence[ExportResult | GradedExport]
    if spikes == "graded":
        exported = [exporting.export_graded(source, paths[0], calibrated_on, writing=writing)]
    else:
        with place.opened() as workers:
            divided = calibrated_on if workers is None else DividedImages(calibrated_on, workers, chosen.device)
            exported = exporting.export(source, output, timesteps, divided, chosen, writing)
    if bundle is not None:
        shown = splits.test.images[: bundles.BUNDLED_IMAGES]
        bundles.write_bundle(bundle, exported[0].path, shown, overwrite=writing.overwrite)
    if as_json:
        say_json({"files": list(map(_json, exported)), "cnn": own})
    else:
        following = _next_facts(paths, splits, images, cnn.arch) if writing.file_format == "netx" else []
        _say_exported(exported, following, details=details)
    if bundle is not None:
        log(f"wrote {bundle}/; where Lava is installed: python {shlex.quote(str(bundle / bundles.SCRIPT))}")


def _say_own(
    ctx: typer.Context, source: Source, known: Dataset, kind: str, expect: float | None, data: str
) -> dict[str, Any] | None:
    """Print the CNN's own accuracy or error on the images ``known``, or a warning, on stderr; return it as JSON."""
    from loihi_convert.metrics.own_accuracy import own_accuracy, unjudged

    own = own_accuracy(source, known, kind, None if expect is None else expect / 100, data=data)
    warning = unjudged(source, known) if own is None else own.warning
    if own is None and source.network.task == "classification" and source.neurons is None:
        log(
            "the images have no labels, so the CNN's own accuracy is not checked; it is treated as a classifier "
            f"with {len(source.recorded.names)} classes (--task regression: numeric outputs)"
        )
    if warning:
        log(f"warning: {with_flags(warning, flags_of(ctx.command.params))}")
    elif own is not None:
        log(own.sentence)
    return None if own is None else asdict(own)


def _next_facts(paths: Sequence[Path], splits: DataSplits, images: DataRequest, arch: str | None) -> list[Fact]:
    """Return how to run the files at ``paths``: paths and code are not in them, and test images may be needed."""
    data = images.data
    if data in get_args(DatasetName) or (data is not None and str(Path(data)) == splits.name):
        data = None
    facts = []
    if splits.calibration is splits.test:
        data = "TEST.npz" if splits.name.endswith(".npz") else "TEST"
        facts = [Fact("", f"{data}: other images than {splits.name}, which it was calibrated on")]
    given = {"--data": data, **changed(replace(images, data=None)), "--arch": arch}
    return [Fact("next", shlex.join(["loihi-convert", "run", *map(str, paths), *option_words(given)])), *facts]


def _most_cores(max_cores: int | None, chips: int | None) -> int | None:
    """Return the number of neurocores allowed; None for any."""
    if chips is None:
        return max_cores
    from loihi_convert.chip.limits import NEUROCORES

    if max_cores is not None or chips < 1:
        expected = "must be at least 1, and not be given with `max_cores`"
        raise UsageError(f"found {chips}", where="chips", expected=expected)
    return chips * NEUROCORES


def _say_exported(exported: Sequence[ExportResult | GradedExport], following: Sequence[Fact], *, details: bool) -> None:
    """Print one line per file, possible causes of accuracy loss, and the next steps."""
    from loihi_convert.pipeline.exporting import ExportResult

    first = exported[0]
    is_graded = not isinstance(first, ExportResult)
    more = "bits and largest message" if is_graded else "bits, thresholds and clipping"
    closing = [] if details else [Fact("", f"--details: weight {more} of each layer")]
    facts = [*told_once(_facts(exported), len(exported)), *following, *closing]
    if len(exported) == 1:
        what = "graded spikes" if is_graded else f"T = {first.network.timesteps}"
        method = [] if is_graded else [first.network.provenance.method]
        below = ", ".join((_size(first.path), *method, _verified(first)))
        say_answer(f"wrote {first.path}: {what}, {_agreement(first)}", [below], [], facts)
    else:
        is_regression = first.network.task == "regression"
        measure = "share of the variance of the CNN's outputs explained" if is_regression else "agreement with the CNN"
        verdict = f"wrote {len(exported)} files; {measure} on {first.agreement.image_count:,} calibration images"
        say_answer(verdict, [f"each {_verified(first)}"], _lines(exported), facts)
    for item in exported if details else ():
        echo(f"\n{item.path}")
        say_tables([_layer_table(item)])


def _size(path: Path) -> str:
    return f"{path.stat().st_size:,} bytes"


def _say_rewritten(file: Rewritten, *, as_json: bool) -> None:
    """Print what a file made from a netx file holds; or JSON."""
    from loihi_convert.ground.files import sha256

    if as_json:
        say_json({"files": [{"file": str(file.path), "sha256": sha256(file.path), "notes": file.notes}]})
        return
    notes = [Fact("note", flagged(note, "export")) for note in file.notes]
    say_answer(f"wrote {file.path}: {file.network.summary}", [_size(file.path)], [], notes)


def _graded_facts(item: GradedExport) -> Iterator[Fact]:
    from loihi_convert.ir.network import layer_words

    depth = len(item.network.layers) - 1
    least = min(item.layers, key=lambda layer: layer.weight_bits)
    yield Fact("graded", f"one step of each layer for an image; the output is there {depth} steps after the input")
    yield Fact("bits", f"weights use {least.weight_bits:.1f} bits or more (fewest in {layer_words(least.name)})")
    yield Fact("load", f"unmodified lava-dl: netx.hdf5.Network({str(item.path)!r}, spike_exp={item.network.spike_exp})")


def _layer_table(item: ExportResult | GradedExport) -> Table:
    from loihi_convert.pipeline.exporting import ExportResult
    from loihi_convert.report.conversion_tables import quantization_table
    from loihi_convert.report.table import table_of

    if isinstance(item, ExportResult):
        return quantization_table(item.report)
    rows = [
        {
            "layer": layer.name,
            "weight\nbits": f"{layer.weight_bits:.1f}",
            "largest\nmessage": f"{layer.largest_message:,}" if layer.largest_message else None,
        }
        for layer in item.layers
    ]
    caption = f"messages on {item.agreement.image_count:,} calibration images"
    return table_of(rows, words=("layer",), caption=caption)


def _agreement(item: ExportResult | GradedExport) -> str:
    from loihi_convert.conversion.agreement import measure_of

    count = item.agreement.image_count
    images = f"{count:,} calibration image{'' if count == 1 else 's'}"
    return measure_of(item.network.task).words(item.agreement.agreement, "the CNN", images)


def _verified(item: ExportResult | GradedExport) -> str:
    if item.verified_images:
        return f"verified on {item.verified_images} images, every layer"
    return "every number read back and compared" if item.is_read_back else "not verified"


def _lines(exported: Sequence[ExportResult | GradedExport]) -> list[str]:
    """Return one line per file."""
    from loihi_convert.conversion.agreement import measure_of

    cells = [("T", "agreement", "method", "file", "bytes")]
    for item in exported:
        percent = measure_of(item.network.task).percent(item.agreement.agreement)
        size = f"{item.path.stat().st_size:,}"
        cells.append((str(item.network.timesteps), percent, item.network.provenance.method, str(item.path), size))
    return aligned(cells, (2, 3))


def _facts(exported: Sequence[ExportResult | GradedExport]) -> Iterator[tuple[str, Fact]]:
    """Yield possible causes of accuracy loss, and notes, each with the T of its file."""
    from loihi_convert.checks.lava_dl import lava_dl_findings
    from loihi_convert.conversion.flow import CHOICE_NOTE
    from loihi_convert.pipeline.exporting import ExportResult

    for item in exported:
        when = f"T = {item.network.timesteps}"
        if isinstance(item, ExportResult):
            yield from ((when, fact) for fact in _ranges(item.report, item.agreement.agreement))
        else:
            yield from ((when, fact) for fact in _graded_facts(item))
        notes = (note for note in item.notes if not note.startswith(CHOICE_NOTE))
        yield from ((when, Fact("note", flagged(note, "export"))) for note in notes)
        if isinstance(item, ExportResult) and item.file_format == "netx":
            found = lava_dl_findings(item.network, item.lava_dl, "lava")
            yield from ((when, Fact(finding.severity, flagged(finding.text, "export"))) for finding in found)


def _ranges(report: QuantizationReport, agreement: float) -> Iterator[Fact]:
    """Return the layers whose potentials leave their range: always for a chip, else if agreement may be affected."""
    from loihi_convert.ir.network import layer_words

    if report.target == "loihi2":
        proven = [layer.name for layer in report.layers if layer.is_proven]
        wrapped = [layer.name for layer in report.layers if layer.low_clipped or layer.high_clipped]
        held = [layer.name for layer in report.layers if layer.name not in (*proven, *wrapped)]
        states = (
            (proven, "cannot wrap in {layers} (proven for any image)"),
            (held, f"did not wrap in {{layers}} on {report.image_count:,} calibration images"),
        )
        known = "; ".join(text.format(layers=", ".join(map(layer_words, layers))) for layers, text in states if layers)
        yield Fact("chip", f"target loihi2, pixels of {report.pixel_bits} bits" + (f"; u {known}" if known else ""))
        if wrapped:
            yield Fact(
                "warning",
                f"u wraps in {', '.join(map(layer_words, wrapped))} on calibration images; classes may be wrong",
            )
        return
    clipped = [
        f"{layer_words(layer.name)} ({layer.harmful_clips:,} images)" for layer in report.layers if layer.harmful_clips
    ]
    if clipped and agreement < GOOD_AGREEMENT:
        yield Fact(
            "clipped",
            f"potentials in {', '.join(clipped)} of {report.image_count:,}; `diagnose` measures what this costs a "
            "classification.",
        )


def _json(item: ExportResult | GradedExport) -> dict[str, Any]:
    """Return one file's digest, results, notes and provenance as JSON."""
    from loihi_convert.ground.files import sha256
    from loihi_convert.pipeline.exporting import ExportResult

    more: dict[str, Any]
    if isinstance(item, ExportResult):
        by_lava_dl = None if item.lava_dl is None else item.lava_dl.model_dump()
        more = {"target": item.network.target, "account": asdict(item.report), "lava_dl": by_lava_dl}
    else:
        layers = [asdict(layer) for layer in item.layers]
        more = {"spikes": "graded", "spike_exp": item.network.spike_exp, "layers": layers}
    return {
        "file": str(item.path),
        "sha256": sha256(item.path),
        "notes": item.notes,
        "verified_images": item.verified_images,
        "agreement": asdict(item.agreement),
        "provenance": dict(item.network.provenance),
        **more,
    }
