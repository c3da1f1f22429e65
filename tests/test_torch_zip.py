"""Files of torch.save are read back; code in a file never runs; damage gives one sentence."""

from __future__ import annotations

import io
import os
import pickle
import re
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from loihi_convert.cnn import inert_pickle
from loihi_convert.cnn.stored_states import read_pt, write_pt
from loihi_convert.errors import CheckpointError, InputError

FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


@pytest.fixture
def pt(tmp_path: Path) -> Path:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 16, 3), fc=nn.Linear(128, 10))).state_dict()
    write_pt({"format": "a model", "seed": 7, "state": dict(state)}, tmp_path / "model.pt")
    return tmp_path / "model.pt"


def rewrite(path: Path, replace: dict[str, bytes], **options: Any) -> None:
    """Write the archive again with records replaced or added (names below the top folder) and correct CRCs."""
    with zipfile.ZipFile(path) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    top = next(iter(records)).partition("/")[0]
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in {**records, **{f"{top}/{name}": content for name, content in replace.items()}}.items():
            archive.writestr(name, content)


def refused(path: Path) -> str:
    """Return the error that `read_pt` reports for the file."""
    with pytest.raises(CheckpointError) as caught:
        read_pt(path)
    assert caught.value.where == str(path)
    return caught.value.found


@given(
    dtype=st.sampled_from([*FLOATS, torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8, torch.bool]),
    size=st.lists(st.integers(0, 4), max_size=4),
)
@settings(max_examples=40, deadline=None)
def test_read_pt_equals_torch_load(
    tmp_path_factory: pytest.TempPathFactory, dtype: torch.dtype, size: list[int]
) -> None:
    path = tmp_path_factory.mktemp("pt") / "any.pt"
    tensor = torch.randint(0, 2, size).to(dtype)
    content = {"plain": tensor, "transposed": tensor.T if len(size) == 2 else tensor, "list": [1, 2.5, "x", None, True]}
    torch.save(content, path)
    ours, theirs = read_pt(path), torch.load(path, weights_only=True)
    assert isinstance(ours, dict)
    assert ours["list"] == theirs["list"]
    for name in ("plain", "transposed"):
        assert ours[name].dtype == theirs[name].dtype
        assert ours[name].stride() == theirs[name].stride()
        assert torch.equal(ours[name], theirs[name])


def test_read_pt_takes_state_dicts_parameters_and_tied_weights(tmp_path: Path) -> None:
    model = nn.Sequential(OrderedDict(conv=nn.Conv2d(1, 2, 3), norm=nn.BatchNorm2d(2)))
    content = {"state": model.state_dict(), "parameters": dict(model.named_parameters())}
    torch.save(content, tmp_path / "any.pt")
    read: Any = read_pt(tmp_path / "any.pt")
    for name, tensor in model.state_dict().items():
        assert torch.equal(read["state"][name], tensor)
    assert read["state"]["conv.weight"].data_ptr() == read["parameters"]["conv.weight"].data_ptr()


def test_written_files_are_read_by_torch_and_by_read_pt(tmp_path: Path) -> None:
    content = {"text": "x", "list": [1, 2.5, None, True], "dict": {"tensor": torch.arange(6.0).reshape(2, 3)}}
    write_pt(content, tmp_path / "any.pt")
    assert list(tmp_path.iterdir()) == [tmp_path / "any.pt"]
    for read in (read_pt(tmp_path / "any.pt"), torch.load(tmp_path / "any.pt", weights_only=True)):
        assert isinstance(read, dict)
        assert list(read) == list(content)
        assert (read["text"], read["list"]) == ("x", content["list"])
        assert torch.equal(read["dict"]["tensor"], torch.arange(6.0).reshape(2, 3))


class Attack:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.victim}",)


def test_code_in_the_pickle_does_not_run(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "model.pt"
    torch.save({"format": Attack(victim)}, path)
    assert re.match(r"refers to (posix|nt)\.system, .* was not opened", refused(path))
    assert not victim.exists()
    # The attack works: an unsafe reader runs the code.
    torch.load(path, weights_only=False)
    assert victim.exists()


@pytest.mark.parametrize("protocol", [0, 1, 3, 4, 5])
def test_code_hidden_in_another_pickle_protocol_does_not_run(pt: Path, protocol: int) -> None:
    victim = pt.with_name("victim")
    rewrite(pt, {"data.pkl": pickle.dumps(Attack(victim), protocol=protocol)})
    assert re.search(r"refers to posix\.system|opcode", refused(pt))
    assert not victim.exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.", r"refers to __builtin__\.eval"),
        (b"\x80\x02ctorch.jit\nload\n)R.", r"refers to torch\.jit\.load"),
        (b"\x80\x02(i__builtin__\neval\n.", "opcode INST"),
        (b"\x80\x02\x82\x01.", "opcode EXT1"),
        (b"\x80\x02X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93)R.", "opcode STACK_GLOBAL"),
        (b"\x80\x02}r\xff\xff\xff\xff.", "memo index 4294967295"),
        (b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00a\x85b.", "data.pkl cannot be read"),
        (b"\x80\x02ctorch\nFloatStorage\n)R.", "torch.FloatStorage is called with 0 arguments"),
        (b"\x80\x02ccollections\nOrderedDict\n.", "an object of type _Name"),
        (b"\x80\x02K\x01Q.", "a persistent id is not a storage"),
        (b"\x80\x02]q\x00h\x00a.", "more than 16 levels"),
        (b"\x80\x02R.", "data.pkl cannot be read"),
        (b"\x80\x02}", "data.pkl cannot be read"),
        (b"hello", "data.pkl cannot be read|opcode"),
        (b"\x80\x02}]}s.", "data.pkl cannot be read"),
    ],
)
def test_a_forged_program_is_one_sentence(pt: Path, program: bytes, message: str) -> None:
    rewrite(pt, {"data.pkl": program})
    assert re.search(message, refused(pt))


