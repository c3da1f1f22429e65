"""What is written comes back in every field; nothing in a file runs; every damage is one sentence."""

from __future__ import annotations

import dataclasses
import io
import os
import pickle
import struct
import warnings
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from loihi_convert.checkpoint import Checkpoint, load, load_model, read_pt, save, write_pt
from loihi_convert.errors import CheckpointError, InputError, UsageError
from loihi_convert.models import build_model

SHAPE = (1, 8, 8)
SUFFIXES = (".pt", ".safetensors")
FLOATS = (torch.float64, torch.float32, torch.float16, torch.bfloat16)


def digits_checkpoint(**changes: Any) -> Checkpoint:
    with torch.random.fork_rng():
        torch.manual_seed(0)
        state = build_model("digits-cnn", SHAPE, 10).state_dict()
    checkpoint = Checkpoint(
        architecture="digits-cnn",
        state=dict(state),
        data="digits",
        input_shape=SHAPE,
        classes=tuple("0123456789"),
        seed=7,
        validation_accuracy=0.985,
        test_accuracy=0.97,
        recipe={"epochs": 3, "rate": 0.1, "history": [0.5, 0.75, 1.0], "note": None, "nested": {"on": True}},
    )
    return dataclasses.replace(checkpoint, **changes)


@pytest.fixture
def pt(tmp_path: Path) -> Path:
    save(digits_checkpoint(), tmp_path / "model.pt")
    return tmp_path / "model.pt"


def rewrite(path: Path, replace: dict[str, bytes], **options: Any) -> None:
    """Write the archive again, with some records replaced or added (names below the top folder) and right CRCs."""
    with zipfile.ZipFile(path) as archive:
        records = {entry.filename: archive.read(entry) for entry in archive.infolist()}
    top = next(iter(records)).partition("/")[0]
    with zipfile.ZipFile(path, "w", **options) as archive:
        for name, content in {**records, **{f"{top}/{name}": content for name, content in replace.items()}}.items():
            archive.writestr(name, content)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_every_field_comes_back(tmp_path: Path, suffix: str) -> None:
    written = digits_checkpoint()
    save(written, tmp_path / f"model{suffix}")
    read = load(tmp_path / f"model{suffix}")
    for field in dataclasses.fields(Checkpoint):
        if field.name != "state":
            assert getattr(read, field.name) == getattr(written, field.name), field.name
    assert read.state.keys() == written.state.keys()
    assert all(torch.equal(read.state[name], written.state[name]) for name in written.state)
    assert list(tmp_path.iterdir()) == [tmp_path / f"model{suffix}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_the_loaded_model_computes_what_the_saved_one_did(tmp_path: Path, suffix: str) -> None:
    checkpoint = digits_checkpoint()
    model = build_model("digits-cnn", SHAPE, 10)
    model.load_state_dict(checkpoint.state)
    save(checkpoint, tmp_path / f"model{suffix}")
    loaded, _ = load_model(tmp_path / f"model{suffix}")
    images = torch.rand(5, *SHAPE)
    assert torch.equal(loaded(images), model(images))
    assert not loaded.training
    assert not any(parameter.requires_grad for parameter in loaded.parameters())


def test_views_of_one_storage_are_written_small(tmp_path: Path) -> None:
    large = torch.zeros(1_000_000)
    save(digits_checkpoint(state={"weight": large[:4]}), tmp_path / "model.pt")
    assert (tmp_path / "model.pt").stat().st_size < 10_000


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


def test_code_in_the_pickle_does_not_run(tmp_path: Path) -> None:
    victim, path = tmp_path / "victim", tmp_path / "model.pt"
    torch.save({"format": Attack(victim)}, path)
    with pytest.raises(
        CheckpointError, match=r"model.pt: asks for (posix|nt)\.system, .* was not opened\. Save the state"
    ):
        load(path)
    assert not victim.exists()
    # The attack is real: a trusting reader runs it.
    torch.load(path, weights_only=False)
    assert victim.exists()


@pytest.mark.parametrize("protocol", [0, 1, 3, 4, 5])
def test_code_hidden_in_another_pickle_protocol_does_not_run(pt: Path, protocol: int) -> None:
    victim = pt.with_name("victim")
    rewrite(pt, {"data.pkl": pickle.dumps(Attack(victim), protocol=protocol)})
    with pytest.raises(CheckpointError, match=r"asks for posix\.system|opcode"):
        load(pt)
    assert not victim.exists()


@pytest.mark.parametrize(
    ("program", "message"),
    [
        (b"\x80\x02c__builtin__\neval\nX\x01\x00\x00\x001\x85R.", r"asks for __builtin__\.eval"),
        (b"\x80\x02ctorch.jit\nload\n)R.", r"asks for torch\.jit\.load"),
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
        (b"\x80\x02}", "data.pkl is no pickle"),
        (b"hello", "data.pkl is no pickle|opcode"),
        (b"\x80\x02}]}s.", "data.pkl cannot be read"),
    ],
)
def test_a_forged_program_is_one_sentence(pt: Path, program: bytes, message: str) -> None:
    rewrite(pt, {"data.pkl": program})
    with pytest.raises(CheckpointError, match=message):
        load(pt)


def test_a_value_that_doubles_at_every_level_is_refused(pt: Path) -> None:
    # [x, x] with x = [y, y] ...: 15 levels of 10 references each are 10^15 values in a few hundred bytes.
    program = b"\x80\x02]q\x00"
    for level in range(14):
        program += b"](" + b"h" + bytes([level]) + (b"h" + bytes([level])) * 9 + b"eq" + bytes([level + 1])
    rewrite(pt, {"data.pkl": program + b"."})
    with pytest.raises(CheckpointError, match="more than 16 levels or 100,000 values"):
        load(pt)


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
    with pytest.raises(CheckpointError, match=message):
        load(pt)


def test_the_forger_can_also_write_a_good_tensor(pt: Path) -> None:
    rewrite(pt, {"data.pkl": forged_tensor(1, (3,), (1,)), "data/0": struct.pack("<4f", 1, 2, 3, 4)})
    assert torch.equal(read_pt(pt), torch.tensor([2.0, 3.0, 4.0]))  # type: ignore[arg-type]


def test_torchscript_is_refused(tmp_path: Path) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), str(tmp_path / "model.pt"))
    with pytest.raises(CheckpointError, match=r"a TorchScript archive, .* torch\.save\(model\.state_dict\(\), path\)"):
        load(tmp_path / "model.pt")


