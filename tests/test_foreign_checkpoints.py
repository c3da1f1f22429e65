"""Checkpoints as people have them: any suffix, any place of the state dict, any prefix, whatever stands beside it."""

from __future__ import annotations

import argparse
import io
import math
import os
import pickle
import sys
import warnings
import zipfile
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from support.refusals import refused
from torch import Tensor, nn
from typer.testing import CliRunner

from loihi_convert import cli
from loihi_convert.cnn.checkpoint import load, load_states
from loihi_convert.cnn.stored_states import Skipped, read_file
from loihi_convert.errors import CheckpointError, UsageError
from loihi_convert.ground.files import kind_of
from loihi_convert.reading.source import Source, open_source

SHAPE = (1, 4, 4)
NETS = """
from torch import nn

class Net(nn.Sequential):
    def __init__(self, classes=3):
        super().__init__(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, classes))

class WithModel(nn.Module):
    def __init__(self):
        super().__init__()
        self.model = Net()
    def forward(self, x):
        return self.model(x)
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, with the user's module ``nets`` in it."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    yield tmp_path
    sys.modules.pop("nets", None)


class Net(nn.Sequential):
    """What `NETS` builds."""

    def __init__(self) -> None:
        super().__init__(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))


def net() -> Net:
    torch.manual_seed(0)
    model = Net()
    for tensor in (model[1].running_mean, model[1].weight, model[1].bias):
        tensor.data.normal_()
    return model.eval()


def state() -> dict[str, Tensor]:
    return dict(net().state_dict())


def prefixed(prefix: str) -> dict[str, Tensor]:
    return {prefix + name: tensor for name, tensor in state().items()}


def opened(path: Path, arch: str = "nets:Net") -> Source:
    return open_source(path, arch=arch, input_shape=SHAPE)


def assert_is_net(source: Source) -> None:
    found = {name.removeprefix("model."): tensor for name, tensor in source.model.state_dict().items()}
    assert found.keys() == state().keys()
    for name, tensor in state().items():
        assert torch.equal(found[name], tensor), name


class Callback:
    """A class that the reader does not have."""

    def __init__(self) -> None:
        self.best = 0.5


class Hyperparameters(dict[str, Any]):
    """A dict with a class of its own, as Lightning's AttributeDict."""


def lightning(prefix: str = "model.", **more: Tensor) -> dict[str, Any]:
    """Return what Lightning's ``Trainer.save_checkpoint`` puts into a file, with a `LightningModule` of ``model``."""
    model = net()
    optimizer = torch.optim.Adam(model.parameters())
    model(torch.rand(2, *SHAPE)).sum().backward()
    optimizer.step()
    model.load_state_dict(state())
    scores = defaultdict(list, {"accuracy": [0.5]})
    return {
        "epoch": 3,
        "global_step": 120,
        "pytorch-lightning_version": "2.4.0",
        "state_dict": OrderedDict({**prefixed(prefix), **more}),
        "loops": {"fit_loop": {"state_dict": {}, "epoch_progress": {"total": {"ready": 4, "completed": 4}}}},
        "callbacks": {
            "ModelCheckpoint{'monitor': 'val_loss', 'mode': 'min'}": {
                "best_model_score": torch.tensor(0.25),
                "best_model_path": Path("here"),
                "numbers": np.float64(0.5),
                "callback": Callback(),
            },
            Callback: {"best": {1, 2}},
        },
        "optimizer_states": [optimizer.state_dict()],
        "lr_schedulers": [{"milestones": Counter({3: 1}), "_last_lr": [0.001], "scores": scores}],
        "hparams_name": "kwargs",
        "hyper_parameters": Hyperparameters(
            lr=0.1, options=argparse.Namespace(activation=nn.ReLU, dtype=torch.float32)
        ),
        "rng": np.random.default_rng(0).bytes(4),
        "devices": (torch.device("cpu"), torch.Size([1, 2]), slice(1, 2), 3 + 4j, frozenset({"a"})),
        "MixedPrecisionPlugin": None,
    }


@pytest.mark.parametrize("name", ["m.pth", "m.ckpt", "m.bin", "m.pth.tar", "m.pt", "m", "m.h5", "m.onnx", "m.net"])
def test_the_suffix_says_nothing(name: str) -> None:
    torch.save(state(), name)
    assert kind_of(Path(name)) == "zip"
    assert_is_net(opened(Path(name)))


@pytest.mark.parametrize("name", ["m.bin", "m.pt"])
def test_safetensors_under_any_name(name: str) -> None:
    safetensors.torch.save_file(prefixed("model."), name)
    source = opened(Path(name))
    assert_is_net(source)
    assert source.notes == (f"{name}: the CNN is the part 'model'.",)


