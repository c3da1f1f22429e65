"""A user's own images: a folder of PNG and JPEG files, or an ``.npz`` file.

Images are not resized, and no colour is discarded: images that do not fit are refused, with the path of the first one.
Photos are rotated according to their EXIF data.
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final, cast

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from loihi_convert.data.benchmarks import DATASETS
from loihi_convert.data.dataset import Dataset, DataSplits, dtype_and_shape, in_turns, is_in_class_order
from loihi_convert.data.image_files import StoredImages, is_large, stacked
from loihi_convert.data.in_memory import are_rounded, as_images, as_labels, as_targets
from loihi_convert.errors import DataError, UsageError, first_few, first_line, is_lack_of_memory
from loihi_convert.ground.choices import ClassMap
from loihi_convert.ground.files import asked, cannot_read, require_fits

# Written into archives by macOS.
_OF_MACOS: Final = "__MACOSX"

IMAGE_SUFFIXES: Final[tuple[str, ...]] = (".png", ".jpg", ".jpeg")
# Those that torchvision's ImageFolder reads as well.
_OTHER_SUFFIXES: Final = (".bmp", ".pgm", ".ppm", ".tif", ".tiff", ".webp")
NPZ_KEYS: Final[tuple[str, ...]] = ("images", "labels", "targets", "classes", "calibration")

NPZ_ERRORS: Final = (
    *(OSError, EOFError, ValueError, KeyError, RuntimeError, SyntaxError),
    *(zipfile.BadZipFile, zlib.error, tokenize.TokenError),
)
"""Exceptions of NumPy for a file that is damaged or not an ``.npz`` file."""

_NPZ_FORM: Final = f"must contain images, and may contain {', '.join(NPZ_KEYS[1:])}"
NPZ_HINT: Final = "Write it with numpy.savez('new.npz', images=images, labels=labels)."
# Names in a note or an error.
_MOST: Final = 12
_DIGITS: Final = 9


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
    Other files, and names that begin with a dot, are ignored; a note counts images of other formats. A grey image has
    one channel; if any image in the folder has colours, all get three channels.

    The arguments are those of `data.load_data`. Not ``at_once``, images of a known ``input_shape`` and more than
    `image_files.LARGE_BYTES` are read when they are used.
    """
    entries = _listed(folder)
    inside = {each.name: _listed(each) for each in entries if asked(each, Path.is_dir, DataError)}
    flat = _images(entries)
    per_class = {name: _images(files) for name, files in inside.items() if name != _OF_MACOS}
    others = sum(file.suffix.lower() in _OTHER_SUFFIXES for files in (entries, *inside.values()) for file in files)
    notes = (f"{others:,} images of other formats than PNG and JPEG are left out",) if others else ()
    if bool(flat) == any(per_class.values()):
        raise DataError(
            "contains images both next to and inside its folders" if flat else "contains no images",
            where=folder,
            expected=f"must contain {', '.join(IMAGE_SUFFIXES)} files, either directly or in class folders",
        )
    if flat:
        require_class_folders(folder, class_map)
        return _unsplit(folder, tuple(classes), _dataset(folder, flat, None, input_shape, at_once), notes=notes)
    if empty := next((name for name, files in per_class.items() if not files), ""):
        raise DataError("contains no images", where=folder / empty, hint="Remove the folder, or put images into it.")
    found, titles, note = classes_of_folders(folder, list(per_class), classes, class_map)
    labels = np.repeat(np.array(found, np.int64), [len(files) for files in per_class.values()])
    order, paths = in_turns(labels), [file for files in per_class.values() for file in files]
    images = _dataset(folder, [paths[one] for one in order], labels[order], input_shape, at_once)
    return _unsplit(folder, titles, images, notes=(note, *notes))