def test_the_legacy_format_is_refused(tmp_path: Path) -> None:
    torch.save({"a": torch.zeros(1)}, tmp_path / "model.pt", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"a bare pickle, torch's format before 1\.6; it was not opened"):
        load(tmp_path / "model.pt")


def test_a_pickled_module_is_refused(tmp_path: Path) -> None:
    torch.save(nn.Linear(2, 2), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"asks for torch\.nn\.modules\.linear\.Linear, .*a whole pickled module"):
        load(tmp_path / "model.pt")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_plain_state_dict_is_refused(tmp_path: Path, suffix: str) -> None:
    path, state = tmp_path / f"model{suffix}", dict(digits_checkpoint().state)
    torch.save(state, path) if suffix == ".pt" else safetensors.torch.save_file(state, path)
    with pytest.raises(CheckpointError, match="holds a plain state dict, not a checkpoint of loihi-convert"):
        load(path)


def test_other_content_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(CheckpointError, match="holds an object of type list"):
        load(tmp_path / "list.pt")
    (tmp_path / "text.pt").write_text("hello")
    with pytest.raises(CheckpointError, match=r"text\.pt: neither a zip nor a pickle"):
        load(tmp_path / "text.pt")
    with zipfile.ZipFile(tmp_path / "zip.pt", "w") as archive:
        archive.writestr("a/b", "c")
    with pytest.raises(CheckpointError, match=r"a zip archive, but not of torch\.save: it has no data\.pkl"):
        load(tmp_path / "zip.pt")
    (tmp_path / "model.onnx").write_text("hello")
    with pytest.raises(CheckpointError, match=r"the suffix '\.onnx' is not known; checkpoints end in"):
        load(tmp_path / "model.onnx")
    with pytest.raises(CheckpointError, match=r"absent\.pt: cannot be read \(No such file"):
        load(tmp_path / "absent.pt")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_file_is_noticed(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"model{suffix}"
    save(digits_checkpoint(), path)
    content = path.read_bytes()
    for length in (0, 1, 10, len(content) // 2, len(content) - 1):
        path.write_bytes(content[:length])
        with pytest.raises(CheckpointError, match=f"model{suffix}: "):
            load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_flipped_byte_in_a_tensor_is_noticed(tmp_path: Path, suffix: str) -> None:
    path, checkpoint = tmp_path / f"model{suffix}", digits_checkpoint()
    save(checkpoint, path)
    content = bytearray(path.read_bytes())
    position = content.index(checkpoint.state["fc.weight"].numpy().tobytes())
    content[position + 100] ^= 1
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"damaged.* (CRC-32|SHA-256).*Copy or train it again"):
        load(path)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_any_flipped_byte_is_noticed_or_harmless(tmp_path: Path, suffix: str) -> None:
    path, written = tmp_path / f"model{suffix}", digits_checkpoint()
    save(written, path)
    content = path.read_bytes()
    generator = torch.Generator().manual_seed(0)
    for position in torch.randint(len(content), (300,), generator=generator).tolist():
        damaged = bytearray(content)
        damaged[position] ^= 0xFF
        path.write_bytes(damaged)
        try:
            read = load(path)
        except CheckpointError:
            continue
        # Only padding, dates and the like may differ without notice.
        assert all(torch.equal(read.state[name], written.state[name]) for name in written.state)
        assert dataclasses.replace(read, state={}).__dict__ == dataclasses.replace(written, state={}).__dict__


def test_archives_that_torch_does_not_write_are_refused(pt: Path) -> None:
    content = pt.read_bytes()
    rewrite(pt, {}, compression=zipfile.ZIP_DEFLATED)
    with pytest.raises(CheckpointError, match=r"records claim more than the file holds|a record is compressed"):
        load(pt)
    pt.write_bytes(content)
    rewrite(pt, {"data/bomb": bytes(1 << 26)}, compression=zipfile.ZIP_BZIP2)
    with pytest.raises(CheckpointError, match="records claim more than the file holds"):
        load(pt)
    pt.write_bytes(content)
    with zipfile.ZipFile(pt, "a") as archive:
        archive.writestr("other/data.pkl", b"")
    with pytest.raises(CheckpointError, match="records in several folders or of the same name"):
        load(pt)
    pt.write_bytes(content)
    rewrite(pt, {"data.pkl": bytes((1 << 20) + 1)})
    with pytest.raises(CheckpointError, match=r"data\.pkl has 1,048,577 bytes, 1,048,576 are allowed"):
        load(pt)
    pt.write_bytes(content)
    rewrite(pt, {"byteorder": b"big"})
    with pytest.raises(CheckpointError, match="its tensors are not little-endian"):
        load(pt)


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": ""},
        {"state": {}},
        {"data": 3},
        {"input_shape": (1, 8)},
        {"input_shape": (1, 8, 1 << 40)},
        {"classes": ()},
        {"seed": "0"},
        {"validation_accuracy": 98.5},
        {"test_accuracy": None},
        {"recipe": []},
    ],
)
def test_a_field_that_is_not_valid_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    save(digits_checkpoint(**changes), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=f"model.pt: the field '{next(iter(changes))}' is missing or not valid"):
        load(tmp_path / "model.pt")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_neither_written_nor_read(tmp_path: Path, pt: Path, value: float) -> None:
    weight = torch.zeros(3)
    weight[1] = value
    message = r"conv1\.weight holds NaN or an infinity; weights must be finite"
    with pytest.raises(CheckpointError, match=message):
        save(digits_checkpoint(state={"conv1.weight": weight}), tmp_path / "new.pt")
    assert not (tmp_path / "new.pt").exists()
    content: Any = read_pt(pt)
    write_pt({**content, "state": {"conv1.weight": weight}}, pt)
    with pytest.raises(CheckpointError, match=message):
        load(pt)