def test_a_tensor_under_two_names_is_stored_once() -> None:
    Path("nets.py").write_text(
        "from torch import nn\n"
        "def make():\n"
        "    dense = nn.Linear(16, 16)\n"
        "    return nn.Sequential(nn.Flatten(), dense, nn.ReLU(), dense, nn.ReLU(), nn.Linear(16, 3))\n"
    )
    dense = nn.Linear(16, 16)
    model = nn.Sequential(nn.Flatten(), dense, nn.ReLU(), dense, nn.ReLU(), nn.Linear(16, 3))
    safetensors.torch.save_model(model, "shared.safetensors")
    source = open_source("shared.safetensors", arch="nets:make", input_shape=SHAPE)
    images = np.random.default_rng(0).integers(0, 256, (4, *SHAPE)).astype(np.uint8)
    with torch.no_grad():
        expected = model(torch.from_numpy(images) / 255).numpy()
    np.testing.assert_allclose(source.module_outputs(images), expected, atol=1e-5)


def test_weights_of_eight_bits() -> None:
    eight = {
        name: tensor.to(torch.float8_e4m3fn) if tensor.is_floating_point() else tensor
        for name, tensor in state().items()
    }
    safetensors.torch.save_file(eight, "eight.safetensors")
    assert any("float8_e4m3fn tensors are converted" in note for note in opened(Path("eight.safetensors")).notes)


CONTENTS: dict[str, Callable[[], object]] = {
    "net, as kuangliu's": lambda: {"net": state(), "acc": 93.1, "epoch": 7},
    "model_state_dict, as the tutorial's": lambda: {"epoch": 5, "model_state_dict": net().state_dict(), "loss": 0.4},
    "state_dict, as the ImageNet example's": lambda: {
        "epoch": 90,
        "arch": "net",
        "state_dict": prefixed("module."),
        "best_acc1": torch.tensor(93.1),
        "optimizer": torch.optim.SGD(net().parameters(), 0.1, momentum=0.9).state_dict(),
    },
    "a key of their own": lambda: {"my_cnn": state()},
    "a dict in a dict": lambda: {"checkpoint": {"model": state()}, "epoch": 1},
    "parameters": lambda: dict(net().named_parameters()) | dict(net().named_buffers()),
    "Lightning": lightning,
    "Lightning, with a loss that has weights": lambda: lightning(**{"criterion.weight": torch.ones(3)}),
    "Lightning, compiled": lambda: lightning("model._orig_mod."),
    "averaged": lambda: {"n_averaged": torch.tensor(3), **prefixed("module.")},
    "nested wrappers": lambda: prefixed("model.module._orig_mod."),
    "a checkpointed block": lambda: {
        name.replace("0.", "0._checkpoint_wrapped_module."): tensor for name, tensor in state().items()
    },
    "a compiled block": lambda: {name.replace("0.", "0._orig_mod."): tensor for name, tensor in state().items()},
    "a state of no tensor": lambda: {**state(), "metric._extra_state": {"a": 1}},
    "without num_batches_tracked": lambda: {n: t for n, t in state().items() if not n.endswith("tracked")},
    "a whole module": net,
    "a whole module and more": lambda: {"model": net(), "epoch": 3},
    "a whole wrapped module": lambda: nn.DataParallel(net()),
}


@pytest.mark.parametrize("content", CONTENTS)
def test_the_state_dict_is_found(content: str) -> None:
    torch.save(CONTENTS[content](), "m.ckpt")
    source = opened(Path("m.ckpt"))
    if content == "without num_batches_tracked":
        source.model.load_state_dict({"1.num_batches_tracked": state()["1.num_batches_tracked"]}, strict=False)
    assert_is_net(source)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_any_pickle_protocol(protocol: int) -> None:
    torch.save(lightning(), "m.ckpt", pickle_protocol=protocol)
    assert_is_net(opened(Path("m.ckpt")))
    torch.save(net(), "whole.pt", pickle_protocol=protocol)
    assert_is_net(opened(Path("whole.pt")))


def test_halves() -> None:
    halves = {key: tensor.bfloat16() if tensor.is_floating_point() else tensor for key, tensor in state().items()}
    torch.save({"state_dict": halves}, "m.bin")
    source = opened(Path("m.bin"))
    assert source.notes == ("m.bin: bfloat16 tensors are converted to float32.",)
    for key, tensor in source.model.state_dict().items():
        assert torch.equal(tensor, halves[key].float() if halves[key].is_floating_point() else halves[key])


def test_halves_of_every_tensor() -> None:
    """Also of the counters of batch norm, whose numbers may become infinite."""
    halves = {key: tensor.half() for key, tensor in state().items()}
    (counter,) = (key for key in halves if key.endswith("num_batches_tracked"))
    torch.save({**halves, counter: torch.tensor(math.inf, dtype=torch.float16)}, "m.bin")
    read = opened(Path("m.bin")).model.state_dict()
    assert read[counter].dtype == torch.int64
    assert all(torch.equal(read[key], halves[key].float()) for key in halves if key != counter)


