"""A user's own images: a folder of PNG and JPEG files, or an ``.npz`` file.

Images are not resized, and no colour is discarded: images that do not fit are refused, with the path of the first one.
Photos are rotated according to their EXIF data.
"""

from __future__ import annotations

import io
import math
import os
import tokenize
import zipfile
import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import IO, Any, BinaryIO, Final, cast

import numpy as np
from numpy.lib import format as npy
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from loihi_convert.data.array_pixels import are_rounded
from loihi_convert.data.benchmarks import DATASETS
from loihi_convert.data.class_folders import classes_of_folders
from loihi_convert.data.dataset import Dataset, DataSplits, dtype_and_shape, in_turns, is_in_class_order
from loihi_convert.data.in_memory import as_images, as_labels, as_targets
from loihi_convert.data.stored_images import StoredImages, is_large, stacked
from loihi_convert.errors import DataError, UsageError, first_line, is_lack_of_memory
from loihi_convert.ground.choices import ClassMap
from loihi_convert.ground.files import asked, cannot_read

# Written into archives by macOS.
_OF_MACOS: Final = "__MACOSX"

IMAGE_SUFFIXES: Final[tuple[str, ...]] = (".png", ".jpg", ".jpeg")
_SUFFIXES: Final = ", ".join(IMAGE_SUFFIXES)
# Those that torchvision's ImageFolder reads as well.
_OTHER_SUFFIXES: Final = (".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
NPZ_KEYS: Final[tuple[str, ...]] = ("images", "labels", "targets", "classes", "calibration")

NPZ_ERRORS: Final = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
    SyntaxError,
    tokenize.TokenError,
)
"""Exceptions of NumPy for a file that is damaged or not an ``.npz`` file."""

_IN_CLASS_ORDER: Final = (
    "the images are in the order of their classes, so the first N of them show only some classes: shuffle them before "
    "numpy.savez"
)
# NumPy declares no types for these. In version 3 only the names of fields have another encoding.
_read_magic: Final[Callable[[IO[bytes]], tuple[int, int]]] = npy.read_magic
_HEADERS: Final[dict[tuple[int, int], Callable[[IO[bytes]], tuple[Any, Any, Any]]]] = {
    (1, 0): npy.read_array_header_1_0,
    (2, 0): npy.read_array_header_2_0,
    (3, 0): npy.read_array_header_2_0,
}
_NPZ_FORM: Final = f"must contain images, and may contain {', '.join(NPZ_KEYS[1:])}"
NPZ_HINT: Final = "Write it with numpy.savez('new.npz', images=images, labels=labels)."


def load_image_folder(
    folder: Path,
    classes: Sequence[str] = (),
    *,
    class_map: ClassMap | None = None,
    input_shape: tuple[int, int, int] | None = None,
    at_once: bool = True,
) -> DataSplits:
    """Return the PNG and JPEG images in a folder, in the order of their names; all must have the same size.

    ::

        folder/cat/1.png       labelled: the folder's name is the class
        folder/dog/2.jpg
        folder/1.png           unlabelled

    Class folders take turns, see `in_turns`: the first N images show all classes.
    Other files, and names that begin with a dot, are ignored; a note counts images of other formats, and those in
    further folders. A grey image has one channel; if any image in the folder has colours, all get three channels.

    Parameters
    ----------
    folder
        As above.
    classes
        The names of the network's classes in the order of its outputs; empty if unknown.
    class_map
        The class of each folder; default: as in `classes_of_folders`.
    input_shape
        ``(C, H, W)`` of the network, if known: other sizes, and colours for a grey network, are refused.
    at_once
        Whether to read all images now; if not, more than `stored_images.LARGE_BYTES` are read when they are used.
    """
    entries = sorted(entry for entry in _listed(folder) if not entry.name.startswith("."))
    flat = [entry for entry in entries if _is_image(entry)]
    folders = [entry for entry in entries if asked(entry, Path.is_dir, DataError) and entry.name != _OF_MACOS]
    listed = {entry.name: _listed(entry) for entry in folders}
    per_class = {name: sorted(filter(_is_image, inside)) for name, inside in listed.items()}
    if flat and any(per_class.values()):
        raise DataError(
            "contains images both next to and inside its folders",
            where=folder,
            hint="Put every image into the folder of its class, or all into one folder without labels.",
        )
    if not flat and not any(per_class.values()):
        expected = f"must contain {_SUFFIXES} files, directly or in class folders"
        raise _without_images(folder, chain(entries, *listed.values()), expected, _deeper(folders))
    if flat:
        require_class_folders(folder, class_map)
        notes = _left_out(entries)
        return _unsplit(folder, tuple(classes), _dataset(folder, flat, None, input_shape, at_once), notes=notes)
    empty = [name for name, files in per_class.items() if not files]
    if empty:
        hint = "Remove the folder, or put images of its class into it."
        raise _without_images(folder / empty[0], listed[empty[0]], "", hint)
    found = classes_of_folders(folder, list(per_class), classes, class_map)
    labels = np.repeat(np.array(found.labels, np.int64), [len(files) for files in per_class.values()])
    order, paths = in_turns(labels), [file for files in per_class.values() for file in files]
    images = _dataset(folder, [paths[one] for one in order], labels[order], input_shape, at_once)
    notes = _left_out([entry for inside in listed.values() for entry in inside])
    return _unsplit(folder, found.classes, images, notes=(found.note, *notes))


