"""The type of a file, from its first bytes: file name suffixes of trained networks are not reliable."""

from __future__ import annotations

import codecs
from pathlib import Path
from typing import Final, Literal

FileKind = Literal[
    "zip", "pickle", "safetensors", "onnx", "hdf5", "gzip", "tar", "git-lfs", "html", "text", "empty", "unknown"
]
"""``zip``: torch.save, TorchScript, .npz; ``pickle``: torch.save before torch 1.6; ``hdf5``: netx, Keras."""

CHECKPOINT_KINDS: Final[tuple[FileKind, ...]] = ("zip", "pickle", "safetensors")
"""Files that may hold the weights of a CNN but not its structure."""

NIR: Final = ".nir"
"""Suffix of NIR files. They are HDF5, as netx files, and told apart by it."""

_HEAD: Final = 512
_HDF5: Final = b"\x89HDF\r\n\x1a\n"
# HDF5 puts its signature at 0, 512, 1024, 2048, ...: a user block may precede it.
_HDF5_OFFSETS: Final = (0, *(512 << shift for shift in range(8)))
_SIGNATURES: Final[tuple[tuple[int, bytes, FileKind], ...]] = (
    (0, b"PK", "zip"),
    (0, b"\x1f\x8b", "gzip"),
    (257, b"ustar", "tar"),
    (0, b"version https://git-lfs", "git-lfs"),
    (0, b"<!DOCTYPE", "html"),
    (0, b"<!doctype", "html"),
    (0, b"<html", "html"),
)
# The fields that can follow the first one, ir_version, in a ModelProto of onnx.proto: producer_name, producer_version,
# domain, model_version, doc_string, graph, opset_import, metadata_props, functions.
_AFTER_IR_VERSION: Final = (0x12, 0x1A, 0x22, 0x28, 0x32, 0x3A, 0x42, 0x72, 0xCA)
_LATEST_IR_VERSION: Final = 64


def kind_of(path: Path) -> FileKind | None:
    """Return the type of the file at ``path``; None if it is not a file or cannot be read."""
    try:
        # A pipe would wait for its writer, and what is read from it is gone.
        if not path.is_file():
            return None
        with path.open("rb") as stream:
            head = stream.read(_HEAD)
            for offset in _HDF5_OFFSETS:
                stream.seek(offset)
                if stream.read(len(_HDF5)) == _HDF5:
                    return "hdf5"
    except OSError:
        return None
    if not head:
        return "empty"
    # Eight bytes with the length of a JSON header, then the header. Tested first: a length may look like any signature.
    if head[4:9] == b"\0\0\0\0{":
        return "safetensors"
    for offset, signature, kind in _SIGNATURES:
        if head[offset:].startswith(signature):
            return kind
    # Protocols 2 to 5 begin with the opcode PROTO.
    if head[0] == 0x80 and head[1:2] in (b"\2", b"\3", b"\4", b"\5"):
        return "pickle"
    if len(head) > 2 and head[0] == 0x08 and head[1] <= _LATEST_IR_VERSION and head[2] in _AFTER_IR_VERSION:
        return "onnx"
    return "text" if _is_text(head) else "unknown"


def is_nir(path: Path) -> bool:
    """Return whether ``path`` has the suffix of a NIR file; it may be missing or damaged."""
    return path.suffix.lower() == NIR


def _is_text(head: bytes) -> bool:
    try:
        # The last character may be cut.
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(head, final=len(head) < _HEAD)
    except UnicodeDecodeError:
        return False
    return all(character.isprintable() or character in "\r\n\t" for character in text)
