"""A user's own images: a folder of PNG and JPEG files, or an ``.npz`` file.

Nothing is resized and no colour is lost: images that do not fit are refused, with the path of the first one.
"""

from __future__ import annotations

import io
import warnings
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import BinaryIO, Final

import numpy as np
from numpy.lib.npyio import NpzFile
from numpy.typing import NDArray

from loihi_convert.data.benchmarks import DATASETS
from loihi_convert.data.dataset import Dataset, DataSplits, described
from loihi_convert.errors import DataError

IMAGE_SUFFIXES: Final[tuple[str, ...]] = (".png", ".jpg", ".jpeg")
NPZ_KEYS: Final[tuple[str, ...]] = ("images", "labels", "classes", "calibration")

_GREY_MODES: Final = ("L", "1")
_COLOUR_MODES: Final = ("RGB", "P")
_MAX_CHANNELS: Final = 4
NPZ_ERRORS: Final = (
    OSError,
    EOFError,
    ValueError,
    KeyError,
    MemoryError,
    RuntimeError,
    zipfile.BadZipFile,
    zlib.error,
)
"""What NumPy raises where a file is no ``.npz`` file, or a damaged one."""

_NPZ_FORM: Final = f"allowed are {', '.join(NPZ_KEYS)}, of which images must be there"


def load_image_folder(folder: Path, classes: Sequence[str] = ()) -> DataSplits:
    """Return the PNG and JPEG images of a folder, in the order of their names, all of one size.

    ::

        folder/cat/1.png       labelled: the folder's name is the class
        folder/dog/2.jpg
        folder/1.png           or without labels

    Other files, and what begins with a dot, are passed over. A grey image has one channel; if one image of the folder
    has colours, all get three.

    Parameters
    ----------
    folder
        As above.
    classes
        The network's classes in the order of its outputs. The class folders are found among them by name, and may be
        fewer. Where the network's classes are mere numbers, or not known, the sorted folders are numbered from 0, as
        torchvision's ``ImageFolder`` does.

    Raises
    ------
    DataError
        If there is no image, one cannot be read, sizes differ, or a folder is no class of the network.
    """
    entries = sorted(entry for entry in _listed(folder) if not entry.name.startswith("."))
    flat = [entry for entry in entries if _is_image(entry)]
    per_class = {entry.name: sorted(filter(_is_image, _listed(entry))) for entry in entries if entry.is_dir()}
    if flat and any(per_class.values()):
        raise DataError(
            f"{folder}: holds images both beside and inside its folders; put every image into the folder of its class, "
            "or all of them into one folder without labels."
        )
    if not flat and not any(per_class.values()):
        raise DataError(
            f"{folder}: holds no image; allowed are {', '.join(IMAGE_SUFFIXES)}, in it or in class folders."
        )
    if flat:
        return _unsplit(folder, tuple(classes), Dataset(_stacked(flat), None))
    empty = [name for name, files in per_class.items() if not files]
    if empty:
        raise DataError(f"{folder / empty[0]}: holds no image; remove the folder, or put images of its class into it.")
    known = _class_order(folder, list(per_class), tuple(classes))
    counts = [len(files) for files in per_class.values()]
    labels = np.repeat(np.array([known.index(name) for name in per_class], np.int64), counts)
    return _unsplit(folder, known, Dataset(_stacked([file for files in per_class.values() for file in files]), labels))


def load_npz(path: Path, classes: Sequence[str] = ()) -> DataSplits:
    """Return the images in an ``.npz`` file (`numpy.savez`).

    ===============  ===============================================================================================
    ``images``       uint8 ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, H, W, C)``: the last one if the last axis has at
                     most 4 elements and the second one has more
    ``labels``       optional; integers ``(N,)`` from 0, the network's output for each image
    ``classes``      optional; strings ``(K,)``, the name of each class
    ``calibration``  optional; as ``images``: what `export` balances thresholds on instead of ``images``
    ===============  ===============================================================================================

    Parameters
    ----------
    path
        The file; nothing in it can run.
    classes
        The names of the network's classes, used where the file holds none.

    Raises
    ------
    DataError
        If the file is damaged, holds another array, or one of them has another dtype, shape or range.
    """
    arrays = _read_npz(path)
    unknown = sorted(arrays.keys() - set(NPZ_KEYS))
    if unknown or "images" not in arrays:
        raise DataError(f"{path}: holds the arrays {', '.join(sorted(arrays)) or '(none)'}; {_NPZ_FORM}.")
    images = _channels_first(path, "images", arrays["images"])
    names = _class_names(path, arrays["classes"]) if "classes" in arrays else tuple(classes)
    labels = None
    if "labels" in arrays:
        labels = _checked_labels(path, arrays["labels"], len(images), len(names))
    everything = Dataset(images, labels)
    if "calibration" not in arrays:
        return _unsplit(path, names, everything)
    calibration = _channels_first(path, "calibration", arrays["calibration"])
    if calibration.shape[1:] != images.shape[1:]:
        raise DataError(
            f"{path}: its calibration images are {calibration.shape[1:]}, its images {images.shape[1:]} (C, H, W); "
            "they must be alike."
        )
    return _unsplit(path, names, everything, Dataset(calibration, None))


