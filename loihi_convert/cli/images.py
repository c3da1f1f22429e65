"""The images for a verb: a data set named by the options or the file, and the number of images."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, get_args

from loihi_convert.cli.console import log
from loihi_convert.cli.options import DATA, parse_class_map
from loihi_convert.errors import InputError, UsageError
from loihi_convert.ground.choices import ClassMap, DatasetName
from loihi_convert.ground.files import asked
from loihi_convert.ground.options import Flag, declared

if TYPE_CHECKING:
    from loihi_convert.data import Dataset, DataSplits
    from loihi_convert.ground.arrays import Shape
    from loihi_convert.ir.provenance import ModelRecord


@declared(DATA)
class DataRequest:
    """The images of a verb.

    Parameters
    ----------
    data
        Data set (digits, mnist, fashion-mnist, cifar10), a folder of images, or an .npz file. Default: the data
        recorded in the file.
    data_root
        Folder of the data sets. Default: LOIHI_CONVERT_DATA, or ~/.cache/loihi-convert.
    class_map
        Class of each class folder, by name or number: zero=0,one=1. sorted: the sorted folders are 0, 1, ..., as in
        torchvision's ImageFolder. names, the default if the classes have names: folders are named after the classes, or
        by their numbers.
    """

    data: Annotated[str | None, Flag("DATA")] = None
    data_root: Annotated[Path | None, Flag("FOLDER")] = None
    class_map: Annotated[ClassMap | None, Flag("FOLDER=CLASS,...", parse=parse_class_map)] = None

    def load(self, path: Path, recorded: ModelRecord, input_shape: Shape, *, at_once: bool = True) -> DataSplits:
        """Return the data for the network in the file at ``path``, with the record ``recorded`` of its CNN.

        ``at_once`` is as in `load_data`.

        Raises
        ------
        UsageError
            If neither the options nor the file name a data set.
        InputError
            If the images that the file names are not here, or cannot be used.
        """
        from loihi_convert.data import load_data

        named = self.data or recorded_data(path, recorded)
        splits = load_data(
            named,
            self.data_root,
            classes=recorded.names,
            class_map=self.class_map,
            input_shape=input_shape,
            at_once=at_once,
        )
        for note in splits.notes:
            log(note)
        if self.data is None and recorded.data_fingerprint not in (None, splits.test.fingerprint):
            log(
                f"{named} no longer contains the images that {path.name} was exported with; to run other images, pass "
                "their path as --data"
            )
        return splits

    def with_calibration(self, splits: DataSplits, path: Path, records: Sequence[ModelRecord]) -> DataSplits:
        """Return ``splits`` with the calibration images of the files to run, for choices before a run on other images.

        ``records`` are those of the CNNs. They must all name the same ``.npz`` file, small, unchanged, in the current
        folder or beside ``path``, the first of the files.
        """
        from loihi_convert.data import StoredImages, load_data
        from loihi_convert.data.stored_images import LARGE_BYTES

        (name, fingerprint), *others = {(one.data, one.calibration_fingerprint) for one in records}
        if others or name is None or self.data is None or isinstance(splits.test.images, StoredImages):
            return splits
        try:
            own = _own_images(path, name)
            if own is None or not asked(own, lambda file: file.is_file() and file.stat().st_size <= LARGE_BYTES):
                return splits
            found = load_data(str(own), classes=records[0].names, input_shape=splits.input_shape).calibration
        except (InputError, UsageError):
            return splits
        return replace(splits, calibration=found) if found.fingerprint == fingerprint else splits


def recorded_data(path: Path, recorded: ModelRecord) -> str:
    """Return the name of the data set, or the path of the images, that the file at ``path`` was made with.

    The images are looked for in the current folder, then beside the file.

    Raises
    ------
    UsageError
        If none is recorded.
    InputError
        If there are no such images.
    """
    if recorded.data is None:
        raise UsageError("the file does not record its data set", where=path, hint="Pass `data`.")
    named = str(recorded.data)
    if named in get_args(DatasetName):
        return named
    found = _own_images(path, named)
    if found is None:
        raise InputError(
            f"was exported with {named}, which is neither in the current folder nor beside the file",
            where=path,
            hint="Pass its path, or that of other images, as `data`.",
        )
    return str(found)


def _own_images(path: Path, named: str) -> Path | None:
    """Return the images ``named`` in the current folder, or else beside ``path``; None if there are none."""
    return next((each for each in (Path(named), path.parent / named) if asked(each, Path.exists)), None)


def validation_images(splits: DataSplits) -> tuple[Dataset, str]:
    """Return images for making choices (never test images), and their kind; a user's own images are not split.

    The first N show all classes.
    """
    if len(splits.validation):
        return splits.validation, "validation images"
    return splits.test.mixed, "own images"


def first_images(count: int | None, default: int, available: int, kind: str) -> int:
    """Return the number of images to use: ``count``, or ``default`` if there are as many; ``kind`` is their name."""
    chosen = min(default, available) if count is None else count
    if not 1 <= chosen <= available:
        raise UsageError(
            f"found {chosen}", where="image_count", expected=f"must be 1..{available}, the number of {kind}"
        )
    return chosen
