"""A plain state dict with the user's own code: loading, records in the file, one sentence for every mistake."""

from __future__ import annotations

import sys
import warnings
from collections import OrderedDict
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from support.modules import Of, outputs
from torch import Tensor, nn
from torch.nn.utils import prune

from loihi_convert import convert
from loihi_convert.cnn.checkpoint import Checkpoint, digest, save
from loihi_convert.cnn.models import build_model
from loihi_convert.errors import (
    CheckpointError,
    DataError,
    InputError,
    LoihiConvertError,
    UnsupportedModelError,
    UsageError,
)
from loihi_convert.ground.arrays import Shape
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ir.provenance import ModelRecord
from loihi_convert.lowering import obstacles, to_relu_network
from loihi_convert.pipeline.converting import require_same_outputs
from loihi_convert.pipeline.options import CnnOptions
from loihi_convert.reading.source import Source, open_source, reopen_source
from loihi_convert.reading.users_code import build_cnn, shape_taken
from loihi_convert.simulation.relu import cnn_scores, relu_outputs

SHAPE = (1, 4, 4)
NETS = """
import torch
from torch import nn
from torch.nn import Conv2d

print("a greeting of the user's module")

class Net(nn.Sequential):
    def __init__(self, classes=3):
        super().__init__(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, classes))

class Wide(Net):
    def __init__(self, channels, classes):
        super().__init__(classes)

class Lazy(nn.Sequential):
    def __init__(self):
        super().__init__(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.LazyLinear(3))

def make():
    return nn.DataParallel(Net())

def scripted():
    return torch.jit.script(Net())

def number():
    return 3

def broken():
    raise KeyError("depth")

instance = Net()
constant = 7
"""


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The current folder, which contains the user's module ``nets``."""
    (tmp_path / "nets.py").write_text(NETS)
    monkeypatch.chdir(tmp_path)
    before = list(sys.path)
    yield tmp_path
    assert sys.path == before
    for name in ("nets", "failing", "syntax"):
        sys.modules.pop(name, None)


def net() -> nn.Sequential:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 2, 3), nn.BatchNorm2d(2), nn.ReLU(), nn.Flatten(), nn.Linear(8, 3))
    for tensor in (model[1].running_mean, model[1].weight, model[1].bias):
        tensor.data.normal_()
    return model.eval()


def saved(content: object, name: str = "user.pt") -> Path:
    torch.save(content, name)
    return Path(name)


HALVED = Normalization((0.5,), (0.25,))


def opened(path: Path, arch: str = "nets:Net", **options: object) -> Source:
    return open_source(path, arch=arch, input_shape=SHAPE, **options)  # type: ignore[arg-type]


def assert_is(source: Source, model: nn.Module, tolerance: float = 1e-4) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (5, *SHAPE)).astype(np.uint8)
    found = torch.cat([outputs[-1] for outputs in relu_outputs(source.network, pixels)])
    torch.testing.assert_close(found, model(torch.from_numpy(pixels).float() / 255).detach(), rtol=0, atol=tolerance)


# Older versions of torch warn that lazy modules are new.
@pytest.mark.filterwarnings("ignore:Lazy modules are a new feature:UserWarning")
@pytest.mark.parametrize("arch", ["nets:Net", "nets:make", "nets:instance", "nets:Lazy"])
def test_a_class_or_function_builds_the_cnn(arch: str, capsys: pytest.CaptureFixture[str]) -> None:
    source = opened(saved(net().state_dict()), arch)
    assert_is(source, net())
    assert not source.model.training
    assert not any(parameter.requires_grad for parameter in source.model.parameters())
    # Output printed by the user's code does not mix with results.
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize("key", ["state_dict", "model_state_dict", "model"])
def test_a_state_dict_inside_a_training_checkpoint(key: str) -> None:
    optimizer = torch.optim.Adam(net().parameters())
    path = saved({"epoch": 3, key: net().state_dict(), "optimizer": optimizer.state_dict()})
    assert_is(opened(path), net())


def test_of_several_state_dicts_the_one_with_the_right_shapes() -> None:
    wide = {name: torch.cat([tensor] * 2) if tensor.ndim else tensor for name, tensor in net().state_dict().items()}
    source = opened(saved({"teacher": wide, "student": net().state_dict()}))
    assert_is(source, net())
    assert source.notes == ()


