"""The Python API as used in a notebook: every cell of tests/notebooks, in order and in one namespace."""

from __future__ import annotations

import copy
import re
import subprocess
import sys
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from support.modules import Of
from support.networks import random_network
from torch import Tensor, nn

import loihi_convert as lc
from loihi_convert.cnn.checkpoint import Checkpoint, load_model, save
from loihi_convert.cnn.models import build_model
from loihi_convert.cnn.recipe import Recipe
from loihi_convert.data.dataset import in_turns
from loihi_convert.errors import DataError, InputError, UsageError
from loihi_convert.metrics.advice import verdict
from loihi_convert.pipeline.opening import doubt, open_cnn
from loihi_convert.pipeline.options import CnnOptions, DataRequest, NetworkFile

CELLS = (Path(__file__).parent / "notebooks/own_cnn.py").read_text().split("# %% ")[1:]


@pytest.mark.slow
def test_every_cell_of_the_notebook_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    namespace: dict[str, object] = {"__name__": "__main__"}
    for cell in CELLS:
        exec(compile(f"# {cell}", f"cell {cell.splitlines()[0]}", "exec"), namespace)
    assert len(CELLS) == 25


def test_importing_the_package_imports_nothing_heavy() -> None:
    program = "import sys, loihi_convert; print(*({'torch', 'numpy', 'h5py', 'pydantic'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == ""


def test_every_public_name_is_there() -> None:
    assert lc.__all__ == sorted(lc.__all__)
    for name in lc.__all__:
        assert getattr(lc, name) is not None
    with pytest.raises(AttributeError, match="no_such_name"):
        _ = lc.no_such_name


def test_no_public_function_is_called_like_a_module() -> None:
    root = Path(lc.__file__).parent
    modules = {path.stem for path in root.rglob("*.py")} | {path.name for path in root.rglob("*") if path.is_dir()}
    assert {name for name in lc.__all__ if name in modules} == set()


