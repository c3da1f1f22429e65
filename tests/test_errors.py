"""Errors: four fields, one or two sentences, and parameters shown as flags on the command line."""

from __future__ import annotations

import pickle
from pathlib import Path

import pytest

from loihi_convert.errors import DataError, LoihiConvertError, UsageError, escape_control, one_of, rendered

FLAGS = {"method": "--balance", "reset": "--reset", "correct": "--correct"}


@pytest.mark.parametrize(
    ("error", "sentence"),
    [
        (UsageError("found 2.0", where="alpha", expected="must be in (0, 1]"), "alpha: found 2.0; must be in (0, 1]."),
        (DataError("damaged", where=Path("a.npz"), hint="Write it again."), "a.npz: damaged. Write it again."),
        (DataError("no images", hint="Give some"), "no images. Give some."),
        (DataError("layers 0, 1, ...", where="x"), "x: layers 0, 1, ..."),
    ],
)
def test_fields_become_sentences(error: LoihiConvertError, sentence: str) -> None:
    assert str(error) == sentence


def test_the_command_line_shows_flags_in_place_of_parameters() -> None:
    error = UsageError(
        "found 'rmp' with `reset='hard'` and `alpha`", where="method", hint="Use `correct=False` or `correct=True`."
    )
    assert rendered(error, FLAGS) == (
        "--balance: found 'rmp' with --reset hard and `alpha`. Use --no-correct or --correct."
    )


def test_an_error_crosses_to_another_process_with_its_fields() -> None:
    error = DataError("damaged", where="a.npz", expected=one_of(["npz", "png"]), hint="Write it again.")
    again = pickle.loads(pickle.dumps(error))
    assert (type(again), vars(again)) == (DataError, vars(error))
    assert again.expected == "must be one of npz, png"


def test_control_characters_are_escaped() -> None:
    assert escape_control("a\x1b[31mb") == "a\\x1b[31mb"