def _without_images(folder: Path, entries: Iterable[Path], expected: str, hint: str) -> DataError:
    """The error for a folder whose ``entries`` are not PNG or JPEG images."""
    if any(entry.suffix.lower() in _OTHER_SUFFIXES for entry in entries):
        found, expected, hint = "contains only images of other formats", f"must be {_SUFFIXES} files", "Convert them."
        return DataError(found, where=folder, expected=expected, hint=hint)
    return DataError("contains no images", where=folder, expected=expected, hint=hint)


def _left_out(entries: Sequence[Path]) -> tuple[str, ...]:
    """A note if images of other formats, or in folders, are among ``entries``, of which only images are read."""
    entries = [entry for entry in entries if not entry.name.startswith(".")]
    others = sum(entry.suffix.lower() in _OTHER_SUFFIXES for entry in entries)
    folders = [entry for entry in entries if entry.suffix.lower() not in IMAGE_SUFFIXES and entry.is_dir()]
    deeper = sum(_is_image(file) for entry in folders for file in entry.rglob("*"))
    found = {f"{others:,} of other formats than PNG and JPEG": others, f"{deeper:,} in further folders": deeper}
    parts = " and ".join(words for words, count in found.items() if count)
    return (f"these images are left out: {parts}",) if parts else ()


def load_npz(
    path: Path,
    classes: Sequence[str] = (),
    *,
    input_shape: tuple[int, int, int] | None = None,
) -> DataSplits:
    """Return the images in an ``.npz`` file (`numpy.savez`).

    ===============  ===============================================================================================
    ``images``       ``(N, H, W)`` or ``(N, C, H, W)``, uint8 or floats in 0..1, see `as_images`;
                     signals ``(N, C, L)``, or ``(N, L)`` for one channel, if the network's input is ``(C, 1, L)``
    ``labels``       optional; integers ``(N,)`` or ``(N, 1)`` from 0, the class index of each image, see `as_labels`
    ``targets``      optional, instead of labels; numbers ``(N,)`` or ``(N, K)``, the targets of a regression
    ``classes``      optional; strings ``(K,)``, the name of each class, or of each output of a regression; labels are
                     numbered anew if the network's classes have another order
    ``calibration``  optional; like ``images``: used instead of ``images`` to balance thresholds
    ===============  ===============================================================================================

    Parameters
    ----------
    path
        The file; nothing in it is executed.
    classes
        The names of the network's classes, used if the file has none.
    input_shape
        ``(C, H, W)`` of the network, if known.
    """
    arrays = _read_npz(path)
    unknown = sorted(arrays.keys() - set(NPZ_KEYS))
    if unknown or "images" not in arrays:
        found = f"contains {', '.join(sorted(arrays)) or 'no arrays'}"
        raise DataError(found, where=path, expected=_NPZ_FORM, hint=NPZ_HINT)
    images = _npz_images(path, "images", arrays["images"], input_shape)
    notes: tuple[str, ...] = ()
    names = _class_names(path, arrays["classes"]) if "classes" in arrays else tuple(classes)
    if "labels" in arrays and "targets" in arrays:
        raise DataError("contains labels and targets", where=path, expected="must contain only one of them")
    labels = targets = None
    if "labels" in arrays:
        labels = as_labels(arrays["labels"], len(images), len(names), where=f"{path}: labels")
    if "targets" in arrays:
        own_names = len(names) if "classes" in arrays else 0
        targets = as_targets(arrays["targets"], len(images), own_names, where=f"{path}: targets")
    if "classes" in arrays and classes and not _keep_their_numbers(names, classes):
        order = _places(path, names, classes)
        labels = None if labels is None else order[labels]
        targets = None if targets is None else targets[:, np.argsort(order)]
        names = tuple(classes)
    elif "classes" in arrays and classes and not set(names) <= set(classes):
        notes = (*notes, "the labels keep their numbers: the network's classes have no names to match the file's with")
    everything = Dataset(images, labels, targets, are_rounded=are_rounded([arrays["images"]]))
    if labels is not None and is_in_class_order(labels):
        notes = (*notes, _IN_CLASS_ORDER)
    if "calibration" not in arrays:
        return _unsplit(path, names, everything, notes=(*notes, *filter(None, [everything.rounding_note])))
    pixels = _npz_images(path, "calibration", arrays["calibration"], input_shape)
    if pixels.shape[1:] != images.shape[1:]:
        raise DataError(
            f"found calibration images of {pixels.shape[1:]} and images of {images.shape[1:]} (C, H, W)",
            where=path,
            expected="must have the same shape",
        )
    calibration = Dataset(pixels, None, are_rounded=are_rounded([arrays["calibration"]]))
    # The notes on both differ at most in a number.
    rounding = everything.rounding_note or calibration.rounding_note
    return _unsplit(path, names, everything, calibration, (*notes, *filter(None, [rounding])))