def test_tensors_of_a_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.serialization, "location_tag", lambda _: "cuda:0")
    torch.save(state(), "m.pth")
    with zipfile.ZipFile("m.pth") as archive:
        assert b"cuda:0" in archive.read("m/data.pkl")
    assert_is_net(opened(Path("m.pth")))


def test_a_prefix_that_the_cnn_has_too_is_kept() -> None:
    torch.save(prefixed("model."), "m.pt")
    source = opened(Path("m.pt"), "nets:WithModel")
    assert_is_net(source)
    assert source.notes == ()
    torch.save(prefixed("model.model."), "m.pt")
    assert_is_net(opened(Path("m.pt"), "nets:WithModel"))


def test_what_is_left_out_is_said() -> None:
    torch.save(lightning(**{"criterion.weight": torch.ones(3)}), "m.ckpt")
    assert opened(Path("m.ckpt")).notes == ("m.ckpt: the CNN is the part 'model'; criterion ignored.",)
    torch.save({"ema": state(), "model": state()}, "m.pt")
    (note,) = opened(Path("m.pt")).notes
    assert note == ("m.pt: the weights under 'model' are used; 'ema' would fit too.")


def test_check_says_how_the_weights_were_read() -> None:
    torch.save({"ema": prefixed("module."), "model": prefixed("module.")}, "m.pt")
    words = ["check", "m.pt", "--arch", "nets:Net", "--input-shape", "1,4,4"]
    done = CliRunner().invoke(cli.app, words)
    said = " ".join(done.stdout.split())
    assert "note m.pt: the CNN is the part 'module'." in said
    assert "note m.pt: the weights under 'model' are used; 'ema' would fit too." in said


# torch.ao.quantization is deprecated.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:.*quantize")
def test_a_quantized_cnn_is_refused() -> None:
    quantized = torch.ao.quantization.quantize_dynamic(net(), {nn.Linear}, dtype=torch.qint8)
    torch.save(quantized.state_dict(), "m.pt")
    with pytest.raises(CheckpointError, match=r"4\.zero_point.* before any quantization"):
        opened(Path("m.pt"))
    torch.save(quantized, "m.pt")
    with pytest.raises(CheckpointError, match=r"4\.weight missing"):
        opened(Path("m.pt"))


def test_the_weights_that_fit_are_taken() -> None:
    torch.save({"model": {"0.weight": torch.ones(3)}, "best": state()}, "m.pt")
    assert_is_net(opened(Path("m.pt")))


def test_two_networks_of_the_same_names_are_not_mixed_up() -> None:
    torch.save(prefixed("student.") | prefixed("teacher."), "m.pt")
    with pytest.raises(CheckpointError) as caught:
        opened(Path("m.pt"))
    assert "missing" in caught.value.found
    assert "unknown to the CNN" in caught.value.found


def test_a_training_checkpoint_without_arch_asks_for_it() -> None:
    torch.save(lightning(), "m.ckpt")
    # The numbers of the images that it was trained on.
    torch.save({"state_dict": state(), "split": list(range(150_000))}, "split.pt")
    safetensors.torch.save_file(state(), "m.safetensors")
    for path in ("m.ckpt", "split.pt", "m.safetensors"):
        with refused(path, "holds only weights", hint="`arch=", kind=CheckpointError):
            load(path)


def test_what_is_not_read_stays_inert() -> None:
    torch.save(lightning(), "m.ckpt")
    content: Any = read_file(Path("m.ckpt"))
    assert isinstance(content["hyper_parameters"], Skipped)
    assert content["hyper_parameters"].kind == f"{__name__}.Hyperparameters"
    callback, _ = content["callbacks"].values()
    assert isinstance(callback["callback"], Skipped)


class Attack:
    def __init__(self, victim: Path) -> None:
        self.victim = victim

    def __reduce__(self) -> tuple[Any, ...]:
        return os.system, (f"touch {self.victim}",)


class State:
    """Gives the object that an attack returns to another class, and to its state."""

    def __init__(self, *attack: object) -> None:
        self.attack = attack

    def __reduce__(self) -> tuple[Any, ...]:
        return State, self.attack, {"__class__": self.attack}


@pytest.mark.parametrize("protocol", [2, 4])
def test_code_beside_the_weights_does_not_run(tmp_path: Path, protocol: int) -> None:
    victim = tmp_path / "victim"
    attack = Attack(victim)
    content = {"state_dict": state(), "hyper_parameters": attack, "more": [State(attack), {"a": attack}]}
    torch.save(content, "m.ckpt", pickle_protocol=protocol)
    assert_is_net(opened(Path("m.ckpt")))
    assert not victim.exists()
    # The attack is real: a trusting reader runs it.
    torch.load("m.ckpt", weights_only=False)
    assert victim.exists()