def classes_of_folders(
    folder: Path, names: Sequence[str], classes: Sequence[str], class_map: ClassMap | None = None
) -> tuple[tuple[int, ...], tuple[str, ...], str]:
    """Return the network output for each class folder, the name of each output, if known, and a note on the mapping.

    ==========================================  ======================================================================
    network's classes                           output of a folder
    ==========================================  ======================================================================
    named, and folders have the same names      the output with that name; folders may be missing
    unknown                                     the position among the sorted folders, as in ``ImageFolder``; with
                                                ``"names"`` the number that is the folder's name
    numbers 0, 1, ..., and so are the folders   the number; with more than ten classes it must be given whether the CNN
                                                was trained with ``ImageFolder``, where 10 comes before 2
    all other cases                             must be given in ``class_map``
    ==========================================  ======================================================================

    ``names`` are the sorted names of the class folders in ``folder``; ``class_map`` overrides the table.
    """
    known = tuple(classes)
    are_numbers = known == tuple(map(str, range(len(known))))
    if isinstance(class_map, Mapping):
        if strangers := [name for name in class_map if name not in names]:
            expected = f"must name folders of {folder}: {first_few(names, _MOST)}"
            raise UsageError(f"found {strangers[0]!r}", where="class_map", expected=expected)
        if missing := [name for name in names if name not in class_map]:
            raise UsageError(f"lacks {missing[0]}", where="class_map", expected="must name every class folder")
        wanted, titles, how = [str(class_map[name]) for name in names], known, "as given"
    elif class_map is None and are_numbers and len(known) > 10 and set(names) <= set(known):
        raise UsageError(
            f"found folders named by numbers in {folder}, and {len(known)} numbered classes",
            where="class_map",
            expected="must be 'names' (folder 10 is class 10), or 'sorted' (10 comes before 2, as in torchvision's "
            "ImageFolder)",
        )
    elif class_map == "names" or (class_map is None and known):
        wanted, titles, how = list(names), known, "by name"
        if strangers := [name for name in names if known and name not in known]:
            raise DataError(
                f"the folder {strangers[0]} is not a class of the network",
                where=folder,
                expected=f"must be one of {first_few(known, _MOST)}",
                hint="Give the class of each folder in `class_map`; `class_map='sorted'` numbers the sorted folders "
                "from 0, as torchvision's ImageFolder does.",
            )
    else:
        if known and len(names) != len(known):
            raise UsageError(
                f"found {len(names)} class folders for {len(known)} classes",
                where="class_map",
                expected="must give the class of each folder, unless every class has a folder",
            )
        wanted, how = [*map(str, range(len(names)))], "in sorted order, as in ImageFolder"
        titles = known if known and not are_numbers else tuple(names)
    by_position = how.startswith("in sorted")
    labels = tuple(int(each) if by_position else _output(each, known) for each in wanted)
    pairs = [
        f"{name} -> {label}" + (f" ({titles[label]})" if titles and titles[label] not in (name, str(label)) else "")
        for name, label in zip(names, labels, strict=True)
    ]
    return labels, titles, f"class folders are assigned to outputs of the network, {how}: {first_few(pairs, _MOST)}"


def _output(wanted: str, classes: tuple[str, ...]) -> int:
    """The output of the class ``wanted``, a name or a number."""
    if wanted in classes:
        return classes.index(wanted)
    is_number = wanted.isascii() and wanted.isdecimal() and len(wanted) <= _DIGITS and wanted == str(int(wanted))
    if not is_number or (classes and int(wanted) >= len(classes)):
        expected = (
            f"must be one of {first_few(classes, _MOST)}, or a number"
            if classes
            else "must be a number of up to 9 digits"
        )
        raise UsageError(f"found the class {wanted}", where="class_map", expected=expected)
    return int(wanted)


