"""The CNN's own accuracy before conversion: the messages, and the detection of a missing normalization."""

from __future__ import annotations

import json
import signal
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import loihi_convert as lc
from loihi_convert.__main__ import main
from loihi_convert.data import Dataset, load_data
from loihi_convert.errors import DataError, UsageError
from loihi_convert.ground.choices import Task
from loihi_convert.ground.normalization import Normalization, channel_normalization
from loihi_convert.metrics.own_accuracy import OwnAccuracy, OwnFit, own_accuracy, unjudged
from loihi_convert.reading.source import Source

DIGITS = load_data("digits")
USUAL = ((0.3059,), (0.3763,))
KIND = "validation images of digits"


def classifier(mean: float = 0.0, std: float = 1.0, *, is_colour: bool = False) -> nn.Module:
    """Return a linear classifier, fitted by least squares to the digits as (pixel / 255 - mean) / std: 94 % of them."""
    images = coloured(DIGITS.train).images if is_colour else DIGITS.train.images
    pixels = (images.reshape(len(images), -1) / 255 - mean) / std
    inputs = np.column_stack([pixels, np.ones(len(pixels))])
    ridge = 0.1 * np.eye(inputs.shape[1])
    weight = np.linalg.solve(inputs.T @ inputs + ridge, inputs.T @ np.eye(10)[DIGITS.train.known_labels])
    model = nn.Sequential(nn.Flatten(), nn.Linear(len(weight) - 1, 10))
    model.load_state_dict({"1.weight": torch.from_numpy(weight[:-1].T), "1.bias": torch.from_numpy(weight[-1])})
    return model


def coloured(grey: Dataset) -> Dataset:
    """The same images in three colours: as they are, negative, and black."""
    first = grey.images
    return replace(grey, images=np.concatenate([first, 255 - first, np.zeros_like(first)], axis=1))


def source(
    model: nn.Module, data: str | None = "digits", mean: Any = None, std: Any = None, task: Task = "classification"
) -> Source:
    normalization = channel_normalization(mean, std, 1)
    return Source.from_module(model, (1, 8, 8), data=data, normalization=normalization, task=task)


def judged(*given: Any, **options: Any) -> Any:
    """The `OwnAccuracy`, or the `OwnFit` of a regression."""
    found = own_accuracy(*given, **options)
    assert isinstance(found, OwnFit if given[0].network.task == "regression" else OwnAccuracy)
    return found


def test_the_accuracy_is_that_of_the_module() -> None:
    found = judged(source(classifier()), DIGITS.validation, KIND)
    scores = classifier()(torch.from_numpy(DIGITS.validation.images.copy()).float() / 255)
    assert found.accuracy == pytest.approx(float((scores.argmax(1).numpy() == DIGITS.validation.labels).mean()))
    assert (found.image_count, found.warning) == (200, "")
    assert found.sentence == "the CNN classifies 94.00 % of 200 validation images of digits correctly"


def test_many_images_are_evenly_spaced() -> None:
    order = np.argsort(DIGITS.train.known_labels, kind="stable")
    found = judged(source(classifier()), DIGITS.train[order], KIND)
    assert (found.image_count, found.kind) == (1_000, f"{KIND} (evenly spaced among 1,197)")
    assert 0.9 < found.accuracy < 1


@pytest.mark.parametrize(("data", "mean", "std"), [("digits", 0.3059, 0.3763), ("mine.npz", 0.1307, 0.3081)])
def test_a_forgotten_normalization_is_found(data: str, mean: float, std: float) -> None:
    """That of any data set: images like those of MNIST come as own images, too."""
    model = classifier(mean, std)
    found = judged(source(model, data), DIGITS.validation, KIND, data=data)
    assert found.accuracy < 0.5
    assert ("any CNN reaches 85 % on digits" in found.warning) == (data == "digits")
    assert f"With `mean` {mean} and `std` {std} it is 94.00 % of 200: give the norm" in found.warning
    right = judged(source(model, data, mean=[mean], std=[std]), DIGITS.validation, KIND)
    assert (right.accuracy, right.warning) == (0.94, "")