def forged_module() -> bytes:
    """Return a module that holds itself, as a pickle."""
    stream = io.BytesIO()

    class Module:
        pass

    module = Module()
    module.__dict__ |= {"_parameters": {}, "_buffers": {}, "_modules": {"a": module}}
    Module.__qualname__ = Module.__name__
    sys.modules[__name__].Module = Module  # type: ignore[attr-defined]
    pickle.Pickler(stream, protocol=2).dump(module)
    del sys.modules[__name__].Module  # type: ignore[attr-defined]
    return stream.getvalue()


def test_a_module_that_holds_itself_is_refused() -> None:
    with zipfile.ZipFile("m.ckpt", "w") as archive:
        archive.writestr("m/data.pkl", forged_module())
    with pytest.raises(CheckpointError, match="not a module with weights"):
        load_states("m.ckpt")


def test_torchs_old_format_is_refused_with_a_remedy() -> None:
    torch.save({"a": torch.arange(6.0)}, "old.pth", _use_new_zipfile_serialization=False)
    with pytest.raises(CheckpointError, match=r"torch's format before 1\.6") as caught:
        load_states("old.pth")
    assert "torch.save(torch.load(path, weights_only=True), 'new.pt')" in caught.value.hint
    torch.save(torch.load("old.pth", weights_only=True), "new.pt")
    (found,) = load_states("new.pt").values()
    assert found["a"].tolist() == [0, 1, 2, 3, 4, 5]


@pytest.mark.parametrize(
    ("content", "kind", "found"),
    [
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:12\n", "git-lfs", "a Git LFS pointer"),
        (b"<!DOCTYPE html><html>", "html", "a web page"),
        (b"\x89HDF\r\n\x1a\n" + bytes(20), "hdf5", "a file of another type: hdf5"),
        (bytes(512) + b"\x89HDF\r\n\x1a\n", "hdf5", "a file of another type: hdf5"),
        (b"hello", "unknown", "a file of another type: unknown"),
        ("hell\u00f6".encode()[:-1], "unknown", "a file of another type: unknown"),
        (b"", "empty", "a file of another type: empty"),
        (b"\x00\x01\x02\xff", "unknown", "a file of another type: unknown"),
    ],
)
def test_what_is_not_a_checkpoint_is_named(content: bytes, kind: str, found: str) -> None:
    Path("m.pth").write_bytes(content)
    assert kind_of(Path("m.pth")) == kind
    with pytest.raises(CheckpointError) as caught:
        load_states("m.pth")
    assert caught.value.found.startswith(found)
    assert caught.value.where == "m.pth"


def test_what_holds_no_weights_is_named() -> None:
    torch.save({"epoch": 3, "options": argparse.Namespace(a=1)}, "m.pt")
    with pytest.raises(CheckpointError) as caught:
        load_states("m.pt")
    assert caught.value.found == "holds a dict of epoch, options"
    torch.save(argparse.Namespace(a=1), "m.pt")
    with pytest.raises(CheckpointError, match=r"holds an object of argparse\.Namespace"):
        load_states("m.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.jit.save(torch.jit.script(nn.Linear(2, 2)), "m.pt")
    with pytest.raises(CheckpointError, match=r"holds an object of __torch__\."):
        load_states("m.pt")
    exported = torch.export.export(nn.Linear(2, 2), (torch.rand(1, 2),))
    torch.export.save(exported, "m.pt2")
    with pytest.raises(CheckpointError, match=r"not from torch\.save"):
        load_states("m.pt2")
    with pytest.raises(UsageError, match="found an OrderedDict"):
        Source.from_module(nn.Linear(2, 2).state_dict(), SHAPE)  # type: ignore[arg-type]
    assert kind_of(Path("absent.pt")) is None
    os.mkfifo("pipe.pt")
    assert kind_of(Path("pipe.pt")) is None
    with pytest.raises(CheckpointError, match="cannot be read"):
        load_states("absent.pt")


# The header's length as the signature of a pickle, a zip archive, gzip, and an ONNX file.
@pytest.mark.parametrize("length", [0x280, 0x4B50, 0x8B1F, 0x1208])
def test_the_length_of_a_header_is_no_signature(tmp_path: Path, length: int) -> None:
    path = tmp_path / "model.safetensors"
    header = b'{"w":{"dtype":"F32","shape":[1],"data_offsets":[0,4]}}'.ljust(length)
    path.write_bytes(length.to_bytes(8, "little") + header + bytes(4))
    assert kind_of(path) == "safetensors"
    (state,) = load_states(path).values()
    assert state["w"].tolist() == [0.0]