def load_npz(path: Path, classes: Sequence[str] = (), *, input_shape: tuple[int, int, int] | None = None) -> DataSplits:
    """Return the images in an ``.npz`` file (`numpy.savez`); nothing in it is executed.

    ===============  ===============================================================================================
    ``images``       ``(N, H, W)`` or ``(N, C, H, W)``, uint8 or floats in 0..1, see `as_images`;
                     signals ``(N, C, L)``, or ``(N, L)`` for one channel, if the network's input is ``(C, 1, L)``
    ``labels``       optional; integers ``(N,)`` or ``(N, 1)`` from 0, the class index of each image, see `as_labels`
    ``targets``      optional, instead of labels; numbers ``(N,)`` or ``(N, K)``, the targets of a regression
    ``classes``      optional; strings ``(K,)``, the name of each class, or of each output of a regression; labels are
                     numbered anew if the network's classes have another order
    ``calibration``  optional; like ``images``: used instead of ``images`` to balance thresholds
    ===============  ===============================================================================================

    ``classes`` are the names of the network's classes, used if the file has none, and ``input_shape`` is ``(C, H, W)``
    of the network, if known.
    """
    arrays = _read_npz(path)
    if not {"images"} <= arrays.keys() <= set(NPZ_KEYS) or {"labels", "targets"} <= arrays.keys():
        found = f"contains {', '.join(sorted(arrays)) or 'no arrays'}"
        raise DataError(found, where=path, expected=f"{_NPZ_FORM} (labels or targets)", hint=NPZ_HINT)
    images = as_images(arrays["images"], input_shape, where=f"{path}: images")
    names = _class_names(path, arrays["classes"]) if "classes" in arrays else tuple(classes)
    labels = targets = None
    if "labels" in arrays:
        labels = as_labels(arrays["labels"], len(images), len(names), where=f"{path}: labels")
    if "targets" in arrays:
        own_names = len(names) if "classes" in arrays else 0
        targets = as_targets(arrays["targets"], len(images), own_names, where=f"{path}: targets")
    are_numbers = list(classes) == [str(number) for number in range(len(classes))]
    # Only numbered classes do not tell which one a name is.
    if "classes" in arrays and classes and not (are_numbers and not set(names) <= set(classes)):
        order = _places(path, names, classes)
        labels = None if labels is None else order[labels]
        targets = None if targets is None else targets[:, np.argsort(order)]
        names = tuple(classes)
    everything = Dataset(images, labels, targets, are_rounded=are_rounded([arrays["images"]]))
    calibration = everything
    if "calibration" in arrays:
        # Of the same shape as the images.
        shape = input_shape or cast("tuple[int, int, int]", images.shape[1:])
        pixels = as_images(arrays["calibration"], shape, where=f"{path}: calibration")
        calibration = Dataset(pixels, None, are_rounded=are_rounded([arrays["calibration"]]))
    notes = {
        "the labels keep their numbers: the network's classes have no names to match the file's with": bool(
            "classes" in arrays and classes and names != tuple(classes)
        ),
        "the images are in the order of their classes, so the first N of them show only some classes: shuffle them "
        "before numpy.savez": labels is not None and is_in_class_order(labels),
        # The notes on both differ at most in a number.
        everything.rounding_note or calibration.rounding_note: True,
    }
    shown = tuple(note for note, is_true in notes.items() if note and is_true)
    return _unsplit(path, names, everything, calibration, shown)


def require_class_folders(data: str | Path, class_map: ClassMap | None) -> None:
    """Raise a `UsageError` if ``class_map`` is given for ``data``, which has no class folders."""
    if class_map is not None:
        raise UsageError(f"{data} has no class folders", where="class_map", hint="Omit it.")


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
    # Otherwise a later `run` or `report` would mistake it for the benchmark set.
    name = f"./{name}" if name in DATASETS else name
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
        return sorted(entry for entry in folder.iterdir() if not entry.name.startswith("."))
    except OSError as error:
        raise cannot_read(folder, error) from error


def _images(entries: Iterable[Path]) -> list[Path]:
    return [each for each in entries if each.suffix.lower() in IMAGE_SUFFIXES and asked(each, Path.is_file, DataError)]


def _read_npz(path: Path) -> Mapping[str, NDArray[np.generic]]:
    """The arrays by name."""
    try:
        with path.open("rb") as stream:
            # NumPy does not close a file that it fails to read.
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, NpzFile):
                with file:
                    # No member is read beyond the size in its header.
                    size = sum(each.file_size for each in file.zip.infolist())
                    require_fits(size, path.stat().st_size, path, DataError)
                    return dict(file)
    except PermissionError as error:
        raise cannot_read(path, error) from error
    except NPZ_ERRORS as error:
        if is_lack_of_memory(error):
            raise
        found = f"damaged, or not an .npz file of numbers ({first_line(error)})"
        raise DataError(found, where=path, hint=NPZ_HINT) from error
    raise DataError("contains an unnamed array", where=path, expected=_NPZ_FORM, hint=NPZ_HINT)


def _places(path: Path, names: Sequence[str], classes: Sequence[str]) -> NDArray[np.int64]:
    """The place of each of ``names`` among the network's ``classes``, int64 ``(K,)``."""
    if (stranger := next((name for name in names if name not in classes), None)) is not None:
        raise DataError(
            f"found {stranger}",
            where=f"{path}: classes",
            expected=f"must be among those of the network: {', '.join(classes)}",
            hint="Leave the array out if the labels are the numbers of the network's outputs.",
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