def _unsplit(path: Path, classes: tuple[str, ...], images: Dataset, calibration: Dataset | None = None) -> DataSplits:
    calibration = images if calibration is None else calibration
    name = path.resolve().name
    if name in DATASETS:
        # The name of a benchmark set would be taken for that set, by a later `run` and by `report`.
        name = f"./{name}"
    return DataSplits(name, classes, calibration, validation=images[:0], calibration=calibration, test=images)


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(f"{folder}: cannot be read ({error.strerror or error}). Make it readable.") from error


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _class_order(folder: Path, found: Sequence[str], classes: tuple[str, ...]) -> tuple[str, ...]:
    """The class of each output, as the folders are called."""
    if set(found) <= set(classes):
        return classes
    are_numbers = classes == tuple(map(str, range(len(classes))))
    if not classes or (are_numbers and len(found) == len(classes)):
        return tuple(found)
    stranger = next(name for name in found if name not in classes)
    raise DataError(
        f"{folder}: its folder {stranger} is no class of the network, whose classes are {', '.join(classes)}. "
        "Name the folders after the classes."
    )


def _stacked(paths: Sequence[Path]) -> NDArray[np.uint8]:
    """The images as uint8 ``(N, C, H, W)``."""
    pixels = [_read_image(path) for path in paths]
    for path, image in zip(paths, pixels, strict=True):
        if image.shape[:2] != pixels[0].shape[:2]:
            raise DataError(
                f"{path}: is {image.shape[1]} x {image.shape[0]} pixels, {paths[0].name} is {pixels[0].shape[1]} x "
                f"{pixels[0].shape[0]}; all images must have the size that the network takes. Resize them."
            )
    channels = max(image.shape[2] for image in pixels)
    return np.stack([np.broadcast_to(image, (*image.shape[:2], channels)) for image in pixels]).transpose(0, 3, 1, 2)


def _read_image(path: Path) -> NDArray[np.uint8]:
    """The pixels as uint8 ``(H, W, C)``, C = 1 or 3."""
    from PIL import Image

    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # The content decides, not the suffix, but among two formats: fewer decoders are open to a hostile file.
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                mode, transparent = image.mode, "transparency" in image.info
                pixels = np.asarray(image.convert("L" if mode in _GREY_MODES else "RGB"))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(f"{path}: cannot be read as a PNG or JPEG image ({error}). Replace or remove it.") from error
    if mode not in (*_GREY_MODES, *_COLOUR_MODES) or transparent:
        found = f"{mode} with transparency" if transparent else mode
        raise DataError(
            f"{path}: has pixels of mode {found}; allowed are 8-bit grey (L), RGB, palettes (P) and black and white "
            "(1), without transparency. Convert it."
        )
    return pixels.reshape(*pixels.shape[:2], -1)


def _read_npz(path: Path) -> Mapping[str, NDArray[np.generic]]:
    try:
        with path.open("rb") as stream:
            stated = _stated_count(stream)
            # NumPy leaves files open that it fails to read; this one is ours to close.
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, NpzFile):
                with file:
                    if len(file.files) != stated:
                        raise ValueError(f"its directory states {stated} arrays and lists {len(file.files)}")
                    return {name: file[name] for name in file.files}
    except NPZ_ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(f"{path}: damaged, or no .npz file ({reason}). Write it again with numpy.savez.") from error
    raise DataError(f"{path}: holds one bare array; {_NPZ_FORM}. Write it with numpy.savez(path, images=images).")


def _stated_count(stream: BinaryIO) -> int:
    """Return how many files a zip's end record states; a damaged directory can list fewer, and zipfile looks away."""
    length = stream.seek(0, io.SEEK_END)
    # The record of 22 bytes and a comment of at most 65,535 are the last of the file.
    stream.seek(max(0, length - 22 - 0xFFFF))
    tail = stream.read()
    stream.seek(0)
    start = tail.rfind(b"PK\x05\x06")
    return int.from_bytes(tail[start + 10 : start + 12], "little") if start >= 0 else 0


def _channels_first(path: Path, key: str, images: NDArray[np.generic]) -> NDArray[np.uint8]:
    if images.dtype != np.uint8 or images.ndim not in (3, 4) or 0 in images.shape:
        raise DataError(
            f"{path}: {key} is {described(images)}; it must be uint8 (N, H, W), (N, C, H, W) or (N, H, W, C), with at "
            "least one image. Pixels are 0..255; scale floating-point pixels and convert them."
        )
    pixels = images.view(np.uint8)
    if images.ndim == 3:
        return pixels[:, np.newaxis]
    channels_last = images.shape[3] <= _MAX_CHANNELS < images.shape[1]
    return np.ascontiguousarray(pixels.transpose(0, 3, 1, 2)) if channels_last else pixels


def _class_names(path: Path, classes: NDArray[np.generic]) -> tuple[str, ...]:
    if classes.dtype.kind != "U" or classes.ndim != 1 or not classes.size or len(set(classes.tolist())) < classes.size:
        raise DataError(
            f"{path}: classes is {described(classes)}; it must be one string for each class, no two of them alike."
        )
    return tuple(classes.tolist())


def _checked_labels(path: Path, labels: NDArray[np.generic], count: int, class_count: int) -> NDArray[np.int64]:
    """``labels`` as int64; ``class_count`` is 0 where the number of classes is not known."""
    if labels.dtype.kind not in "iu" or labels.shape != (count,):
        raise DataError(
            f"{path}: labels is {described(labels)}; it must be integers ({count},), one for each image. Leave it out "
            "if the labels are not known."
        )
    low, high = int(labels.min()), int(labels.max())
    if low < 0 or (class_count and high >= class_count):
        allowed = f"0..{class_count - 1}" if class_count else "from 0"
        raise DataError(f"{path}: labels are {low}..{high}; allowed are whole numbers {allowed}, one for each class.")
    return labels.astype(np.int64)
