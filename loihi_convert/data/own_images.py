"""A user's own images: a folder of PNG and JPEG files, or an ``.npz`` file.

Images are not resized, and no colour is discarded: images that do not fit are refused, with the path of the first one.
Photos are rotated according to their EXIF data.
"""

from __future__ import annotations

import io
import struct
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
from loihi_convert.data.class_folders import ClassMap, classes_of_folders
from loihi_convert.data.dataset import Dataset, DataSplits, described
from loihi_convert.data.in_memory import as_images, as_labels, as_targets
from loihi_convert.errors import DataError, UsageError, one_of

IMAGE_SUFFIXES: Final[tuple[str, ...]] = (".png", ".jpg", ".jpeg")
NPZ_KEYS: Final[tuple[str, ...]] = ("images", "labels", "targets", "classes", "calibration")

_GREY_MODES: Final = ("L", "1")
_COLOUR_MODES: Final = ("RGB", "P")
_PILLOW_ERRORS: Final = (OSError, ValueError, TypeError, SyntaxError, struct.error)
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
"""Exceptions of NumPy for a file that is damaged or not an ``.npz`` file."""

_NPZ_FORM: Final = f"must contain images, and may contain {', '.join(NPZ_KEYS[1:])}"


def load_image_folder(
    folder: Path,
    classes: Sequence[str] = (),
    *,
    class_map: ClassMap | None = None,
    input_shape: tuple[int, int, int] | None = None,
) -> DataSplits:
    """Return the PNG and JPEG images in a folder, in the order of their names; all must have the same size.

    ::

        folder/cat/1.png       labelled: the folder's name is the class
        folder/dog/2.jpg
        folder/1.png           unlabelled

    Other files, and names that begin with a dot, are ignored. A grey image has one channel; if any image in the folder
    has colours, all get three channels.

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

    Raises
    ------
    DataError
        If there are no images, an image cannot be read or does not fit, or a folder is not a class of the network.
    UsageError
        If ``class_map`` does not fit the folders.
    """
    entries = sorted(entry for entry in _listed(folder) if not entry.name.startswith("."))
    flat = [entry for entry in entries if _is_image(entry)]
    per_class = {entry.name: sorted(filter(_is_image, _listed(entry))) for entry in entries if entry.is_dir()}
    if flat and any(per_class.values()):
        raise DataError(
            "contains images both next to and inside its folders",
            where=folder,
            hint="Put every image into the folder of its class, or all into one folder without labels.",
        )
    if not flat and not any(per_class.values()):
        raise DataError(
            "contains no images",
            where=folder,
            expected=f"must contain {', '.join(IMAGE_SUFFIXES)} files, directly or in class folders",
        )
    if flat:
        require_class_folders(folder, class_map)
        return _unsplit(folder, tuple(classes), Dataset(_stacked(flat, input_shape), None))
    empty = [name for name, files in per_class.items() if not files]
    if empty:
        raise DataError(
            "contains no images", where=folder / empty[0], hint="Remove the folder, or put images of its class into it."
        )
    found = classes_of_folders(folder, list(per_class), classes, class_map)
    labels = np.repeat(np.array(found.labels, np.int64), [len(files) for files in per_class.values()])
    images = _stacked([file for files in per_class.values() for file in files], input_shape)
    return _unsplit(folder, found.classes, Dataset(images, labels), notes=(found.note,))


def load_npz(path: Path, classes: Sequence[str] = (), *, input_shape: tuple[int, int, int] | None = None) -> DataSplits:
    """Return the images in an ``.npz`` file (`numpy.savez`).

    ===============  ===============================================================================================
    ``images``       ``(N, H, W)``, ``(N, C, H, W)`` or ``(N, H, W, C)``, uint8 or floats in 0..1, see `as_images`;
                     signals ``(N, C, L)``, or ``(N, L)`` for one channel, if the network's input is ``(C, 1, L)``
    ``labels``       optional; integers ``(N,)`` from 0, the class index of each image
    ``targets``      optional, instead of labels; numbers ``(N,)`` or ``(N, K)``, the targets of a regression
    ``classes``      optional; strings ``(K,)``, the name of each class, or of each output of a regression
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

    Raises
    ------
    DataError
        If the file is damaged or has unexpected arrays, or an array has the wrong dtype, shape or range.
    """
    arrays = _read_npz(path)
    unknown = sorted(arrays.keys() - set(NPZ_KEYS))
    if unknown or "images" not in arrays:
        raise DataError(f"contains {', '.join(sorted(arrays)) or 'no arrays'}", where=path, expected=_NPZ_FORM)
    images = _npz_images(path, "images", arrays["images"], input_shape)
    names = _class_names(path, arrays["classes"]) if "classes" in arrays else tuple(classes)
    if "labels" in arrays and "targets" in arrays:
        raise DataError("contains labels and targets", where=path, expected="must contain only one of them")
    labels = targets = None
    if "labels" in arrays:
        labels = as_labels(arrays["labels"], len(images), len(names), where=f"{path}: labels")
    if "targets" in arrays:
        own_names = len(names) if "classes" in arrays else 0
        targets = as_targets(arrays["targets"], len(images), own_names, where=f"{path}: targets")
    everything = Dataset(images, labels, targets)
    if "calibration" not in arrays:
        return _unsplit(path, names, everything)
    calibration = _npz_images(path, "calibration", arrays["calibration"], input_shape)
    if calibration.shape[1:] != images.shape[1:]:
        raise DataError(
            f"found calibration images of {calibration.shape[1:]} and images of {images.shape[1:]} (C, H, W)",
            where=path,
            expected="must have the same shape",
        )
    return _unsplit(path, names, everything, Dataset(calibration, None))