class Talks(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(16, 3)

    def forward(self, x: Tensor) -> Tensor:
        print("a line of the user's forward")
        return self.fc(x.flatten(1))


def test_what_the_users_code_prints_is_not_output(capsys: pytest.CaptureFixture[str]) -> None:
    source = Source.from_module(Talks(), SHAPE)
    source.module_outputs(np.zeros((2, *SHAPE), np.uint8))
    out, err = capsys.readouterr()
    assert out == ""
    assert "a line of the user's forward" in err


LOADS = """
from torch import nn

class Cnn(nn.Sequential):
    def load_state_dict(self, state, strict=True):
        print("a line of the user's load_state_dict")
        if self.fails:
            raise KeyError("what the user's code expects")
        return super().load_state_dict(state, strict=strict)

def make(fails):
    cnn = Cnn(nn.Flatten(), nn.Linear(64, 3))
    cnn.fails = fails
    return cnn
"""


def test_the_users_own_loading_of_weights(capsys: pytest.CaptureFixture[str]) -> None:
    Path("loads.py").write_text(LOADS)
    path = saved(nn.Sequential(nn.Flatten(), nn.Linear(64, 3)).state_dict())
    open_source(path, arch="loads:make(fails=0)", input_shape=(1, 8, 8))
    out, err = capsys.readouterr()
    assert (out, "load_state_dict" in err) == ("", True)
    with pytest.raises(UsageError, match="loading its weights fails: KeyError") as caught:
        open_source(path, arch="loads:make(fails=1)", input_shape=(1, 8, 8))
    assert caught.value.where == "arch"


def test_safetensors() -> None:
    safetensors.torch.save_file(net().state_dict(), "user.safetensors")
    assert_is(opened(Path("user.safetensors")), net())


@pytest.mark.parametrize("prefix", ["module.", "_orig_mod.", "module._orig_mod.", "_orig_mod.module."])
def test_prefixes_of_wrappers_are_dropped_with_a_note(prefix: str) -> None:
    source = opened(saved(OrderedDict((prefix + name, tensor) for name, tensor in net().state_dict().items())))
    assert_is(source, net())
    assert all(note.startswith(("user.pt: dropped ", "user.pt: the CNN is the part ")) for note in source.notes)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float16, 5e-3), (torch.bfloat16, 5e-2), (torch.float64, 1e-4)])
def test_other_floating_point_is_taken_as_float32(dtype: torch.dtype, tolerance: float) -> None:
    source = opened(saved(net().to(dtype).state_dict()))
    assert_is(source, net(), tolerance)
    assert source.notes == (f"user.pt: {str(dtype)[6:]} tensors are converted to float32.",)


def changed(**tensors: Tensor) -> dict[str, Tensor]:
    """The state of `net`, with tensors of the last layer replaced."""
    return {**net().state_dict(), **{f"4.{name}": tensor for name, tensor in tensors.items()}}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (changed(extra=torch.ones(1)), "does not match nets:Net: 4.extra unknown to the CNN"),
        ({"fc.w": torch.ones(2)}, "0.bias, 0.weight, 1.bias, 1.running_mean and 4 more missing; fc.w unknown"),
        (changed(weight=torch.ones(5, 8)), r"does not match nets:Net: 4.weight has shape \(5, 8\), not \(3, 8\)"),
        (changed(weight=torch.ones(3, 8, dtype=torch.int8)), "does not match nets:Net: 4.weight is int8, not float32"),
        (changed(bias=torch.tensor([0, 1e300, 0], dtype=torch.float64)), "4.bias does not fit into float32"),
        (changed(bias=torch.tensor([0, float("nan"), 0])), "4.bias contains NaN or infinity"),
        ({"epoch": 3, "weights": {}}, "holds a dict of epoch, weights; .*Write it with torch.save"),
        ([1, 2], "holds a list;"),
    ],
)  # fmt: skip
def test_a_state_dict_that_does_not_fit(content: object, message: str) -> None:
    with pytest.raises(CheckpointError, match=rf"^user\.pt: .*{message}"):
        opened(saved(content))


def test_arguments_of_the_code_that_builds_the_cnn() -> None:
    path = saved(net().state_dict())
    for arch in ("nets:Net(3)", "nets:Net(classes=3)", "nets:Net()", "nets:Wide(None, classes=3)"):
        assert opened(path, arch).provenance["arch"] == arch
    with pytest.raises(CheckpointError, match=r"4.weight has shape \(3, 8\), not \(4, 8\)") as caught:
        opened(path, "nets:Net(4)")
    assert "arguments go in parentheses" in caught.value.hint