@pytest.mark.parametrize(
    ("name", "tensor", "message"),
    [
        ("fc.weight", torch.zeros(10, 3), r"fc\.weight: found float32 \(10, 3\), .* has float32 \(10, 128\)"),
        ("fc.weight", torch.zeros(10, 128).double(), r"fc\.weight: found float64 \(10, 128\)"),
        ("fc.bias", torch.zeros(10), r"fc\.bias: found float32 \(10,\), .* has no such tensor"),
        ("fc.weight", None, r"fc\.weight: found nothing, .* has float32 \(10, 128\)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, name: str, tensor: torch.Tensor | None, message: str
) -> None:
    state = {**digits_checkpoint().state, name: tensor}
    kept = {key: value for key, value in state.items() if value is not None}
    save(digits_checkpoint(state=kept), tmp_path / "model.safetensors")
    with pytest.raises(CheckpointError, match=message):
        load_model(tmp_path / "model.safetensors")


def test_an_unknown_architecture_names_the_file(tmp_path: Path) -> None:
    save(digits_checkpoint(architecture="resnet"), tmp_path / "model.pt")
    with pytest.raises(CheckpointError, match=r"model\.pt: architecture: 'resnet' is not known"):
        load_model(tmp_path / "model.pt")


def test_an_unknown_suffix_is_not_written(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"the suffix '\.bin' is not known; name the checkpoint \.pt or \.safetensors"):
        save(digits_checkpoint(), tmp_path / "model.bin")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_failed_write_leaves_the_old_file(tmp_path: Path, suffix: str, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / f"model{suffix}"
    save(digits_checkpoint(), path)
    content = path.read_bytes()

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(InputError, match="No space left on device"):
        save(digits_checkpoint(seed=8), path)
    assert path.read_bytes() == content
    assert list(tmp_path.iterdir()) == [path]