def test_the_least_accuracy_is_that_of_the_images_not_of_the_training_data() -> None:
    """A CNN trained on digits, on images with other labels: no CNN is known to reach 85 % of those."""
    labels = np.where(np.arange(200) % 10 < 7, DIGITS.validation.known_labels, 0)
    others = Dataset(DIGITS.validation.images, labels)
    found = judged(source(classifier(), "digits"), others, "own images of mine.npz", data="mine.npz")
    assert (found.accuracy < 0.8, found.warning) == (True, "")
    named = judged(source(classifier(), None), others, KIND, data="digits")
    assert "any CNN reaches 85 % on digits" in named.warning


def test_a_normalization_that_is_the_same_for_all_colours_is_one_number() -> None:
    images = coloured(DIGITS.validation)
    forgotten = Source.from_module(classifier(0.5, 0.5, is_colour=True), (3, 8, 8))
    needless = Source.from_module(classifier(is_colour=True), (3, 8, 8), normalization=Normalization((0.5,), (0.5,)))
    for found, suggested in ((forgotten, "With `mean` 0.5 and `std` 0.5"), (needless, "Without `mean` and `std`")):
        own = judged(found, images, KIND)
        assert f"{suggested} it is 94.00 % of 200" in own.warning


def test_a_wrong_normalization_is_found() -> None:
    """Another one is given than the CNN was trained with; the CNN stays above chance, its accuracy is unknown."""
    (mean,), (std,) = USUAL
    found = judged(source(classifier(mean, std), None, mean=[0.5], std=[0.9]), DIGITS.validation, KIND)
    assert 0.2 < found.accuracy < 0.84
    # That of Fashion-MNIST, which is near, is as good.
    assert (
        "With `mean` 0.286 and `std` 0.353 it is 94.00 % of 200: give the normalization the CNN was trained with"
        in found.warning
    )


@pytest.mark.parametrize(("count", "is_judged"), [(9, False), (10, True), (30, True)])
def test_a_cnn_that_is_never_right_is_found_on_few_images(count: int, is_judged: bool) -> None:
    labels = DIGITS.validation.known_labels[:count]
    right = judged(source(classifier(), None), Dataset(DIGITS.validation.images[:count], labels), KIND)
    assert (right.accuracy > 0.8, right.warning) == (True, "")
    shifted = Dataset(DIGITS.validation.images[:count], (labels + 1) % 10)
    wrong = judged(source(classifier(), None), shifted, KIND)
    assert wrong.accuracy <= 1 / count
    assert ("as accurate" in wrong.warning) == is_judged


def test_a_normalization_given_twice_is_found() -> None:
    """A CNN that normalizes its images itself, on data of which no accuracy is known; it stays above chance."""
    (mean,), (std,) = USUAL
    inner = nn.BatchNorm2d(1, affine=False, eps=0)
    assert inner.running_mean is not None
    assert inner.running_var is not None
    inner.running_mean.fill_(mean)
    inner.running_var.fill_(std**2)
    model = nn.Sequential(inner, classifier(mean, std)).eval()
    found = judged(source(model, None, mean=[mean], std=[std]), DIGITS.validation, KIND)
    assert 0.2 < found.accuracy < 0.9
    assert "Without `mean` and `std` it is 94.00 % of 200: the CNN may normalize its images itself." in found.warning


@pytest.mark.parametrize("data", ["digits", None])
def test_images_with_rows_and_columns_swapped_are_found(data: str | None) -> None:
    turned = replace(DIGITS.validation, images=DIGITS.validation.images.swapaxes(2, 3))
    found = judged(source(classifier(), data), turned, KIND, data=data)
    assert found.accuracy < 0.5
    assert "With rows and columns of the images swapped it is 94.00 % of 200: transpose the images" in found.warning


def test_images_without_information_give_a_warning() -> None:
    """Nearly black images, to which the CNN gives one class."""
    dark = Dataset(2 * (DIGITS.validation.images > 127).astype(np.uint8), None)
    warning = unjudged(source(classifier()), dark)
    assert "the CNN gives each of 200 images the class" in warning
    assert "the brightest pixel is 2 of 255" in warning
    assert unjudged(source(classifier()), DIGITS.validation) == ""
    with pytest.warns(UserWarning, match="each of 200 images the class"):
        lc.convert(classifier(), dark.images, timesteps=4)
    with pytest.raises(DataError, match="divided by 255 twice"):
        lc.convert(classifier(), DIGITS.validation.images / 255 / 255, timesteps=4)