def test_a_network_of_torchvision() -> None:
    built = build_cnn("torchvision.models:squeezenet1_1")
    assert built.classifier[1].out_channels == 1000  # type: ignore[index, union-attr]
    built = build_cnn("torchvision.models:squeezenet1_1(num_classes=3)")
    assert built.classifier[1].out_channels == 3  # type: ignore[index, union-attr]


def test_the_counters_of_batch_norm_may_be_missing() -> None:
    state = net().state_dict()
    del state["1.num_batches_tracked"]
    assert_is(opened(saved(state)), net())


@pytest.mark.parametrize(
    ("arch", "message"),
    [
        ("nets", "arch: found 'nets'; must be package.module:factory"),
        ("./nets:Net", "must be package.module:factory, such as nets.small:make_cnn"),
        ("nets:Nett", "nets does not define Nett. Did you mean Net?"),
        ("nets:constant", "calling constant fails: TypeError"),
        ("nets:number", "number returns an int; must return a torch.nn.Module"),
        ("nets:Wide(3)", "calling Wide fails: TypeError: .*classes"),
        ("nets:Net(size=3)", "calling Net fails: TypeError: .*unexpected keyword argument 'size'"),
        ("nets:Net(print(1))", r"found the arguments \(print\(1\)\); must be numbers, strings"),
        ("nets:Net(1)(2)", r"found the arguments \(1\)\(2\); must be"),
        ("nets:Net(**{})", "found the arguments"),
        ("nets:Net(", "must be package.module:factory"),
        ("nets:broken", r"calling broken fails: KeyError: nets.py, line \d+, .*: 'depth'"),
        ("failing:Net", r"importing failing fails: .*failing.py, line 1, .*: No module named 'timmm'. Install timmm"),
        ("net:Net", "importing net fails: ModuleNotFoundError: No module named 'net'"),
        ("parser:Net", r"importing parser fails: SystemExit: parser.py, line 2, .*__main__"),
        ("weights:Net", r"importing weights fails: FileNotFoundError: weights.py, line 2"),
        ("syntax:Net", r"importing syntax fails: SyntaxError: .*\(syntax.py, line 2\)"),
        ("quits:make", r"calling make fails: SystemExit: quits.py, line 3.*It must not end the program"),
    ],
)  # fmt: skip
def test_an_arch_that_cannot_be_imported(folder: Path, arch: str, message: str) -> None:
    (folder / "failing.py").write_text("import timmm\n")
    (folder / "syntax.py").write_text("x = 1\ndef f(:\n")
    (folder / "quits.py").write_text("import sys\ndef make():\n    sys.exit(3)\n")
    (folder / "parser.py").write_text("import argparse\nargparse.ArgumentParser().parse_args(['--lr'])\n")
    (folder / "weights.py").write_text("import torch\ntorch.load('absent.pt')\n")
    with pytest.raises(UsageError, match=message) as caught:
        opened(saved(net().state_dict()), arch)
    assert "\n" not in str(caught.value)


def test_the_record_gives_the_same_cnn_again() -> None:
    path = saved(net().state_dict())
    source = opened(path, classes=("cat", "dog", "bird"), data="pets", normalization=Normalization((0.4,), (0.2,)))
    assert {key: source.provenance[key] for key in ("file", "arch", "data", "classes", "mean", "std")} == {
        "file": "user.pt", "arch": "nets:Net", "data": "pets", "classes": ["cat", "dog", "bird"],
        "mean": [0.4], "std": [0.2]
    }  # fmt: skip
    again = reopen_source(path, source.recorded, SHAPE, "nets:Net")
    for layer, other in zip(source.network.layers, again.network.layers, strict=True):
        assert np.array_equal(layer.synapse.weight, other.synapse.weight)
        assert np.array_equal(layer.synapse.bias, other.synapse.bias)
    # A name stored in a file is not imported unless the user gives it.
    with pytest.raises(CheckpointError, match=r"holds only weights.* Give the code that builds its CNN: `arch="):
        reopen_source(path, source.recorded, SHAPE)