def require_class_folders(data: str | Path, class_map: ClassMap | None) -> None:
    """Raise a `UsageError` if ``class_map`` is given for ``data``, which has no class folders."""
    if class_map is not None:
        raise UsageError(f"{data} has no class folders", where="class_map", hint="Omit it.")


def _npz_images(
    path: Path, key: str, images: NDArray[np.generic], input_shape: tuple[int, int, int] | None
) -> NDArray[np.uint8]:
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
    name = path.resolve().name
    if name in DATASETS:
        # Otherwise a later `run` or `report` would mistake it for the benchmark set.
        name = f"./{name}"
    return DataSplits(name, classes, calibration, images[:0], calibration=calibration, test=images, notes=notes)


def _listed(folder: Path) -> list[Path]:
    try:
        return list(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"cannot be read ({error.strerror or error})", where=folder, hint="Make it readable."
        ) from error


def _is_image(path: Path) -> bool:
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".") and path.is_file()


def _stacked(paths: Sequence[Path], input_shape: tuple[int, int, int] | None) -> NDArray[np.uint8]:
    """The images as uint8 ``(N, C, H, W)``."""
    pixels = [_read_image(path) for path in paths]
    channels = max(image.shape[2] for image in pixels) if input_shape is None else input_shape[0]
    size = pixels[0].shape[:2] if input_shape is None else input_shape[1:]
    fits = []
    for path, image in zip(paths, pixels, strict=True):
        if image.shape[:2] != size:
            raise DataError(
                f"is {image.shape[1]} x {image.shape[0]} pixels",
                where=path,
                expected=f"must be {size[1]} x {size[0]}, as "
                + (f"{paths[0].name} is" if input_shape is None else "the network expects"),
                hint="Resize the images.",
            )
        fits.append(_with_channels(path, image, channels))
    return np.stack(fits).transpose(0, 3, 1, 2)


def _with_channels(path: Path, image: NDArray[np.uint8], channels: int) -> NDArray[np.uint8]:
    """``(H, W, channels)``; a grey image may have one channel or three equal ones."""
    if image.shape[2] == channels:
        return image
    if image.shape[2] == 1 and channels == 3:
        return np.broadcast_to(image, (*image.shape[:2], channels))
    grey = image[..., :1]
    if channels == 1 and (image == grey).all():
        return grey
    takes = "grey images with 1 channel" if channels == 1 else f"{channels} channels"
    raise DataError(
        "has colours" if image.shape[2] == 3 else "is a grey image",
        where=path,
        expected=f"the network expects {takes}",
        hint="Convert the images like the CNN's training images; to grey with PIL's image.convert('L').",
    )


def _read_image(path: Path) -> NDArray[np.uint8]:
    """The pixels as uint8 ``(H, W, C)``, C = 1 or 3."""
    from PIL import Image, ImageOps

    try:
        with warnings.catch_warnings():
            # Pillow warns about EXIF data that many cameras write.
            warnings.simplefilter("ignore", UserWarning)
            warnings.simplefilter("error", Image.DecompressionBombWarning)
            # The content decides, not the suffix, but between two formats only, to limit the attack surface.
            with Image.open(path, formats=("PNG", "JPEG")) as image:
                mode, transparent = image.mode, "transparency" in image.info
                upright = ImageOps.exif_transpose(image)
                pixels = np.asarray(upright.convert("L" if mode in _GREY_MODES else "RGB"))
    except (*_PILLOW_ERRORS, Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        raise DataError(
            f"cannot be read as a PNG or JPEG image ({error})", where=path, hint="Replace or remove it."
        ) from error
    if mode not in (*_GREY_MODES, *_COLOUR_MODES) or transparent:
        found = f"{mode} with transparency" if transparent else mode
        raise DataError(
            f"has pixels of mode {found}",
            where=path,
            expected=f"{one_of(('L (8-bit grey)', 'RGB', 'P (palette)', '1 (black and white)'))}, without transparency",
            hint="Convert it.",
        )
    return pixels.reshape(*pixels.shape[:2], -1)


def _read_npz(path: Path) -> Mapping[str, NDArray[np.generic]]:
    try:
        with path.open("rb") as stream:
            stated = _stated_count(stream)
            # NumPy does not close a file that it fails to read.
            file = np.load(stream, allow_pickle=False)
            if isinstance(file, NpzFile):
                with file:
                    if len(file.files) != stated:
                        raise ValueError(f"its directory claims {stated} arrays but lists {len(file.files)}")
                    return {name: file[name] for name in file.files}
    except NPZ_ERRORS as error:
        reason = (str(error) or type(error).__name__).splitlines()[0]
        raise DataError(
            f"damaged, or not an .npz file ({reason})", where=path, hint="Write it again with numpy.savez."
        ) from error
    raise DataError(
        "contains an unnamed array",
        where=path,
        expected=_NPZ_FORM,
        hint="Write it with numpy.savez(path, images=images).",
    )


def _stated_count(stream: BinaryIO) -> int:
    """Return the file count in a zip's end record; a damaged directory may list fewer, which zipfile ignores."""
    length = stream.seek(0, io.SEEK_END)
    # The file ends with a record of 22 bytes and a comment of at most 65,535 bytes.
    stream.seek(max(0, length - 22 - 0xFFFF))
    tail = stream.read()
    stream.seek(0)
    start = tail.rfind(b"PK\x05\x06")
    return int.from_bytes(tail[start + 10 : start + 12], "little") if start >= 0 else 0


def _class_names(path: Path, classes: NDArray[np.generic]) -> tuple[str, ...]:
    if classes.dtype.kind != "U" or classes.ndim != 1 or not classes.size or len(set(classes.tolist())) < classes.size:
        raise DataError(
            f"found {described(classes)}",
            where=f"{path}: classes",
            expected="must be one string per class, all different",
        )
    return tuple(classes.tolist())
