"""Files of torch.save are read back; code in a file never runs; damage gives one sentence."""

from __future__ import annotations

import contextlib
import io
import os
import pickle
import struct
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from loihi_convert.cnn.stored_states import Skipped, _Name, read_pt, states_in, write_pt
from loihi_convert.errors import CheckpointError

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


class Attack:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.victim}",)


def inert(value: object) -> bool:
    """Whether ``value`` is made of plain values and `Skipped` alone."""
    if isinstance(value, dict):
        return all(map(inert, (*value.keys(), *value.values())))
    return value is None or isinstance(value, (Skipped, type, int, str, _Name))


def test_code_in_the_pickle_does_not_run(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "model.pt"
    torch.save({"format": Attack(victim)}, path)
    assert inert(read_pt(path))
    for protocol in range(6):
        rewrite(path, {"data.pkl": pickle.dumps({"format": Attack(victim)}, protocol=protocol)})
        assert inert(read_pt(path))
    assert not victim.exists()
    # The attack works: an unsafe reader runs the code.
    pickle.loads(pickle.dumps(Attack(victim)))
    assert victim.exists()


@pytest.mark.parametrize(
    "program",
    [
        b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.",
        b"\x80\x02cos\nsystem\nX\x06\x00\x00\x00exit 1\x85R)R.",
        b"\x80\x02ctorch.jit\nload\n)R.",
        b"\x80\x04\x8c\x02os\x8c\x06system\x93\x8c\x06exit 1\x85R.",
        b"\x80\x02X\x02\x00\x00\x00osX\x06\x00\x00\x00system\x93)R.",
        b"\x80\x02cbuiltins\ngetattr\ncbuiltins\neval\nX\x08\x00\x00\x00__call__\x86RX\x01\x00\x00\x001\x85R.",
        b"\x80\x02cnets\nNet\n)\x81}X\x0c\x00\x00\x00__setstate__cos\nsystem\nsb.",
        b"\x80\x02cnets\nNet\n}(X\x05\x00\x00\x00__doc__X\x01\x00\x00\x001ub.",
        b"\x80\x02(i__builtin__\neval\n.",
        b"\x80\x02\x82\x01.",
        b"\x80\x02}r\xff\xff\xff\xff.",
        b"\x80\x02ccollections\nOrderedDict\n}X\x01\x00\x00\x00a\x85b.",
        b"\x80\x02ctorch._tensor\n_rebuild_from_type_v2\n(cos\nsystem\nNX\x01\x00\x00\x001\x85NtR.",
        b"\x80\x02ctorch\nFloatStorage\n)R.",
        b"\x80\x02K\x01Q.",
        b"\x80\x02R.",
        b"\x80\x02}",
        b"hello",
        b"\x80\x02}]}s.",
    ],
)
def test_a_forged_program_is_inert_or_one_sentence(pt: Path, program: bytes) -> None:
    rewrite(pt, {"data.pkl": program})
    with contextlib.suppress(CheckpointError):
        assert inert(read_pt(pt))


def forged_tensor(offset: int, size: tuple[int, ...], stride: tuple[int, ...], key: str = "0") -> bytes:
    """Return a pickle of one float32 tensor with this geometry, as torch.save would write it."""

    class Storage:
        pass

    class View:
        def __reduce__(self) -> tuple[Any, ...]:
            return torch._utils._rebuild_tensor_v2, (Storage(), offset, size, stride, False, OrderedDict())

    class Pickler(pickle.Pickler):
        def persistent_id(self, obj: object) -> object:
            return ("storage", torch.FloatStorage, key, "cpu", 4) if isinstance(obj, Storage) else None

    stream = io.BytesIO()
    Pickler(stream, protocol=2).dump(View())
    return stream.getvalue()


@pytest.mark.parametrize(
    "geometry",
    [
        {"offset": 0, "size": (5,), "stride": (1,)},
        {"offset": 1, "size": (4,), "stride": (1,)},
        {"offset": 0, "size": (2, 2), "stride": (3, 1)},
        {"offset": 0, "size": (1 << 40,), "stride": (0,)},
        {"offset": -1, "size": (2,), "stride": (1,)},
        {"offset": 0, "size": (2,), "stride": (-1,)},
        {"offset": 0, "size": (2, 2), "stride": (1,)},
        {"offset": 0, "size": (1 << 62, 4), "stride": (1, 1)},
        {"offset": 1 << 62, "size": (2,), "stride": (1,)},
        {"offset": 0, "size": (2,), "stride": (1,), "key": "../1"},
    ],
)
def test_a_tensor_beyond_its_record_is_refused(pt: Path, geometry: dict[str, Any]) -> None:
    rewrite(pt, {"data.pkl": forged_tensor(**geometry), "data/0": bytes(16)})
    assert refused(pt)


def test_the_forged_pickle_of_a_valid_tensor_is_read(pt: Path) -> None:
    rewrite(pt, {"data.pkl": forged_tensor(1, (3,), (1,)), "data/0": struct.pack("<4f", 1, 2, 3, 4)})
    assert torch.equal(read_pt(pt), torch.tensor([2.0, 3.0, 4.0]))  # type: ignore[arg-type]


def test_other_files_are_refused(tmp_path: Path) -> None:
    (tmp_path / "text.pt").write_text("hello")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a/b", "c")
    assert "not from torch.save" in refused(tmp_path / "text.pt")
    assert "no data.pkl" in refused(tmp_path / "zip.pt")
    assert "No such file" in refused(tmp_path / "absent.pt")


def test_archives_that_torch_does_not_write_are_refused(pt: Path) -> None:
    content = pt.read_bytes()
    rewrite(pt, {"data/bomb": bytes(1 << 26)}, compression=zipfile.ZIP_BZIP2)
    assert "records claim more than the file holds" in refused(pt)
    pt.write_bytes(content)
    rewrite(pt, {"byteorder": b"big"})
    assert "not little-endian" in refused(pt)


def test_dicts_that_hold_each_other_are_refused() -> None:
    content: dict[str, object] = {}
    for _ in range(3):
        content = {str(name): content for name in range(100)}
    with pytest.raises(CheckpointError, match="the same dicts"):
        states_in(content)