def test_the_shape_of_a_signal_and_that_of_an_image_are_told_apart() -> None:
    maps, signals = nn.Conv2d(1, 4, 3), nn.Conv1d(2, 4, 3)
    assert shape_taken(signals, (2, 1, 16)) == (2, 16)
    for model, shape, found in (
        (maps, (8, 1, 8), "(8, 1, 8) or (8, 8)"),
        (nn.Linear(192, 2), (3, 8, 8), "(3, 8, 8)"),
        (signals, (3, 1, 8), "(3, 1, 8) or (3, 8)"),
    ):
        with pytest.raises(InputError) as caught:
            shape_taken(model, shape)
        assert f"images of shape {found}" in caught.value.found
        # It names no parameter: a CNN is also read with the shape in a netx file.
        assert "`" not in caught.value.hint


@pytest.mark.parametrize(
    ("model", "shape", "taken"),
    [
        (Of(lambda m, x: m.fc(x.transpose(1, 2).flatten(1)), fc=nn.Linear(24, 3)), (2, 1, 12), (2, 12)),
        # The same numbers either way.
        (nn.Sequential(nn.Flatten(), nn.Linear(24, 3)), (2, 1, 12), (2, 1, 12)),
        (nn.Sequential(nn.AvgPool2d((1, 2)), nn.Flatten(), nn.Linear(12, 3)), (2, 1, 12), (2, 1, 12)),
        # Two signals of two channels are, for a convolution of maps, one image.
        (nn.Sequential(nn.Conv2d(2, 2, 1), nn.AdaptiveAvgPool2d(1), nn.Flatten()), (2, 1, 12), (2, 1, 12)),
    ],
)
def test_a_model_that_takes_signals_and_maps_is_read_as_one_of_signals(
    model: nn.Module, shape: Shape, taken: Shape
) -> None:
    assert shape_taken(model.eval(), shape) == taken
    images = torch.rand(3, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected = model.double()(images.reshape(-1, *taken))
    for given in (shape, (shape[0], shape[2])):
        torch.testing.assert_close(outputs(to_relu_network(model, given), images), expected)


@pytest.mark.parametrize("shape", [(900, 4, 6), (900, 1, 6), (5, 1, 6), (1, 6, 900)])
def test_a_model_is_tried_with_a_few_images(shape: Shape) -> None:
    """Of any number of channels, rows and columns: as many images as channels took all memory."""
    counts = []

    def forward(m: nn.Module, x: torch.Tensor) -> torch.Tensor:
        counts.append(len(x))
        return m.fc(x)

    with pytest.raises(InputError):
        shape_taken(Of(forward, fc=nn.Linear(7, 2)), shape)
    assert 1 < min(counts) <= max(counts) <= 11
    # A Conv2d would take as many signals for one image.
    assert counts[0] != shape[0]


@pytest.mark.parametrize(
    ("model", "shape", "taken"),
    [
        # Spectrograms.
        (Of(lambda m, x: m.conv(x.unsqueeze(1)).relu().mean((2, 3)), conv=nn.Conv2d(1, 3, 3)), (1, 6, 5), (6, 5)),
        (Of(lambda m, x: m.conv(x).relu().mean(2), conv=nn.Conv1d(6, 3, 3)), (1, 6, 5), (6, 5)),
        (Of(lambda m, x: m.conv(x.unsqueeze(1)).relu().mean(2), conv=nn.Conv1d(1, 3, 3)), (1, 1, 30), (30,)),
        # Both are taken as an image, but give a map.
        (nn.Sequential(nn.Linear(30, 4), nn.ReLU(), nn.Linear(4, 3)), (1, 1, 30), (30,)),
        (nn.Sequential(nn.Linear(30, 4), nn.BatchNorm1d(4), nn.ReLU(), nn.Linear(4, 1)), (1, 1, 30), (30,)),
        (nn.Sequential(nn.Conv2d(1, 3, 3), nn.AdaptiveAvgPool2d(1)), (1, 6, 5), (1, 6, 5)),
    ],
)
def test_a_model_may_take_images_of_one_channel_without_its_axis(model: nn.Module, shape: Shape, taken: Shape) -> None:
    assert shape_taken(model.eval(), shape) == taken
    images = torch.rand(3, *shape, dtype=torch.float64)
    with torch.no_grad():
        expected = model.double()(images.reshape(-1, *taken)).reshape(3, -1)
    torch.testing.assert_close(outputs(to_relu_network(model, shape), images).reshape(3, -1), expected)
    pixels = np.random.default_rng(0).integers(0, 256, (3, *shape), dtype=np.uint8)
    source = Source.from_module(model.float(), shape)
    wanted = model(torch.from_numpy(pixels).reshape(-1, *taken) / 255).reshape(3, -1)
    torch.testing.assert_close(torch.from_numpy(source.module_outputs(pixels)), wanted.detach())


@pytest.mark.parametrize("shape", [8, (), (8,), (1, 1, 8, 8), (0, 8), ("1", 8, 8)])
def test_an_input_shape_that_is_none(shape: Any) -> None:
    model = nn.Sequential(nn.Flatten(), nn.Linear(64, 3))
    for read in (to_relu_network, obstacles, Source.from_module):
        with pytest.raises(UsageError) as caught:
            read(model, shape)
        assert (caught.value.where, caught.value.found) == ("input_shape", f"found {shape!r}")


def test_options_that_exclude_each_other() -> None:
    path = saved(net().state_dict())
    with pytest.raises(UsageError, match="does not record the image size; must be"):
        open_source(path, arch="nets:Net")
    with pytest.raises(UsageError, match=r"input_shape: found 8; must be \(C, H, W\)"):
        open_source(path, arch="nets:Net", input_shape=8)  # type: ignore[arg-type]
    with pytest.raises(UsageError, match="classes: found 10 names for 3 outputs"):
        opened(path, classes=tuple("0123456789"))
    assert opened(path).provenance["classes"] == ["0", "1", "2"]
    state = dict(build_model("digits-cnn", (1, 8, 8), 10).state_dict())
    ours = Checkpoint("digits-cnn", state, "digits", (1, 8, 8), tuple("0123456789"), 0, 0.9, 0.9, {})
    save(ours, Path("ours.pt"))
    with pytest.raises(UsageError, match=r"names its architecture.* Omit `arch`"):
        opened(Path("ours.pt"))
    with pytest.raises(UsageError, match=r"input_shape: found .* without `arch`"):
        open_source(Path("ours.pt"), input_shape=SHAPE)
    assert open_source(Path("ours.pt"), normalization=Normalization((0.5,), (1.0,))).provenance["mean"] == [0.5]
    with pytest.raises(DataError, match=r"images: found images of \(1, 9, 8\); must be \(1, 8, 8\)"):
        convert("ours.pt", np.zeros((4, 9, 8), np.uint8))


@pytest.mark.parametrize(("given", "missing"), [("mean", "std"), ("std", "mean")])
def test_mean_and_std_must_be_given_together(given: str, missing: str) -> None:
    for use in (
        lambda: convert(net(), np.zeros((2, *SHAPE), np.uint8), **{given: 0.5}),
        lambda: to_relu_network(net(), SHAPE, **{given: [0.5]}),
        lambda: CnnOptions(**{given: (0.5,)}),
    ):
        with pytest.raises(UsageError) as raised:
            use()
        assert raised.value.where == missing


def test_files_that_record_one_of_the_two_are_still_read() -> None:
    save(
        Checkpoint(
            "digits-cnn",
            dict(build_model("digits-cnn", (1, 8, 8), 10).state_dict()),
            "digits",
            (1, 8, 8),
            tuple("0123456789"),
            0,
            0.9,
            0.9,
            {},
        ),
        Path("ours.pt"),
    )
    for recorded, gain, shift in ((ModelRecord(mean=(0.5,)), 1, 0.5), (ModelRecord(std=(0.5,)), 2, 0)):
        plain, opened_again = (reopen_source(Path("ours.pt"), r, (1, 8, 8)).network for r in (ModelRecord(), recorded))
        weight, bias = plain.layers[0].synapse.weight, opened_again.layers[0].synapse.bias
        assert np.allclose(opened_again.layers[0].synapse.weight, gain * weight)
        assert bias is not None
        assert bias.ndim == 3 or not shift


class Compiled(nn.Module):
    """A wrapper like that of torch.compile, which itself takes seconds to import."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__()
        self._orig_mod = module


@pytest.mark.parametrize("wrap", [nn.DataParallel, Compiled, lambda model: nn.Sequential(Compiled(model))])
def test_a_compiled_module_is_lowered_like_what_it_compiles(wrap: Callable[[nn.Module], nn.Module]) -> None:
    model = wrap(net())
    names = [name for name, _ in model.named_modules()]
    (found, *_), (wanted, *_) = (to_relu_network(each, SHAPE).layers for each in (model, net()))
    assert np.array_equal(found.synapse.weight, wanted.synapse.weight)
    assert [name for name, _ in model.named_modules()] == names


@pytest.mark.parametrize("wrap", [lambda model: model, nn.DataParallel, Compiled])
def test_a_module_in_memory_is_copied(wrap: Callable[[nn.Module], nn.Module]) -> None:
    module = net().double().train()
    state = {name: tensor.clone() for name, tensor in module.state_dict().items()}
    source = Source.from_module(wrap(module), SHAPE, normalization=HALVED, classes=("a", "b", "c"), data="mine")
    assert module.training
    assert all(parameter.requires_grad for parameter in module.parameters())
    assert all(tensor.equal(state[name]) for name, tensor in module.state_dict().items())
    assert (source.path, source.model.training) == (None, False)
    assert {tensor.dtype for tensor in source.model.parameters()} == {torch.float32}
    described = {"data": "mine", "classes": ["a", "b", "c"], "mean": [0.5], "std": [0.25]}
    described["state_sha256"] = digest(source.model.state_dict())
    assert source.provenance == {**described, "multiply_accumulates": source.network.multiply_accumulates}
    expected = open_source(saved(module.state_dict()), arch="nets:Net", input_shape=SHAPE, normalization=HALVED)
    for found, wanted in zip(source.network.layers, expected.network.layers, strict=True):
        assert np.array_equal(found.synapse.weight, wanted.synapse.weight)


def on_gpus(module: nn.Module) -> nn.Module:
    """As DataParallel is on a machine with GPUs."""
    wrapped = nn.DataParallel(module)
    wrapped.device_ids, wrapped.src_device_obj = [0, 1], torch.device("cuda:0")
    return wrapped


@pytest.mark.parametrize("wrap", [nn.DataParallel, on_gpus, Compiled])
def test_parts_of_a_model_may_have_wrappers(wrap: Callable[[nn.Module], nn.Module]) -> None:
    part = wrap(net()[:3])
    model = nn.Sequential(part, *net()[3:])
    assert_is(Source.from_module(model, SHAPE), net())
    assert model[0] is part


def weight_normed() -> nn.Module:
    model = net()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        nn.utils.weight_norm(model[0])
    return model


def exported() -> nn.Module:
    before = list(sys.path)
    made = torch.export.export(net(), (torch.zeros(1, *SHAPE),)).module()
    # For this, torch 2.3 imports setuptools, which extends the path.
    sys.path[:] = before
    return made


def pruned() -> nn.Module:
    model = net()
    prune.l1_unstructured(model[0], "weight", 0.5)
    return model


@pytest.mark.parametrize("make", [weight_normed, pruned])
def test_weights_computed_from_parameters_are_copied(make: Callable[[], nn.Module]) -> None:
    model = make()
    model(torch.zeros(1, *SHAPE))
    source = Source.from_module(model, SHAPE)
    assert not any(parameter.requires_grad for parameter in source.model.parameters())
    require_same_outputs(source, np.random.default_rng(0).integers(0, 256, (4, *SHAPE)).astype(np.uint8))
    assert_is(source, model.eval())


class Ends(nn.Module):
    """A dense layer, then ``end``."""

    def __init__(self, end: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.fc, self.end = nn.Linear(16, 1), end

    def forward(self, x: Tensor) -> Tensor:
        return self.end(self.fc(x.flatten(1)))


@pytest.mark.parametrize(
    "end", [lambda y: y.squeeze(1), lambda y: y.view(-1), lambda y: y[:, 0] * 2 + 1, lambda y: y.squeeze().sigmoid()]
)
def test_a_single_output_may_be_a_number(end: Callable[[Tensor], Tensor]) -> None:
    source = Source.from_module(Ends(end), SHAPE)
    assert source.network.shapes == ((1,),)
    require_same_outputs(source, np.random.default_rng(0).integers(0, 256, (4, *SHAPE)).astype(np.uint8))


@pytest.mark.parametrize("ending", ["sigmoid", "tanh"])
def test_a_regression_keeps_its_numbers(ending: str) -> None:
    ended = Ends(getattr(torch, ending))
    assert Source.from_module(ended, SHAPE).network.ending == ending
    with pytest.raises(UnsupportedModelError, match=f"found a {ending} at the end of a regression"):
        Source.from_module(ended, SHAPE, task="regression")


# Newer versions of torch deprecate TorchScript, and what its own export uses.
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
@pytest.mark.parametrize("is_part", [False, True])
@pytest.mark.parametrize(
    ("make", "found"),
    [
        (lambda: torch.jit.script(net()), "TorchScript"),
        (lambda: torch.jit.trace(net(), torch.zeros(2, *SHAPE)), "TorchScript"),
        (exported, "torch.export"),
        (lambda: net().to("meta"), "meta device"),
    ],
)
def test_what_has_no_layers_or_weights_is_refused(make: Callable[[], nn.Module], found: str, is_part: bool) -> None:
    model = nn.Sequential(make()) if is_part else make()
    for read in (lambda: Source.from_module(model, SHAPE), lambda: to_relu_network(model, SHAPE)):
        with pytest.raises(UnsupportedModelError) as raised:
            read()
        assert found in raised.value.found
        assert raised.value.where.startswith("0") or not is_part
        assert raised.value.hint


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_an_arch_without_layers_is_refused() -> None:
    with pytest.raises(UnsupportedModelError) as raised:
        opened(saved(net().state_dict()), "nets:scripted")
    assert "TorchScript" in raised.value.found


class Uncopyable(nn.Sequential):
    def __deepcopy__(self, memo: object) -> nn.Module:
        raise RuntimeError("only one of me")


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("DefaultCPUAllocator: not enough memory: you tried to allocate 8 bytes."),
    ],
)
def test_a_full_memory_is_no_fault_of_the_module(error: Exception) -> None:
    class TooLarge(nn.Flatten):
        def __deepcopy__(self, memo: object) -> nn.Module:
            raise error

    with pytest.raises(type(error)) as raised:
        Source.from_module(TooLarge(), SHAPE)
    assert raised.value is error


@pytest.mark.parametrize(
    ("module", "options", "kind", "where", "found"),
    [
        ("nets:Net", {}, UsageError, "model", "a str"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), {"classes": ["a"]}, UsageError, "classes", "1 names for 3"),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), {"input_shape": (16,)}, UsageError, "input_shape", "(16,)"),
        *(
            (nn.Flatten(), {"input_shape": s}, UsageError, "input_shape", repr(s))
            for s in (5, None, "abc", (1, "4", 4))
        ),
        (nn.Sequential(nn.Flatten(), nn.Linear(16, 3)), {"classes": 3}, UsageError, "classes", "found 3"),
        (Uncopyable(nn.Flatten()), {}, UnsupportedModelError, "Uncopyable", "only one of me"),
        (nn.Sequential(nn.Flatten(), nn.LazyLinear(3)), {}, UnsupportedModelError, "Sequential", "uninitialized"),
        *(
            (
                nn.Flatten(),
                {"normalization": Normalization((mean,), (std,))},
                UsageError,
                "mean",
                f"found ({mean},), with a `std`",
            )
            for mean, std in ((127.5, 63.0), (123.675, 58.395), (128.0, 1.0))
        ),
    ],
)
def test_a_module_that_cannot_be_converted(
    module: Any, options: dict[str, Any], kind: type[LoihiConvertError], where: str, found: str
) -> None:
    with pytest.raises(kind) as raised:
        Source.from_module(module, **{"input_shape": SHAPE, **options})
    assert raised.value.where == where
    assert found in raised.value.found


@pytest.mark.parametrize(("low", "width"), [(-80.0, 60.0), (-0.8, 0.6), (-101.0, 3.0)])
def test_a_signal_below_zero_is_normalized(low: float, width: float) -> None:
    """A CNN that was trained on s in low..low + width takes x = (s - low) / width, of which s = (x - mean) / std."""
    first = nn.Linear(3, 2)
    network = to_relu_network(nn.Sequential(nn.Flatten(), first), (1, 1, 3), mean=[-low / width], std=[1 / width])
    # x = 0, 0.2 and 1.
    signal = torch.tensor([low, low + width / 5, low + width])
    found = cnn_scores(network, np.array([[[[0, 51, 255]]]], np.uint8))
    np.testing.assert_allclose(found[0], first(signal).detach().numpy(), rtol=1e-4)


def test_a_default_device_other_than_the_cpu_is_named() -> None:
    torch.set_default_device("meta")
    try:
        with pytest.raises(UsageError) as raised:
            Source.from_module(net(), SHAPE)
    finally:
        torch.set_default_device(None)
    assert (raised.value.where, raised.value.found) == ("torch's default device", "found meta")
