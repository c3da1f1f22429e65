"""Round trips preserve every field; a mismatched or damaged file gives a one-sentence error."""

from __future__ import annotations

import dataclasses
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from support.refusals import refusal

from loihi_convert.cnn import checkpoint
from loihi_convert.cnn.checkpoint import Checkpoint, load, load_if_ours, load_model, load_states, save
from loihi_convert.cnn.models import build_model
from loihi_convert.cnn.stored_states import read_pt, write_pt
from loihi_convert.errors import CheckpointError, InputError, UsageError

SHAPE = (1, 8, 8)
SUFFIXES = (".pt", ".safetensors")


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


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize(
    "changes",
    # A long signal; 1.25 MB of names, as the 21,843 classes of ImageNet-21k have names of several words.
    [{}, {"input_shape": (1, 1, 48_000)}, {"classes": tuple(f"{number:050}" for number in range(25_000))}],
    ids=["digits", "signal", "names"],
)
def test_every_field_comes_back(tmp_path: Path, suffix: str, changes: dict[str, Any]) -> None:
    written = digits_checkpoint(**changes)
    save(written, tmp_path / f"model{suffix}")
    read = load(tmp_path / f"model{suffix}")
    for field in dataclasses.fields(Checkpoint):
        if field.name != "state":
            assert getattr(read, field.name) == getattr(written, field.name), field.name
    assert read.state.keys() == written.state.keys()
    assert all(torch.equal(read.state[name], written.state[name]) for name in written.state)
    assert list(tmp_path.iterdir()) == [tmp_path / f"model{suffix}"]


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_equal_checkpoints_are_equal_files(tmp_path: Path, suffix: str) -> None:
    """safetensors itself writes two entries of metadata in random order."""
    paths = [tmp_path / f"{number}{suffix}" for number in range(12)]
    save(digits_checkpoint(), paths[0])
    for path in paths[1:]:
        save(load(paths[0]), path)
    assert len({path.read_bytes() for path in paths}) == 1


def in_halves(checkpoint: Checkpoint) -> Checkpoint:
    state = {name: tensor.half().float() for name, tensor in checkpoint.state.items()}
    return dataclasses.replace(checkpoint, state=state, stored_as="float16")


def refused(path: Path, use: Callable[[Path], object] = load) -> CheckpointError:
    """Return the error about ``path`` that using it raises."""
    with pytest.raises(CheckpointError) as caught:
        use(path)
    assert caught.value.where == str(path)
    return caught.value


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_float16_comes_back_as_float32_from_a_file_of_half_the_size(tmp_path: Path, suffix: str) -> None:
    written = in_halves(digits_checkpoint())
    count = torch.tensor(3)
    written = dataclasses.replace(written, state={**written.state, "batches": count})
    save(written, tmp_path / f"half{suffix}")
    save(dataclasses.replace(written, stored_as="float32"), tmp_path / f"full{suffix}")
    read = load(tmp_path / f"half{suffix}")
    assert read.stored_as == "float16"
    assert {name: tensor.dtype for name, tensor in read.state.items()} == {
        name: torch.int64 if name == "batches" else torch.float32 for name in written.state
    }
    assert all(torch.equal(read.state[name], written.state[name]) for name in written.state)
    saved = (tmp_path / f"full{suffix}").stat().st_size - (tmp_path / f"half{suffix}").stat().st_size
    weights = sum(tensor.numel() for tensor in written.state.values() if tensor.is_floating_point())
    assert abs(saved - 2 * weights) < 600
    # A checkpoint that was read can be written again.
    save(read, tmp_path / f"again{suffix}")
    again = load(tmp_path / f"again{suffix}")
    assert all(torch.equal(again.state[name], written.state[name]) for name in written.state)


def test_what_float16_has_not_is_not_rounded_in_silence(tmp_path: Path) -> None:
    error = refused(tmp_path / "model.pt", lambda path: save(digits_checkpoint(stored_as="float16"), path))
    assert "conv1.weight has numbers that float16 cannot represent" in error.found
    assert list(tmp_path.iterdir()) == []


def test_files_of_before_float16_are_read(tmp_path: Path) -> None:
    save(digits_checkpoint(), tmp_path / "model.pt")
    content: Any = read_pt(tmp_path / "model.pt")
    write_pt({key: value for key, value in content.items() if key != "stored_as"}, tmp_path / "model.pt")
    assert load(tmp_path / "model.pt").stored_as == "float32"


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


