"""A request to reproduce a table or figure: its networks, images and settings."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

import loihi_convert
from loihi_convert.cnn import checkpoint
from loihi_convert.data import DATASETS, DataSplits, load_data
from loihi_convert.errors import InputError, UsageError
from loihi_convert.report.figure_style import Width
from loihi_convert.reproduction.best import BestOfOurs
from loihi_convert.reproduction.images import Counts, Images
from loihi_convert.reproduction.measure import Measurements
from loihi_convert.reproduction.paper_cells import VARIANTS, Variant
from loihi_convert.reproduction.records import Records

Kind = Literal["table", "figure"]

Tell = Callable[[str], None]
"""Told of each accuracy that has been computed, in a sentence."""

MODELS: Final = "netx_models"
"""The folder of ready-made models, in the repository."""


@dataclass(frozen=True)
class ImageCounts:
    """The number of images for each purpose.

    Parameters
    ----------
    calibration
        Balancing: ``"all"`` (training and validation images, as in the paper), ``"split"`` (the calibration split), or
        a number (first N of the split).
    image_count, long_images, long_calibration, rate_images
        See `images.Counts`.
    """

    calibration: str = "all"
    image_count: int | None = None
    long_images: int | None = None
    long_calibration: int | None = None
    rate_images: int | None = None

    def of(self, splits: DataSplits) -> Counts:
        """Return the image counts for one data set."""
        text = self.calibration
        if text not in ("all", "split") and not (text.isascii() and text.isdecimal()):
            raise UsageError(f"found {text}", where="calibration", expected="must be all, split, or a number of images")
        calibration = None if text == "all" else len(splits.calibration) if text == "split" else int(text)
        return Counts(calibration, self.image_count, self.long_images, self.long_calibration, self.rate_images)


@dataclass(frozen=True)
class Request:
    """A table or a figure of the paper.

    Parameters
    ----------
    kind, name
        ``"table"`` and one of `paper.TABLES`, or ``"figure"`` and one of `paper_cells.FIGURES`.
    models
        Names of included models, or checkpoints; one per data set.
    tuned
        Fine-tuned checkpoints, candidates for the best result at each T. Those of an included model are added.
    output
        Folder for the pages, pictures and CSV files.
    cache
        Folder for stored results; None: ``output/computed``.
    variants, methods, timesteps
        Restrict the measurement to these; None for ``methods`` and ``timesteps``: all of the paper's.
    counts
        The number of images for each purpose.
    weight_bits, poisson_seed
        See `paper_cells.Setting`.
    with_best
        Also measure the best of our methods, for tables and figures that compare methods.
    computed_only
        Show stored results without computing anything.
    device
        ``"cpu"``, or another torch device.
    data_root
        Folder of the data sets; None: the default.
    width
        Width of a figure.
    """

    kind: Kind
    name: str
    models: tuple[str, ...]
    tuned: tuple[Path, ...] = ()
    output: Path = Path("reproduced")
    cache: Path | None = None
    variants: tuple[Variant, ...] = (VARIANTS["literal"],)
    methods: tuple[str, ...] | None = None
    timesteps: tuple[int, ...] | None = None
    counts: ImageCounts = ImageCounts()
    weight_bits: int = 8
    poisson_seed: int = 0
    with_best: bool = True
    computed_only: bool = False
    device: str = "cpu"
    data_root: Path | None = None
    width: Width = "screen"

    @property
    def title(self) -> str:
        """The name used in messages: ``table 2``."""
        return f"{self.kind} {self.name}"

    @property
    def stem(self) -> Path:
        """The path of the output files, without a suffix."""
        return self.output / f"{self.kind}-{self.name}"

    @property
    def records(self) -> Records:
        """The stored results."""
        return Records(self.cache or self.output / "computed")


def opened_networks(request: Request, tell: Tell) -> dict[str, Measurements]:
    """Return the networks by the name of their training data.

    Raises
    ------
    UsageError
        If two networks were trained on the same data.
    InputError
        If a network cannot be used.
    """
    found: dict[str, Measurements] = {}
    for model in request.models:
        path, *_ = model_files(model)
        data = checkpoint.load(path).data
        if data in found:
            raise UsageError(
                f"{found[data].name} is also trained on {data}",
                where=path,
                expected="pass one `models` for each data set",
                hint="Pass fine-tuned networks by `tuned`.",
            )
        splits = load_data(data, request.data_root)
        images = Images(splits, request.counts.of(splits))
        found[data] = _opened(path, images, request, tell)
    return found


def best_of_ours(request: Request, networks: dict[str, Measurements], tell: Tell) -> dict[str, BestOfOurs]:
    """Return the search for the best network at each T among ``networks`` and their fine-tuned versions."""
    found = {data: [network] for data, network in networks.items()}
    named = [path for model in request.models for path in model_files(model)[1:]]
    for path in (*request.tuned, *named):
        data = checkpoint.load(path).data
        if data not in found:
            raise UsageError(
                f"is trained on {data}, and no `models` is",
                where=path,
                hint="Pass the network it was fine-tuned from.",
            )
        found[data].append(_opened(path, networks[data].images, request, tell))
    return {
        data: BestOfOurs(candidates, request.records, weight_bits=request.weight_bits, device=request.device, tell=tell)
        for data, candidates in found.items()
    }


def model_files(model: str) -> tuple[Path, ...]:
    """Return the checkpoints of ``model``: a single path, or those of an included model.

    The first is the CNN without quantized activations; the others were fine-tuned from it for few steps.

    Raises
    ------
    InputError
        If the name is known but its folder is not installed.
    """
    if model not in DATASETS or model == "digits":
        return (Path(model),)
    places = (Path(MODELS), Path(loihi_convert.__file__).parents[1] / MODELS)
    folder = next((place / model for place in places if (place / model / "card.json").is_file()), None)
    if folder is None:
        raise InputError(
            f"the folder {MODELS}/{model} is not here",
            where=model,
            expected="a ready-made model is in the repository, not in the package",
            hint=f"Run this in a clone of the repository, or train one: `loihi-convert train --data {model}`.",
        )
    listed = [item for item in json.loads((folder / "card.json").read_text())["checkpoints"] if item["in_repository"]]
    # The sort is stable: each group keeps the order of the card.
    listed.sort(key=lambda item: item["qcfs_levels"] is not None)
    return tuple(folder / item["file"] for item in listed)


def _opened(path: Path, images: Images, request: Request, tell: Tell) -> Measurements:
    return Measurements(path, images, request.records, device=request.device, tell=tell)