def _deeper(folders: Sequence[Path]) -> str:
    """A hint if one of ``folders``, such as train or test, holds class folders itself."""
    for folder in folders:
        if any(_is_image(file) for inside in _listed(folder) if inside.is_dir() for file in _listed(inside)):
            return f"Name {folder}, which contains class folders."
    return ""


def require_class_folders(data: str | Path, class_map: ClassMap | None) -> None:
    """Raise a `UsageError` if ``class_map`` is given for ``data``, which has no class folders."""
    if class_map is not None:
        raise UsageError(f"{data} has no class folders", where="class_map", hint="Omit it.")


def _npz_images(
    path: Path, key: str, images: NDArray[np.generic], input_shape: tuple[int, int, int] | None
) -> NDArray[np.uint8]:
    """The array ``key`` as images."""
    # Here three grey images cannot be mistaken for one with three channels: a file always has N images.
    stacked = images[:, np.newaxis] if images.ndim == 3 and input_shape is None else images
    return as_images(stacked, input_shape, where=f"{path}: {key}")


def _unsplit(
    path: Path,
    classes: tuple[str, ...],
    images: Dataset,
    calibration: Dataset | None = None,
    notes: tuple[str, ...] = (),
) -> DataSplits:
    calibration = images if calibration is None else calibration
    # A file name need not be UTF-8, but the text in a checkpoint must be.
    name = path.resolve().name.encode(errors="backslashreplace").decode()
    if name in DATASETS:
        # Otherwise a later `run` or `report` would mistake it for the benchmark set.
        name = f"./{name}"
    return DataSplits(name, classes, calibration, images[:0], calibration=calibration, test=images, notes=notes)


def _dataset(
    folder: Path,
    paths: Sequence[Path],
    labels: NDArray[np.int64] | None,
    input_shape: tuple[int, int, int] | None,
    at_once: bool,
) -> Dataset:
    """The images in the files: their pixels or, if they are many and not wanted ``at_once``, `StoredImages`."""
    if at_once or input_shape is None or not is_large(len(paths), input_shape):
        images = stacked(paths, input_shape)
    else:
        # Used like an array.
        images = cast("NDArray[np.uint8]", StoredImages(tuple(path.absolute() for path in paths), input_shape))
    return Dataset(images, labels, paths=tuple(path.relative_to(folder).as_posix() for path in paths))


def _listed(folder: Path) -> list[Path]:
    try:
        with os.scandir(folder) as entries:
            found = list(entries)
    except OSError as error:
        raise cannot_read(folder, error) from error
    for link in (folder / entry.name for entry in found if entry.is_symlink() and not entry.name.startswith(".")):
        # Left out, it would change the numbers of the class folders after it.
        if not asked(link, Path.exists, DataError):
            hint = "Remove it, or restore what it links to."
            raise DataError("is a symbolic link to nothing", where=link, hint=hint)
    return [folder / entry.name for entry in found]


