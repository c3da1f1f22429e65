"""Options are declared once: the class gives validation, flags, help, keys of a grid and documentation."""

from __future__ import annotations

import dataclasses
import inspect
import re
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import pytest
import typer
from pydantic import Field
from support.command_line import invoker

import loihi_convert as lc
from loihi_convert import cli
from loihi_convert.backends.backend import BackendOptions
from loihi_convert.cli.options import BoardOptions
from loihi_convert.cli.sweep import AXES, read_grid
from loihi_convert.cnn.recipe import Recipe
from loihi_convert.errors import UsageError
from loihi_convert.ground.options import Flag, declared, names_of, options_of
from loihi_convert.pipeline.options import CnnOptions, RunOptions

CLASSES = (
    *(lc.BalanceOptions, lc.QuantizeOptions, lc.TrainOptions, Recipe),
    *(RunOptions, BackendOptions, BoardOptions, CnnOptions),
)
VERBS = typer.main.get_command(cli.app).commands  # type: ignore[attr-defined]


@declared("Panel")
class Sample:
    """A sample.

    Parameters
    ----------
    count
        How many,
        as in ``3``.

        Only in Python.
    share, kind
        With `count`.
    """

    count: Annotated[int, Field(ge=1, le=2000), Flag("N")] = 1
    share: Annotated[float | None, Field(gt=0, le=1)] = None
    kind: str = "x"


def test_type_range_default_and_meaning_are_read_from_the_declaration() -> None:
    count, share, _ = options_of(Sample).values()
    assert (count.kind, count.default, count.range) == (int, 1, "in 1..2,000")
    assert count.help == "How many, as in 3. Must be in 1..2,000."
    assert (share.kind, share.default, share.range) == (float, None, "in (0, 1]")
    assert share.help == "With `count`. Must be in (0, 1]."
    assert str(inspect.signature(Sample)) == "(count: int = 1, share: float | None = None, kind: str = 'x')"
    assert "    as in ``3``.\n    Must be in 1..2,000.\n\n    Only in Python." in (Sample.__doc__ or "")


@pytest.mark.parametrize(
    ("given", "where", "expected"),
    [
        ({"count": 0}, "count", "must be a whole number in 1..2,000"),
        ({"count": True}, "count", "must be a whole number in 1..2,000"),
        ({"count": 1.0}, "count", "must be a whole number in 1..2,000"),
        ({"count": None}, "count", "must be a whole number in 1..2,000"),
        ({"share": float("nan")}, "share", "must be in (0, 1]"),
        ({"share": "1"}, "share", "must be in (0, 1]"),
        ({"kind": 1}, "kind", "must be a text"),
    ],
)
def test_wrong_values_name_the_option(given: dict[str, Any], where: str, expected: str) -> None:
    for make in (Sample, lambda **values: dataclasses.replace(Sample(), **values)):
        with pytest.raises(UsageError) as caught:
            make(**given)
        (value,) = given.values()
        assert (caught.value.where, caught.value.found) == (where, f"found {value!r}")
        assert caught.value.expected == expected


def test_numbers_are_stored_as_given_and_those_of_numpy_as_pythons() -> None:
    assert repr(Sample(share=1).share) == "1"  # noqa: RUF100
    found = Sample(np.int64(3), np.float32(0.5))  # type: ignore[arg-type]
    assert (type(found.count), type(found.share), found) == (int, float, Sample(3, 0.5))
    with pytest.raises(dataclasses.FrozenInstanceError):
        found.count = 4  # type: ignore[misc]


@pytest.mark.parametrize("owner", CLASSES, ids=lambda owner: owner.__name__)
def test_every_option_says_what_it_means(owner: type) -> None:
    assert [option.name for option in options_of(owner).values() if not option.help] == []


@pytest.mark.parametrize("verb", sorted(VERBS))
def test_every_flag_says_what_it_means(verb: str) -> None:
    assert [parameter.name for parameter in VERBS[verb].params if not parameter.help] == []


@pytest.mark.parametrize(
    ("verb", "owner"),
    [("export", lc.BalanceOptions), ("export", lc.QuantizeOptions), ("train", lc.TrainOptions), ("run", RunOptions),
     ("run", BackendOptions), ("sweep", lc.BalanceOptions)],
)  # fmt: skip
def test_every_option_of_python_is_a_flag(verb: str, owner: type) -> None:
    flags = {parameter.name: parameter for parameter in VERBS[verb].params}
    for option in options_of(owner).values():
        if option.flag.name != "":
            assert names_of(option) == flags[option.name].opts
            assert option.range in flags[option.name].help


def test_a_rule_is_the_same_in_python_as_a_flag_and_as_a_key(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(UsageError) as caught:
        lc.BalanceOptions(alpha=1.5)
    assert (caught.value.where, caught.value.expected) == ("alpha", "must be in (0, 1]")
    for name in ("export", "sweep"):
        model = tmp_path / "model.pt"
        model.write_bytes(b"PK\x03\x04")
        done = invoker(monkeypatch, capsys)(name, model, "--alpha", "1.5")
        assert (done.code, done.err) == (2, "error: --alpha: found 1.5; must be in (0, 1].\n")
    grid = tmp_path / "grid.toml"
    grid.write_text('model = "model.pt"\nalpha = [1.0, 1.5]\n')
    with pytest.raises(UsageError) as in_file:
        read_grid([grid], {})
    assert str(in_file.value) == str(caught.value)


def test_keys_of_a_grid_are_the_flags() -> None:
    options = options_of(lc.BalanceOptions) | options_of(lc.QuantizeOptions)
    flags = {names_of(option)[-1].removeprefix("--"): name for name, option in options.items()}
    del flags["max-cores"]
    assert {key: option.name for key, option in AXES.items()} == {
        **flags, "timesteps": "timesteps", "skip-copies": "skip_copies"
    }  # fmt: skip
    for key, name in flags.items():
        assert AXES[key].kind == options[name].kind, key


def test_the_help_has_no_marks_of_the_docstring() -> None:
    for verb, command in VERBS.items():
        for parameter in command.params:
            assert not re.search(r"``|\n|  ", parameter.help), (verb, parameter.name)


@pytest.mark.parametrize("given", [{"seed": -1}, {"qcfs_levels": 0}, {"qcfs_levels": 257}, {"store": "int8"}])
def test_a_training_that_makes_no_sense_is_refused(given: dict[str, Any]) -> None:
    with pytest.raises(UsageError) as caught:
        lc.TrainOptions(**given)
    assert [caught.value.where] == list(given)