@pytest.mark.parametrize("read", [load, load_if_ours, load_states])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_file_of_a_newer_version_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, read: Callable[[Path], object]
) -> None:
    monkeypatch.setattr(checkpoint, "_FORMAT", "loihi-convert checkpoint 2")
    save(digits_checkpoint(), tmp_path / f"model{suffix}")
    monkeypatch.undo()
    error = refused(tmp_path / f"model{suffix}", read)
    assert error.found == "written by a newer version of loihi-convert (loihi-convert checkpoint 2)"
    assert error.hint == "Update loihi-convert."


def test_a_stored_states_may_have_empty_metadata(tmp_path: Path) -> None:
    """The library reads it."""
    header = b'{"__metadata__": null, "weight": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}'
    content = len(header).to_bytes(8, "little") + header + bytes(4)
    (tmp_path / "model.safetensors").write_bytes(content)
    assert load_states(tmp_path / "model.safetensors") == {"": {"weight": torch.zeros(1)}}


def test_other_content_is_refused(tmp_path: Path) -> None:
    torch.save([1, 2], tmp_path / "list.pt")
    assert "holds a list" in refused(tmp_path / "list.pt").found
    for suffix in SUFFIXES:
        assert "cannot be read (No such file" in refused(tmp_path / f"absent{suffix}").found


@pytest.mark.parametrize(
    "changes",
    [
        {"architecture": ""},
        {"state": {}},
        {"data": 3},
        {"input_shape": (1, 8)},
        {"classes": ()},
        {"seed": "0"},
        {"validation_accuracy": 98.5},
        {"test_accuracy": 97.0},
        {"recipe": []},
        {"mean": [0.5]},
        {"mean": [0.5, 0.5], "std": [0.5, 0.5]},
    ],
)
def test_a_field_that_is_not_valid_is_named(tmp_path: Path, changes: dict[str, Any]) -> None:
    save(digits_checkpoint(), tmp_path / "model.pt")
    content: Any = read_pt(tmp_path / "model.pt")
    write_pt({**content, **changes}, tmp_path / "model.pt")
    found = refused(tmp_path / "model.pt").found
    assert found.startswith("a field is missing or invalid")
    assert next(iter(changes)) in found or changes == {"mean": [0.5]}
    write_pt({name: value for name, value in content.items() if name != "seed"}, tmp_path / "model.pt")
    assert "'seed'" in refused(tmp_path / "model.pt").found


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_nan_and_infinity_are_neither_written_nor_read(tmp_path: Path, value: float) -> None:
    weight = torch.zeros(3)
    weight[1] = value
    written = digits_checkpoint(state={"conv1.weight": weight})
    assert "conv1.weight contains NaN" in refused(tmp_path / "new.pt", lambda path: save(written, path)).found
    assert not (tmp_path / "new.pt").exists()
    pt = tmp_path / "model.pt"
    save(digits_checkpoint(), pt)
    content: Any = read_pt(pt)
    write_pt({**content, "state": {"conv1.weight": weight}}, pt)
    assert "conv1.weight contains NaN" in refused(pt).found


@pytest.mark.parametrize(
    ("name", "tensor", "found", "expected"),
    [
        ("fc.weight", torch.zeros(10, 3), "fc.weight is float32 (10, 3)", "has float32 (10, 128)"),
        ("fc.weight", torch.zeros(10, 128).double(), "fc.weight is float64 (10, 128)", "has float32 (10, 128)"),
        ("fc.bias", torch.zeros(10), "fc.bias is float32 (10,)", "has no such tensor"),
        ("fc.weight", None, "fc.weight is missing", "has float32 (10, 128)"),
    ],
)
def test_tensors_that_do_not_fit_are_named(
    tmp_path: Path, name: str, tensor: torch.Tensor | None, found: str, expected: str
) -> None:
    state = {**digits_checkpoint().state, name: tensor}
    kept = {key: value for key, value in state.items() if value is not None}
    save(digits_checkpoint(state=kept), tmp_path / "model.safetensors")
    error = refused(tmp_path / "model.safetensors", load_model)
    assert error.found == found
    assert error.expected.endswith(expected)


def test_an_unknown_architecture_names_the_file(tmp_path: Path) -> None:
    save(digits_checkpoint(architecture="resnet"), tmp_path / "model.pt")
    assert "'resnet'" in refused(tmp_path / "model.pt", load_model).found


def test_an_unknown_suffix_is_not_written(tmp_path: Path) -> None:
    assert refusal(UsageError, save, digits_checkpoint(), tmp_path / "model.bin") == (
        str(tmp_path / "model.bin"),
        "found the suffix '.bin'",
    )


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