def _is_image(path: Path) -> bool:
    return (
        path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and asked(path, Path.is_file, DataError)
    )


def _read_npz(path: Path) -> Mapping[str, NDArray[np.generic]]:
    """The arrays by name."""
    try:
        with path.open("rb") as stream:
            stated = _stated_count(stream)
            # NumPy does not close a file that it fails to read.
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, NpzFile):
                with file:
                    if len(file.files) != stated:
                        raise ValueError(f"its directory claims {stated} arrays but lists {len(file.files)}")
                    for name in set(NPZ_KEYS).intersection(file.files):
                        _require_loadable(file.zip, name)
                    return dict(file)
    except PermissionError as error:
        raise cannot_read(path, error) from error
    except NPZ_ERRORS as error:
        if is_lack_of_memory(error):
            raise
        reason = first_line(error)
        if reason.startswith("This file contains pickled"):
            # NumPy's guess about any file that does not begin like a zip archive or an array.
            reason = "not a zip archive"
        if reason.startswith("Object arrays"):
            raise DataError(
                "contains Python objects, such as images of several sizes, or strings of dtype object",
                where=path,
                expected="must contain arrays of numbers",
                hint="Give all images the same size, and save numpy.stack(images); save numpy.array(classes, str).",
            ) from error
        raise DataError(
            f"damaged, or not an .npz file ({reason})", where=path, hint="Write it again with numpy.savez."
        ) from error
    raise DataError("contains an unnamed array", where=path, expected=_NPZ_FORM, hint=NPZ_HINT)


def _require_loadable(archive: zipfile.ZipFile, key: str) -> None:
    """Raise a `ValueError` unless NumPy can have written the array ``key``; before memory is taken for it."""
    entry = archive.getinfo(f"{key}.npy")
    if entry.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise ValueError(f"{key} is compressed, but not by NumPy")
    with archive.open(entry) as member:
        shape, _, dtype = _HEADERS[_read_magic(member)](member)
        claimed = member.tell() + math.prod(shape) * dtype.itemsize
    if claimed != entry.file_size and not dtype.hasobject:
        raise ValueError(f"{key} claims {claimed:,} bytes, but has {entry.file_size:,}")


def _stated_count(stream: BinaryIO) -> int:
    """Return the file count in a zip's end record; a damaged directory may list fewer, which zipfile ignores."""
    length = stream.seek(0, io.SEEK_END)
    # The file ends with a record of 22 bytes and a comment of at most 65,535 bytes.
    stream.seek(max(0, length - 22 - 0xFFFF))
    tail = stream.read()
    stream.seek(0)
    start = tail.rfind(b"PK\x05\x06")
    return int.from_bytes(tail[start + 10 : start + 12], "little") if start >= 0 else 0


def _keep_their_numbers(names: Sequence[str], classes: Sequence[str]) -> bool:
    """Whether the network's ``classes`` are only numbered and the file's ``names`` do not tell which number is which.

    Numbers in the order of text, in which 10 comes before 2, are numbered as by torchvision's `ImageFolder`.
    """
    are_numbers = list(classes) == [str(number) for number in range(len(classes))]
    return are_numbers and (not set(names) <= set(classes) or list(names) == sorted(classes))


def _places(path: Path, names: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """The place of each of ``names`` among the network's ``classes``, int64 ``(K,)``."""
    if (stranger := next((name for name in names if name not in classes), None)) is not None:
        raise DataError(
            f"found {stranger}",
            where=f"{path}: classes",
            expected=f"must be among those of the network: {', '.join(classes)}",
            hint="Rename them, or leave the array out if the labels are the numbers of the network's outputs.",
        )
    return np.array([tuple(classes).index(name) for name in names], np.int64)


def _class_names(path: Path, classes: NDArray[np.generic]) -> tuple[str, ...]:
    names = classes.tolist() if classes.dtype.kind == "U" and classes.ndim == 1 else []
    if not all(names) or not names or len(set(names)) < len(names):
        raise DataError(
            f"found {dtype_and_shape(classes)}",
            where=f"{path}: classes",
            expected="must be one string per class, all different and none empty",
        )
    return tuple(names)
