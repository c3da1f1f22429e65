"""Detects a missing file, and one of the wrong pipeline stage by its content, and names the right verb for it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, get_args

from loihi_convert.cli.console import log
from loihi_convert.cli.options import DATA, CnnOptions, parse_class_map
from loihi_convert.errors import InputError, UsageError
from loihi_convert.ground.choices import ClassMap, DatasetName
from loihi_convert.ground.files import CHECKPOINT_KINDS, asked, is_nir, kind_of, require_no_pipe, require_there
from loihi_convert.ground.options import Flag, declared
from loihi_convert.pipeline.options import NetworkFile

if TYPE_CHECKING:
    from loihi_convert.data import Dataset, DataSplits
    from loihi_convert.ground.arrays import Shape
    from loihi_convert.ir.provenance import ModelRecord

NETX: Final = ".net"
_NPZ: Final = ".npz"


def require_netx(path: Path) -> None:
    """Raise an `InputError` if ``path`` is missing, a folder, a checkpoint, an ONNX or a NIR file."""
    require_there(path, "Write one with `loihi-convert export model.pt`.")
    if path.is_dir():
        raise InputError("is a folder", where=path, expected=f"must be a {NETX} file")
    if path.suffix.lower() == _NPZ:
        raise InputError(
            "holds images", where=path, hint=f"Run a file on them: `loihi-convert run FILE --data {path}`."
        )
    if is_cnn(path):
        found = "is an ONNX file" if kind_of(path) == "onnx" else "is a NIR file" if is_nir(path) else "is a checkpoint"
        # Only a checkpoint may record its images.
        images = "" if found == "is a checkpoint" else " --data IMAGES"
        raise InputError(found, where=path, hint=f"Export it first: `loihi-convert export {path}{images}`.")


def require_cnn(path: Path) -> None:
    """Raise an `InputError` if ``path`` is missing, a pipe, a folder, or a netx file instead of a CNN."""
    require_there(path, "Name the checkpoint of a CNN, or an ONNX file.")
    require_no_pipe(path)
    if path.is_dir():
        raise InputError("is a folder", where=path, expected="must be a checkpoint, or an ONNX file")
    if path.suffix.lower() == _NPZ:
        raise InputError("holds images", where=path, hint=f"Name a CNN, and these images with `--data {path}`.")
    if is_netx(path):
        raise InputError("is exported already", where=path, hint=f"Run it: `loihi-convert run {path}`.")


def is_cnn(path: Path) -> bool:
    """Whether the file at ``path`` is a checkpoint, an ONNX or a NIR file."""
    return kind_of(path) in (*CHECKPOINT_KINDS, "onnx") or (is_nir(path) and path.is_file())


def is_netx(path: Path) -> bool:
    """Whether the file at ``path`` is HDF5 and has the suffix of a netx file."""
    return path.suffix == NETX and kind_of(path) == "hdf5"


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


def network_file(model: Path, cnn: CnnOptions, images: DataRequest) -> NetworkFile:
    """Return the CNN in the file ``model``, and its data, as the options say."""
    class_map = images.class_map
    return NetworkFile(
        model,
        cnn.arch,
        cnn.input_shape,
        cnn.classes,
        cnn.normalization,
        cnn.task,
        images.data,
        images.data_root,
        tuple(sorted(class_map.items())) if isinstance(class_map, Mapping) else class_map,
    )


def recorded_data(path: Path, recorded: ModelRecord) -> str:
    """Return the name of the data set, or the path of the images, that the file at ``path`` was made with.

    The images are looked for in the current folder, then beside the file.
    """
    if recorded.data is None:
        raise UsageError("does not record its data set", where=path, expected="needs `data`")
    named = str(recorded.data)
    if named in get_args(DatasetName):
        return named
    found = _own_images(path, named)
    if found is None:
        reason = f"was exported with {named}, which is neither in the current folder nor beside the file"
        raise InputError(reason, where=path, expected="needs `data`")
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