IMAGES = np.zeros((4, 6, 6), np.uint8)
OF_DIGITS: dict[str, Any] = {
    "data": "digits",
    "input_shape": (1, 8, 8),
    "classes": tuple("0123456789"),
    "seed": 0,
    "validation_accuracy": 0.1,
    "test_accuracy": 0.1,
    "recipe": {},
}
MODULE = nn.Sequential(nn.Conv2d(1, 2, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
FORTY = np.zeros((40, 6, 6), np.uint8), np.arange(40) % 2
RELU = lc.to_relu_network(MODULE, (1, 6, 6))


@pytest.mark.parametrize(
    ("mistake", "where"),
    [
        (lambda snn, images: snn.check(target="loihi3"), "target"),
        (lambda snn, images: snn.run(images, timesteps=[1, 2]), "timesteps"),
        (lambda snn, images: snn.run(images, timesteps=2.0), "timesteps"),
        (lambda snn, images: snn.run(images, device="gpu"), "device"),
        *(
            (lambda snn, images, given=given: lc.convert(MODULE, IMAGES, timesteps=given), "timesteps")
            for given in (0, -1, 2.5, "8", None, [1, 4], True, 2**21)
        ),
        (lambda snn, images: lc.convert(MODULE, IMAGES, mean="a", std=1), "mean"),
        (lambda snn, images: lc.convert(MODULE, IMAGES, mean=0.5), "std"),
        (lambda snn, images: lc.convert(MODULE, IMAGES, arch="nets:make"), "arch"),
        (lambda snn, images: lc.convert(5, IMAGES), "model"),
        (lambda snn, images: lc.convert("m.pt", IMAGES, arch=MODULE), "arch"),
        (lambda snn, images: lc.convert("m.pt", IMAGES, arch=lambda: MODULE), "arch"),
        (lambda snn, images: lc.convert(MODULE, IMAGES, expect="0.9"), "expect"),
        (lambda snn, images: lc.BalanceOptions(bias_correction="no"), "bias_correction"),
        (lambda snn, images: lc.BalanceOptions(alpha=True), "alpha"),
        (lambda snn, images: lc.QuantizeOptions(split_readout="no"), "split_readout"),
        # Before a warning about the CNN, which is right about half of these images.
        (lambda snn, images: lc.convert(MODULE, *FORTY, skip_copies="2"), "skip_copies"),
        (lambda snn, images: lc.convert(MODULE, "digits.npz"), "images"),
        (lambda snn, images: lc.convert(MODULE, lc.load_data("digits")), "images"),
        (lambda snn, images: snn.check(chips="2"), "chips"),
        (lambda snn, images: lc.to_relu_network("m.pt", (1, 6, 6)), "model"),
        (lambda snn, images: lc.to_relu_network(MODULE, (1, 6, 6), mean=0.5), "std"),
        (lambda snn, images: lc.to_relu_network(MODULE, (1, 6, 6), skip_copies=0), "skip_copies"),
        (lambda snn, images: lc.balance(MODULE, IMAGES[:, None], 4), "network"),
        (lambda snn, images: lc.balance(RELU, IMAGES[:, None], 0), "timesteps"),
        (lambda snn, images: lc.balance(RELU, IMAGES[:, None], 4.5), "timesteps"),
        (lambda snn, images: lc.balance(RELU, IMAGES[:, None], 4, "percentile"), "options"),
        (lambda snn, images: lc.balance(RELU, torch.zeros((4, 1, 6, 6), dtype=torch.uint8), 4), "calibration images"),
        (lambda snn, images: lc.quantize(RELU, IMAGES[:, None]), "network"),
        (lambda snn, images: lc.quantize(lc.balance(RELU, IMAGES[:, None], 2), IMAGES[:, None], "loihi2"), "options"),
        (lambda snn, images: lc.write(snn, "m.net"), "network"),
        (lambda snn, images: lc.fine_tune(MODULE, *FORTY, recipe="worst", qcfs_levels=2), "recipe"),
        (lambda snn, images: lc.fine_tune("m.pt", IMAGES, qcfs_levels=2), "model"),
        (lambda snn, images: lc.fine_tune(MODULE, *FORTY, timesteps=2), "model"),
        (lambda snn, images: lc.fine_tune(MODULE, IMAGES, qcfs_levels=2, resume=True), "resume"),
        (lambda snn, images: lc.train_cnn(IMAGES, "m.pt"), "splits"),
        (lambda snn, images: lc.load_data(IMAGES), "data"),
        (lambda snn, images: lc.TrainOptions(epochs="3"), "epochs"),
        (lambda snn, images: lc.TrainOptions(seed=None), "seed"),
        *(
            (
                lambda snn, images, given=given: Recipe(
                    **{"epochs": 1, "batch_size": 1, "learning_rate": 0.1, **given}
                ),
                name,
            )
            for given in ({"weight_decay": None}, {"learning_rate": "x"}, {"rotation": [3]}, {"dropout": True})
            for name in given
        ),
        (lambda snn, images: lc.load(None), "path"),
        (lambda snn, images: snn.save(None), "path"),
        (lambda snn, images: lc.train_cnn(lc.load_data("digits"), None), "output"),
        (lambda snn, images: lc.fine_tune(MODULE, *FORTY, qcfs_levels=2, output=5), "output"),
    ],
)
def test_a_mistake_is_told_by_its_parameter(mistake: Callable[..., object], where: str) -> None:
    network, images = random_network(3, image_count=3)
    with pytest.raises(lc.LoihiConvertError) as raised:
        mistake(lc.Converted(network), images)
    assert raised.value.where == where


def test_a_network_in_memory_is_checked_under_no_files_name() -> None:
    network, _ = random_network(3)
    assert lc.Converted(network).check().verdict.startswith("the network: can be used on Lava on a CPU")


def test_a_checkpoint_is_shown_in_one_line() -> None:
    shown = repr(Checkpoint("digits-cnn", dict(build_model("digits-cnn", (1, 8, 8), 10).state_dict()), **OF_DIGITS))
    assert shown == "Checkpoint(digits-cnn on digits, seed 0: validation accuracy 10.00 %, test accuracy 10.00 %)"


def test_the_images_that_chose_the_thresholds_are_noted(tmp_path: Path) -> None:
    images, others = np.split(np.random.default_rng(0).integers(0, 256, (206, 6, 6)).astype(np.uint8), [6])
    snn = lc.convert(MODULE, images, timesteps=2)
    assert "was calibrated on these images" in snn.run(images / 255).notes[0]
    for ran, count in (
        (images[::-1], "6 of these 6 images"),
        (images[:5], "5 of these 5 images"),
        # 3 of 203 are more than 1 %, 2 of 202 are not.
        (np.concatenate([others, images[:3]]), "3 of these 203 images"),
        (np.concatenate([others, images[:2]]), ""),
    ):
        notes = [note for note in snn.run(ran).notes if "calibrated" in note]
        others_may = "other images may have a lower accuracy"
        assert notes == [f"the network was calibrated on {count}: {others_may}"] * bool(count)
    # A file records only the fingerprint of all of them.
    loaded = lc.load(snn.save(tmp_path / "model.net"))
    for ran, is_noted in ((images, True), (images[::-1], False)):
        assert any("calibrated" in note for note in loaded.run(ran).notes) == is_noted
    # The CNN may have been trained on these, too.
    for count, is_warned in ((6, True), (5, False)):
        notes = snn.diagnose(images[:count]).notes
        assert any("did not train this CNN" in note for note in notes) == is_warned


# The CNN is not trained.
@pytest.mark.filterwarnings("ignore:the CNN classifies")
def test_thresholds_are_chosen_on_images_of_all_classes() -> None:
    images, labels = np.random.default_rng(0).integers(0, 256, (60, 6, 6)).astype(np.uint8), np.arange(60) // 30
    order = in_turns(labels)
    snn, mixed = (lc.convert(MODULE, images[rows], labels[rows], timesteps=2) for rows in (slice(None), order))
    for ours, theirs in zip(snn.network.layers[:-1], mixed.network.layers, strict=False):
        assert ours.threshold is not None
        assert theirs.threshold is not None
        assert ours.threshold.tolist() == theirs.threshold.tolist()
    assert "was calibrated on these images" in snn.run(images).notes[0]


@pytest.mark.parametrize("name", ["snn.pt", "snn.ONNX", "snn.nir"])
def test_a_file_is_not_saved_under_the_name_of_another_kind(name: str, tmp_path: Path) -> None:
    snn = lc.convert(MODULE, IMAGES, timesteps=2)
    with pytest.raises(UsageError) as caught:
        snn.save(tmp_path / name)
    assert caught.value.where == "path"
    assert caught.value.found.startswith(f"found {name}")
    assert not (tmp_path / name).exists()


def test_a_file_of_a_module_is_compared_by_its_weights(tmp_path: Path) -> None:
    snn = lc.convert(MODULE, IMAGES, timesteps=2)
    file = snn.save(tmp_path / "memory.net")
    torch.save(MODULE.state_dict(), tmp_path / "same.pt")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        same = lc.load(file, model=tmp_path / "same.pt", arch=f"{__name__}:MODULE")
    torch.save({name: tensor + 1 for name, tensor in MODULE.state_dict().items()}, tmp_path / "other.pt")
    with pytest.warns(UserWarning, match="was not made from this CNN"):
        lc.load(file, model=tmp_path / "other.pt", arch=f"{__name__}:MODULE")
    assert same.source is not None
    unknown = replace(snn.network, provenance=snn.network.provenance.with_parts(model={}))
    assert "cannot be checked" in doubt(unknown, same.source)


def test_a_file_of_a_module_takes_its_module_again(tmp_path: Path) -> None:
    images = np.random.default_rng(0).integers(0, 256, (20, 6, 6), np.uint8)
    snn = lc.convert(MODULE, images, timesteps=32, mean=0.1, std=0.5)
    file = snn.save(tmp_path / "memory.net")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = lc.load(file, model=MODULE)
    labels = np.zeros(20, np.int64)
    assert again.run(images, labels).cnn_accuracy == snn.run(images, labels).cnn_accuracy
    assert again.diagnose(images, labels).doubt == ""
    other = copy.deepcopy(MODULE)
    with torch.no_grad():
        other[0].bias += 1
    with pytest.warns(UserWarning, match="was not made from this CNN as it is now"):
        lc.load(file, model=other)
    with pytest.raises(UsageError, match="given with a module"):
        lc.load(file, model=MODULE, arch="nets:make")


def test_a_conversion_that_loses_much_warns() -> None:
    images = np.random.default_rng(0).integers(0, 256, (100, 6, 6), np.uint8)
    torch.manual_seed(0)
    sharp = nn.Sequential(nn.Flatten(), nn.Linear(36, 40), nn.ReLU(), nn.Linear(40, 10, bias=False))
    with pytest.warns(UserWarning, match="the quantized network only agrees with the CNN on "):
        snn = lc.convert(
            sharp, images, timesteps=1, balancing=lc.BalanceOptions("percentile", initial_potential="zero")
        )
    assert re.search(r"; agrees with the CNN on \d+\.\d\d % of 50 calibration images\)", repr(snn))


def test_labels_of_a_loader_that_cannot_be_used_are_named() -> None:
    pairs = [(image[np.newaxis], label) for image, label in zip(*FORTY, strict=True)]
    loader = torch.utils.data.DataLoader([(torch.from_numpy(image), float(label)) for image, label in pairs])
    with pytest.warns(UserWarning, match="the labels in `images` are left out: found float64"):
        lc.convert(MODULE, loader, timesteps=2)


@pytest.mark.parametrize("classes", ["ab", ["a", "a"]])
def test_class_names_are_different_texts(classes: Any) -> None:
    with pytest.raises(UsageError) as raised:
        lc.convert(MODULE, IMAGES, timesteps=2, classes=classes)
    assert raised.value.where == "classes"


def test_a_backend_that_is_missing_is_told_before_the_run(monkeypatch: pytest.MonkeyPatch) -> None:
    network, images = random_network(3, image_count=3)
    monkeypatch.setattr("loihi_convert.face.run_network", None)
    with pytest.raises(UsageError) as raised:
        lc.Converted(network).run(images, backend="lava")  # type: ignore[arg-type]
    assert raised.value.where == "backend"


def test_a_table_is_printed_as_in_a_terminal() -> None:
    lines = str(lc.Converted(random_network(3, image_count=3)[0]).table()).splitlines()
    assert lines[2].lstrip().startswith("layer ")
    assert not any(line.endswith(" ") for line in lines)


def test_a_percentile_that_looks_like_a_fraction_is_noted() -> None:
    for percentile, is_noted in ((0.99, True), (99, False)):
        balancing = lc.BalanceOptions(method="percentile", percentile=percentile)
        notes = lc.convert(MODULE, IMAGES, timesteps=2, balancing=balancing).notes
        assert any("in percent" in note for note in notes) == is_noted


# Few steps and bits, and random weights.
@pytest.mark.filterwarnings("ignore:the quantized network only agrees")
def test_numpys_numbers_are_numbers() -> None:
    balancing = lc.BalanceOptions(method="percentile", percentile=np.float32(99), alpha=np.float64(0.5))
    assert (type(balancing.percentile), type(balancing.alpha)) == (float, float)
    snn = lc.convert(
        MODULE, IMAGES, timesteps=np.int64(2), balancing=balancing, quantization=lc.QuantizeOptions(np.int64(4))
    )
    for timesteps in np.array([1, 2]):
        assert snn.run(IMAGES, timesteps=timesteps).run.potentials.shape[1] == timesteps
    digits = lc.load_data("digits")
    assert np.array_equal(digits.calibration_images(7), digits.calibration_images("7"))


def test_another_cnn_than_that_of_the_file_is_said(tmp_path: Path) -> None:
    digits = lc.load_data("digits").calibration
    images, labels = digits.images[:100], digits.known_labels[:100]
    paths = [tmp_path / f"{seed}.pt" for seed in (0, 1)]
    for seed, path in enumerate(paths):
        torch.manual_seed(seed)
        save(Checkpoint("digits-cnn", dict(build_model("digits-cnn", (1, 8, 8), 10).state_dict()), **OF_DIGITS), path)
    with pytest.warns(UserWarning, match="worse than|classifies"):
        file = lc.convert(paths[0], images, labels, timesteps=2).save(tmp_path / "model.net")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert lc.load(file, model=paths[0]).notes == ()
    module, _ = load_model(paths[0])
    with pytest.warns(UserWarning, match=r"records only its checkpoint, so pass the path of 0\.pt as `model` to check"):
        lc.load(file, model=module)
    with pytest.warns(UserWarning, match=r"model\.net: The file was not made from this CNN"):
        other = lc.load(file, model=paths[1])
    (note,) = other.notes
    assert "was not made from this CNN" in note
    found = other.diagnose(images, labels)
    assert note.startswith(found.doubt)
    assert found.advice == (
        "Diagnose the file with the CNN that it was made from: no advice on its options can be drawn from another one.",
    )
    assert found.verdict == f"{note.replace('as conversion loss', 'as loss')}. {verdict(found.diagnosis)}"
    assert any("the CNN classifies" in each for each in found.notes)


def test_a_checkpoint_of_train_has_its_normalization(tmp_path: Path) -> None:
    state = dict(build_model("digits-cnn", (1, 8, 8), 10).state_dict())
    save(Checkpoint("digits-cnn", state, **OF_DIGITS), tmp_path / "model.pt")
    with pytest.raises(UsageError) as caught:
        lc.convert(tmp_path / "model.pt", np.zeros((4, 8, 8), np.uint8), mean=0.1307, std=0.3081)
    assert (caught.value.where, caught.value.expected) == ("mean", "the checkpoint was trained with no normalization")


def test_a_train_that_returns_nothing_is_accepted() -> None:
    class Frozen(nn.Sequential):
        def train(self, mode: bool = True) -> None:  # type: ignore[override]
            super().train(mode)

    snn = lc.convert(Frozen(*MODULE), IMAGES, timesteps=1)
    assert snn.run(IMAGES).agreement_with_cnn is not None


def test_signals_are_loaded_as_signals(tmp_path: Path) -> None:
    np.savez(tmp_path / "signals.npz", images=np.zeros((5, 3, 64), np.uint8))
    assert lc.load_data(tmp_path / "signals.npz", input_shape=(3, 64)).input_shape == (3, 1, 64)


@pytest.mark.lava
def test_notes_say_what_was_read_from_the_cnn() -> None:
    images = np.random.default_rng(0).integers(0, 256, (8, 6, 6)).astype(np.uint8)
    snn = lc.convert(nn.Sequential(MODULE, nn.Softmax(1)), images, timesteps=2)
    assert snn.notes[0] == "1: the Softmax at the end is dropped; it does not change the argmax."


def test_a_run_on_lava_says_whether_it_equals_ref() -> None:
    network, images = random_network(3, image_count=3)
    result = lc.Converted(network).run(images, backend="sim", timesteps=2)
    reference = lc.Converted(network).run(images, timesteps=2)
    assert result.equals_reference is True
    assert np.array_equal(result.run.potentials, reference.run.potentials)
    for found, expected in zip(result.run.channel_spikes, reference.run.channel_spikes, strict=True):
        assert np.array_equal(found, expected)


def _dense_cnn(pixels: np.ndarray[Any, np.dtype[np.uint8]]) -> nn.Sequential:
    """A CNN that begins with a dense layer, and gives every class to some of ``pixels``, in their own order."""
    torch.manual_seed(0)
    cnn = nn.Sequential(nn.Flatten(), nn.Linear(96, 16), nn.ReLU(), nn.Linear(16, 3))
    with torch.no_grad():
        cnn[3].bias -= cnn(torch.tensor(pixels / 255, dtype=torch.float32)).mean(0)
    return cnn


def test_a_dense_cnn_takes_axes_only_in_the_order_that_is_stated(tmp_path: Path) -> None:
    """It would accept (4, 6, 4), and (6, 4, 4) as well: pixels in another order, and other classes."""
    pixels = np.random.default_rng(0).integers(0, 256, (64, 6, 4, 4), np.uint8)
    labels = np.arange(64) % 3
    cnn = _dense_cnn(pixels)
    loader = [(image, label) for image, label in zip(pixels, labels, strict=True)]
    np.savez(tmp_path / "own.npz", images=pixels, labels=labels)
    for images in (pixels, (pixels, labels), loader):
        with pytest.raises(DataError) as raised:
            lc.convert(cnn, images, timesteps=8)
        assert raised.value.where == "images"
        assert all(shape in raised.value.hint for shape in ("6,4,4", "4,6,4"))
    with pytest.raises(DataError):
        lc.load_data(tmp_path / "own.npz")
    with pytest.raises(DataError):
        lc.fine_tune(cnn, pixels, labels, qcfs_levels=4)
    expected = cnn(torch.tensor(pixels / 255, dtype=torch.float32)).argmax(1).numpy()
    snn = lc.convert(cnn, pixels, timesteps=64, input_shape=(6, 4, 4))
    assert (snn.run(pixels).predictions == expected).mean() > 0.8
    moved = lc.convert(cnn, pixels, timesteps=64, input_shape=(4, 6, 4))
    assert (moved.run(pixels).predictions == expected).mean() < 0.6


def test_commands_ask_for_the_order_of_axes_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (64, 6, 4, 4), np.uint8)
    layers = "nn.Flatten(), nn.Linear(96, 16), nn.ReLU(), nn.Linear(16, 3)"
    (tmp_path / "dense_nets.py").write_text(f"from torch import nn\ndef make(): return nn.Sequential({layers})\n")
    monkeypatch.syspath_prepend(tmp_path)
    torch.save(_dense_cnn(pixels).state_dict(), tmp_path / "dense.pt")
    np.savez(tmp_path / "own.npz", images=pixels)
    np.savez(tmp_path / "labelled.npz", images=pixels, labels=np.arange(64) % 3)
    own = DataRequest(str(tmp_path / "own.npz"))
    with pytest.raises(DataError) as raised:
        open_cnn(NetworkFile(tmp_path / "dense.pt", CnnOptions("dense_nets:make"), own))
    assert all(shape in raised.value.hint for shape in ("6,4,4", "4,6,4"))
    for shape in ((6, 4, 4), (4, 6, 4)):
        source, splits = open_cnn(
            NetworkFile(tmp_path / "dense.pt", CnnOptions("dense_nets:make", input_shape=shape), own)
        )
        assert source.network.input_shape == splits.input_shape == shape


def _refuse(message: str) -> Tensor:
    raise ValueError(message)


@pytest.mark.parametrize(
    "forward",
    [
        lambda m, x: m.fc((x + torch.zeros(1, device="cuda")).flatten(1)),
        lambda m, x: m.two(m.fc(x.flatten(1))),
        lambda m, x: m.fc(dict(x)["input"].flatten(1)),
        lambda m, x: m.fc(x["input"].flatten(1)),
        lambda m, x: _refuse("Input height (8) doesn't match model (32)."),
        lambda m, x: _refuse("expected 32x32 input"),
    ],
)
def test_a_forward_that_fails_is_told_what_it_is_called_with(forward: Callable[[Any, Tensor], Tensor]) -> None:
    class Two(nn.Module):
        def forward(self, x: Tensor, y: Tensor) -> Tensor:
            return x + y

    model = Of(forward, fc=nn.Linear(64, 2), two=Two())
    with pytest.raises(InputError) as raised:
        lc.convert(model, np.zeros((8, 1, 8, 8), np.uint8), timesteps=2)
    assert "images alone" in raised.value.hint


def test_the_order_of_axes_is_not_guessed() -> None:
    narrow = np.random.default_rng(0).integers(0, 256, (32, 8, 6, 4), np.uint8)
    cnn = nn.Sequential(nn.Conv2d(8, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(32, 2))
    with pytest.raises(DataError) as raised:
        lc.convert(cnn, narrow, timesteps=8)
    assert all(shape in raised.value.hint for shape in ("8,6,4", "4,8,6"))
    assert lc.convert(cnn, narrow, timesteps=8, input_shape=(8, 6, 4)).network.input_shape == (8, 6, 4)