def regression(mean: float, std: float) -> tuple[nn.Module, Dataset]:
    """A regression that is exact on (pixel / 255 - mean) / std, and images with its outputs as targets."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 3), nn.ReLU(), nn.Flatten(), nn.Linear(144, 2)).eval()
    inputs = (torch.from_numpy(DIGITS.validation.images.copy()).float() / 255 - mean) / std
    with torch.no_grad():
        targets = model(inputs).double().numpy()
    return model, Dataset(DIGITS.validation.images, None, targets)


def test_a_regression_no_better_than_the_mean_is_found() -> None:
    (mean,), (std,) = USUAL
    model, images = regression(mean, std)
    right = judged(source(model, None, task="regression", mean=[mean], std=[std]), images, KIND)
    assert (right.warning, right.image_count) == ("", 200)
    assert right.r2 > 0.999
    assert images.targets is not None
    shifted = images.targets + 100
    found = judged(source(model, None, task="regression"), replace(images, targets=shifted), KIND)
    assert "always predicting the mean is as good. Check the normalization" in found.warning
    with pytest.warns(UserWarning, match="Check the normalization"):
        snn = lc.convert(model, images.images, targets=shifted, task="regression", timesteps=4)
    assert snn.notes[0].startswith("the CNN has an RMSE of")
    assert snn.cnn_accuracy is None
    with pytest.raises(UsageError, match="Pass `labels`"):
        lc.convert(classifier(), images.images, targets=images.targets)


def test_what_no_normalization_explains() -> None:
    (model := classifier())[1].bias.data.copy_(torch.eye(10)[3] * 1e6)  # type: ignore[index]
    for data, reason in (("digits", "any CNN reaches 85 %"), (None, "always predicting the most frequent class is as")):
        found = judged(source(model, data), DIGITS.validation, KIND, data=data)
        assert reason in found.warning
        assert "the class order" in found.warning
    # 11 % without training, and 18 % of pixels up to 255, which is as wrong.
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = nn.Sequential(nn.Flatten(), nn.Linear(64, 16), nn.ReLU(), nn.Linear(16, 10))
    untrained = judged(source(model), DIGITS.validation, KIND, data="digits")
    assert "No usual normalization, nor swapped rows and columns, explains it" in untrained.warning
    # Of few images, chance may be all.
    few = judged(source(model, None), DIGITS.validation[:9], KIND)
    assert few.warning == ""


@pytest.mark.parametrize(("expect", "is_warned"), [(0.94, False), (0.96, False), (0.99, True)])
def test_an_expected_accuracy(expect: float, is_warned: bool) -> None:
    found = judged(source(classifier()), DIGITS.validation, KIND, expect)
    assert ("99 % are expected" in found.warning) == is_warned


def test_images_without_labels_tell_nothing() -> None:
    unlabelled = Dataset(DIGITS.validation.images, None)
    assert own_accuracy(source(classifier()), unlabelled, KIND) is None
    with pytest.raises(UsageError, match="without labels") as caught:
        own_accuracy(source(classifier()), unlabelled, KIND, 0.9)
    assert caught.value.where == "expect"
    regression = source(classifier(), task="regression")
    assert own_accuracy(regression, DIGITS.validation, KIND) is None
    for wrong, hint in ((95, "Write 0.95 for 95 %."), (0, "")):
        with pytest.raises(UsageError) as caught:
            own_accuracy(source(classifier()), DIGITS.validation, KIND, wrong)
        assert (caught.value.where, caught.value.hint) == ("expect", hint)
    beyond = Dataset(DIGITS.validation.images, DIGITS.validation.known_labels + 5)
    with pytest.raises(DataError, match=r"found \d\.\.14"):
        own_accuracy(source(classifier()), beyond, KIND)


def test_convert_says_it_in_python() -> None:
    images, labels = DIGITS.train.images[:300].copy(), DIGITS.train.known_labels[:300].copy()
    snn = lc.convert(classifier(), images, labels, timesteps=4)
    assert (snn.cnn_accuracy or 0) > 0.9
    assert snn.notes[0].startswith("the CNN classifies 9")
    assert lc.convert(classifier(), images, timesteps=4).cnn_accuracy is None
    loader = torch.utils.data.DataLoader(list(zip(images, labels, strict=True)), batch_size=100)  # type: ignore[arg-type, var-annotated]
    assert lc.convert(classifier(), loader, timesteps=4).cnn_accuracy == snn.cnn_accuracy
    (mean,), (std,) = USUAL
    with pytest.warns(UserWarning, match=r"With `mean` 0\.286 .* give the normalization") as warned:
        lc.convert(classifier(mean, std), images, labels, timesteps=4)
    assert warned[0].filename == __file__
    with pytest.warns(UserWarning, match="99.5 % are expected"):
        lc.convert(classifier(), images, labels, timesteps=4, expect=0.995)
    with pytest.raises(UsageError, match=r"Write 0\.95 for 95 %"):
        lc.convert(classifier(), images, labels, expect=95)


def test_convert_and_run_say_that_rounding_to_8_bits_loses_accuracy() -> None:
    contrast = DIGITS.train.images[:300] / 255 * 0.01 + 0.1
    labels, normal = DIGITS.train.known_labels[:300].copy(), {"mean": 0.1, "std": 0.01, "timesteps": 4}
    with pytest.warns(UserWarning, match="floats are rounded to 8 bits") as warned:
        snn = lc.convert(classifier(), contrast, labels, **normal)  # type: ignore[arg-type]
    assert len(warned) == 1
    assert "floats are rounded to 8 bits" in " ".join(snn.run(contrast[:10]).notes)
    with pytest.warns(UserWarning, match="to 8 bits") as warned:
        lc.convert(classifier(), contrast, labels, expect=0.995, **normal)  # type: ignore[arg-type]
    texts = sorted(str(warning.message) for warning in warned)
    assert len(texts) == 2
    assert texts[0].startswith("floats are rounded to 8 bits")
    assert texts[1].endswith("99.5 % are expected. A possible cause: the rounding to 8 bits (see the note).")


@pytest.fixture
def export(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Any:
    """Run ``export`` of a classifier that wants the usual normalization; return exit code, JSON and stderr."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    (tmp_path / "linear_nets.py").write_text(
        "from torch import nn\n\ndef make():\n    return nn.Sequential(nn.Flatten(), nn.Linear(64, 10))\n"
    )
    torch.save({"net": classifier(*(value for (value,) in USUAL)).state_dict(), "acc": 94.0, "epoch": 3}, "user.pth")

    def run(*words: object) -> tuple[int, Any, str]:
        basics = ["export", "user.pth", "--arch", "linear_nets:make", "-T", 4, "--json", "--overwrite", "--no-verify"]
        monkeypatch.setattr(sys, "argv", ["loihi-convert", *map(str, [*basics, *words])])
        with pytest.raises(SystemExit) as stop:
            main()
        out, err = capsys.readouterr()
        return int(stop.value.code or 0), json.loads(out) if out else None, err

    yield run
    sys.modules.pop("linear_nets", None)


def test_export_says_it_first(export: Any) -> None:
    code, said, err = export("--data", "digits", "--mean", "0.3059", "--std", "0.3763", "--expect", 94)
    assert code == 0
    assert "the CNN classifies 94.00 % of 200 validation images of digits correctly" in err
    assert said["cnn"] == {"accuracy": 0.94, "image_count": 200, "kind": KIND, "warning": ""}
    code, said, err = export("--data", "digits")
    assert code == 0
    assert "warning: the CNN classifies 41.50 %" in err
    assert "With --mean 0.3059 and --std 0.3763 it is 94.00 %" in err
    assert "any CNN reaches 85 %" in said["cnn"]["warning"]
    code, said, err = export("--data", "digits", "--expect", 101)
    assert (code, said) == (2, None)
    assert "--expect: found 101; must be in percent, in (1, 100]" in err