def test_a_value_that_doubles_at_every_level_is_refused(pt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(inert_pickle, "_MAX_VALUES", 10_000)
    # [x, x] with x = [y, y] ...: 15 levels of 10 references are 10^15 values in a few hundred bytes.
    program = b"\x80\x02]q\x00"
    for level in range(14):
        program += b"](" + b"h" + bytes([level]) + (b"h" + bytes([level])) * 9 + b"eq" + bytes([level + 1])
    rewrite(pt, {"data.pkl": program + b"."})
    assert re.search("more than 16 levels or 10,000 values", refused(pt))


def forged_tensor(offset: int, size: tuple[int, ...], stride: tuple[int, ...], numel: int = 4, key: str = "0") -> bytes:
    """Return a pickle of one float32 tensor with this geometry, as torch.save would write it."""

    class Storage:
        pass

    class View:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return ("storage", torch.FloatStorage, key, "cpu", numel) if isinstance(obj, Storage) else None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(View())
    return stream.getvalue()


@pytest.mark.parametrize(
    ("geometry", "message"),
    [
        ({"offset": 0, "size": (5,), "stride": (1,)}, "reaches beyond its 4 values"),
        ({"offset": 1, "size": (4,), "stride": (1,)}, "reaches beyond its 4 values"),
        ({"offset": 0, "size": (2, 2), "stride": (3, 1)}, "reaches beyond its 4 values"),
        ({"offset": 0, "size": (1 << 40,), "stride": (0,)}, "reaches beyond its 4 values"),
        ({"offset": -1, "size": (2,), "stride": (1,)}, "offset -1"),
        ({"offset": 0, "size": (2,), "stride": (-1,)}, r"strides \(-1,\)"),
        ({"offset": 0, "size": (2, 2), "stride": (1,)}, r"a tensor of size \(2, 2\), strides \(1,\)"),
        ({"offset": 0, "size": (2,), "stride": (1,), "numel": 5}, "has 16 bytes for 5 torch.float32"),
        ({"offset": 0, "size": (2,), "stride": (1,), "numel": -4}, "has 16 bytes for -4"),
        ({"offset": 0, "size": (2,), "stride": (1,), "key": "../1"}, "data/../1"),
    ],
)
def test_a_tensor_beyond_its_record_is_refused(pt: Path, geometry: dict[str, Any], message: str) -> None:
    rewrite(pt, {"data.pkl": forged_tensor(**geometry), "data/0": bytes(16)})
    assert re.search(message, refused(pt))


def test_the_forged_pickle_of_a_valid_tensor_is_read(pt: Path) -> None:
    rewrite(pt, {"data.pkl": forged_tensor(1, (3,), (1,)), "data/0": struct.pack("<4f", 1, 2, 3, 4)})
    assert torch.equal(read_pt(pt), torch.tensor([2.0, 3.0, 4.0]))  # type: ignore[arg-type]


def test_torchscript_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "model.pt"))
    assert re.search("a TorchScript archive", refused(tmp_path / "model.pt"))


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    assert re.search(
        r"refers to torch\.nn\.modules\.linear\.Linear, .*a pickled module", refused(tmp_path / "model.pt")
    )


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    assert refused(tmp_path / "text.pt") == "not a zip archive"
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a/b", "c")
    assert re.search(r"a zip archive without data\.pkl", refused(tmp_path / "zip.pt"))
    assert re.search(r"cannot be read \(No such file", refused(tmp_path / "absent.pt"))


def test_a_truncated_archive_is_detected(pt: Path) -> None:
    content = pt.read_bytes()
    for length in (0, 1, 10, len(content) // 2, len(content) - 1):
        pt.write_bytes(content[:length])
        assert refused(pt)


def test_a_flipped_byte_in_a_record_is_detected(pt: Path) -> None:
    content = bytearray(pt.read_bytes())
    state = torch.load(pt, weights_only=True)["state"]
    content[content.index(state["fc.weight"].numpy().tobytes()) + 100] ^= 1
    pt.write_bytes(content)
    assert re.search(r"damaged.* CRC-32", refused(pt))


def test_archives_that_torch_does_not_write_are_refused(pt: Path) -> None:
    content = pt.read_bytes()
    rewrite(pt, {}, compression=zipfile.ZIP_DEFLATED)
    assert re.search(r"records claim more than the file holds|a record is compressed", refused(pt))
    pt.write_bytes(content)
    rewrite(pt, {"data/bomb": bytes(1 << 26)}, compression=zipfile.ZIP_BZIP2)
    assert re.search("records claim more than the file holds", refused(pt))
    pt.write_bytes(content)
    with zipfile.ZipFile(pt, "a") as archive:
        archive.writestr("other/data.pkl", b"")
    assert re.search("records in several folders or of the same name", refused(pt))
    pt.write_bytes(content)
    rewrite(pt, {"data.pkl": bytes((1 << 20) + 1)})
    assert re.search(r"data\.pkl has 1,048,577 bytes, more than 1,048,576", refused(pt))
    pt.write_bytes(content)
    rewrite(pt, {"byteorder": b"big"})
    assert re.search("its tensors are not little-endian", refused(pt))


def test_a_failed_write_keeps_the_old_file(pt: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = pt.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError) as caught:
        write_pt({"seed": 8}, pt)
    assert caught.value.where == str(pt)
    assert "No space left on device" in caught.value.found
    assert pt.read_bytes() == content
    assert list(pt.parent.iterdir()) == [pt]
