"""Mapping from class folders to the outputs of a network."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final, NamedTuple

from loihi_convert.errors import DataError, UsageError
from loihi_convert.ground.choices import ClassMap

# Names in a note or an error.
_MOST: Final = 12
# Of int64, the type of labels.
_LARGEST: Final = 2**63 - 1


class ClassFolders(NamedTuple):
    """The class of each folder.

    Attributes
    ----------
    labels
        The output of each folder, in the order given.
    classes
        The name of each output; empty if unknown.
    note
        The mapping in words.
    """

    labels: tuple[int, ...]
    classes: tuple[str, ...]
    note: str


def classes_of_folders(
    folder: Path, names: Sequence[str], classes: Sequence[str], class_map: ClassMap | None = None
) -> ClassFolders:
    """Return the network output for each class folder.

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

    Parameters
    ----------
    folder
        The parent of the class folders; for errors.
    names
        The sorted names of the class folders.
    classes
        The names of the network's classes, in the order of its outputs; empty if unknown.
    class_map
        Overrides the table.
    """
    known = tuple(classes)
    if isinstance(class_map, Mapping):
        labels = tuple(_mapped(name, known, class_map) for name in names)
        if strangers := [name for name in class_map if name not in names]:
            raise UsageError(
                f"found {strangers[0]!r}", where="class_map", expected=f"must name folders of {folder}: {_some(names)}"
            )
        return ClassFolders(labels, known, _note("as given", names, labels, known))
    are_numbers = known == tuple(map(str, range(len(known))))
    if class_map is None and are_numbers and len(known) > 10 and set(names) <= set(known):
        raise UsageError(
            f"found folders named by numbers in {folder}, and {len(known)} numbered classes",
            where="class_map",
            expected="must be 'names' (folder 10 is class 10), or 'sorted' (10 comes before 2, as in torchvision's "
            "ImageFolder)",
        )
    if class_map == "names" and not known:
        labels = tuple(_number(folder, name) for name in names)
        return ClassFolders(labels, (), _note("by number", names, labels, ()))
    if class_map != "sorted" and known:
        if stranger := next((name for name in names if name not in known), None):
            raise DataError(
                f"the folder {stranger} is not a class of the network",
                where=folder,
                expected=f"must be one of {_some(known)}",
                hint="Rename the folders, or give the class of each in `class_map`; `class_map='sorted'` numbers the "
                "sorted folders from 0, as torchvision's ImageFolder does.",
            )
        labels = tuple(map(known.index, names))
        return ClassFolders(labels, known, _note("by name", names, labels, known))
    if known and len(names) != len(known):
        raise UsageError(
            f"found {len(names)} class folders for {len(known)} classes",
            where="class_map",
            expected="must give the class of each folder, unless every class has a folder",
        )
    order = tuple(range(len(names)))
    titles = known if known and not are_numbers else tuple(names)
    return ClassFolders(order, titles, _note("in sorted order, as in ImageFolder", names, order, known))


def _number(folder: Path, name: str) -> int:
    """The class of a folder that is named by its number."""
    number = _whole(name)
    if number is None or name != str(number):
        raise UsageError(
            f"found 'names', and the folder {name} in {folder}",
            where="class_map",
            expected="must be 'sorted', or give the class of each folder, because the names of the classes are unknown",
        )
    return number


def _whole(text: str) -> int | None:
    """The whole number that ``text`` is; None if it is not one in 0..2^63 - 1."""
    is_whole = text.isascii() and text.isdecimal() and len(text) <= len(str(_LARGEST)) and int(text) <= _LARGEST
    return int(text) if is_whole else None


def _mapped(name: str, classes: tuple[str, ...], class_map: Mapping[str, str | int]) -> int:
    if name not in class_map:
        raise UsageError(f"does not name the folder {name}", where="class_map", expected="must name every class folder")
    wanted = str(class_map[name])
    if wanted in classes:
        return classes.index(wanted)
    number = _whole(wanted)
    if number is not None and (not classes or number < len(classes)):
        return number
    allowed = f"one of {_some(classes)}, or a number below {len(classes)}" if classes else "a number in 0..2^63 - 1"
    raise UsageError(f"found {name}={wanted}", where="class_map", expected=f"the class must be {allowed}")


def _note(how: str, names: Sequence[str], labels: Sequence[int], classes: Sequence[str]) -> str:
    pairs = [
        f"{name} -> {label}" + (f" ({classes[label]})" if classes and classes[label] not in (name, str(label)) else "")
        for name, label in zip(names, labels, strict=True)
    ]
    return f"class folders are assigned to outputs of the network, {how}: {_some(pairs)}"


def _some(texts: Sequence[str]) -> str:
    """The first `_MOST` of ``texts``, and the number of those left out."""
    left = f", and {len(texts) - _MOST} more" if len(texts) > _MOST else ""
    return ", ".join(texts[:_MOST]) + left
