"""Load the tensors of a file into a CNN: names, shapes and types are checked, prefixes dropped."""

from __future__ import annotations

from collections.abc import Mapping, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from loihi_convert.cnn.checkpoint import BATCH_COUNTER, require_finite
from loihi_convert.errors import CheckpointError
from loihi_convert.reading.users_code import listed, run_users_code

_COMPILED: Final = "_orig_mod."
# Added to names by torch.compile, activation checkpointing and FSDP, also to those of parts of a CNN.
_INFIXES: Final = (_COMPILED, "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
# Ends of the names of a pruned tensor and its mask.
_OF_PRUNING: Final = ("_orig", "_mask")
# Prefixes that DistributedDataParallel, torch.compile, Lightning modules and other wrappers add to every name.
_PREFIXES: Final = ("module.", _COMPILED, "model.", "net.", "network.")


def fill(
    model: nn.Module, states: Mapping[str, Mapping[str, Tensor]], arch: str, path: Path
) -> tuple[nn.Module, tuple[str, ...]]:
    """Return ``model`` with the weights in ``states``, in float32, in eval mode and without gradients; and notes.

    Parameters
    ----------
    model
        The user's model; it is changed in place.
    states
        The state dicts of the file, the likeliest first, by the keys that lead to them. The first one with all the
        names and shapes of ``model`` is used.
    arch, path
        The code that built the CNN, and the file, for messages.

    Raises
    ------
    CheckpointError
        If no state dict has the names and shapes of ``model``, a value does not fit into float32, or the file has the
        thresholds of `fine_tune`, which ``model`` has not.
    """
    model = model.cpu().float()
    wanted = model.state_dict()
    _require_no_thresholds(states, wanted.keys(), path)
    candidates = {key: _renamed(state, wanted.keys()).with_shared(wanted) for key, state in states.items()}
    named = [key for key, candidate in candidates.items() if candidate.difference(wanted.keys()) == ""]
    # For an error that names the shape, if none fits.
    fitting = [key for key in named if candidates[key].has_shapes(wanted)] or named[:1]
    key = fitting[0] if fitting else next(iter(candidates))
    chosen = candidates[key]
    difference = chosen.difference(wanted.keys())
    if difference:
        raise CheckpointError(
            f"does not match {arch}: {difference}", where=path, hint="Give the CNN it was saved from."
        )
    notes = [f"{path.name}: {note}" for note in chosen.notes]
    if len(fitting) > 1:
        others = listed([repr(other) for other in fitting[1:]])
        notes.append(
            f"{path.name}: the weights under {key!r} are used; {others} would fit too. To use others, save them in a "
            "file of their own."
        )
    require_finite(chosen.tensors, path)
    filled = {name: _as_float32(name, tensor, wanted[name], arch, path) for name, tensor in chosen.tensors.items()}
    dtypes = sorted({_dtype(tensor) for tensor in chosen.tensors.values() if tensor.is_floating_point()} - {"float32"})
    notes += [f"{path.name}: {listed(dtypes)} tensors are converted to float32."] * bool(dtypes)
    run_users_code(arch, "loading its weights", lambda: model.load_state_dict(filled, strict=False))
    run_users_code(arch, "calling eval", model.requires_grad_(False).eval)
    return model, tuple(notes)


def _require_no_thresholds(states: Mapping[str, Mapping[str, Tensor]], wanted: Set[str], path: Path) -> None:
    """Raise a `CheckpointError` for the state dict of a `WithQcfs`, which lacks the number of levels."""
    for state in states.values():
        first = next((name for name in state if name.endswith("activations.0.threshold")), None)
        if first is None or first in wanted:
            continue
        if any(name.startswith(f"{first.removesuffix('activations.0.threshold')}cnn.") for name in state):
            raise CheckpointError(
                "holds a CNN from `fine_tune` and its trained thresholds, but not their number of levels",
                where=path,
                hint="Let `fine_tune` write the file, with `output`, or convert the module itself.",
            )


@dataclass(frozen=True, eq=False)
class _Candidate:
    """A state dict with prefixes removed to match the CNN's names, and notes on what was dropped."""

    tensors: dict[str, Tensor]
    notes: tuple[str, ...]

    def with_shared(self, wanted: Mapping[str, Tensor]) -> _Candidate:
        """The same, with tensors under all the names of ``wanted`` that share their memory.

        `safetensors.torch.save_model` stores them once.
        """
        known = [(name, (one.data_ptr(), one.shape)) for name, one in wanted.items() if not is_lazy(one)]
        holder = {memory: name for name, memory in known if name in self.tensors}
        shared = {name: self.tensors[holder[memory]] for name, memory in known if memory in holder}
        return replace(self, tensors={**shared, **self.tensors})

    def has_shapes(self, wanted: Mapping[str, Tensor]) -> bool:
        """Whether all tensors have the shapes in ``wanted``; a lazy module accepts any."""
        return all(is_lazy(wanted[name]) or wanted[name].shape == own.shape for name, own in self.tensors.items())

    def difference(self, wanted: Set[str]) -> str:
        """The missing and the unexpected names, compared with ``wanted``; empty if there are none."""
        missing = _needed(wanted) - self.tensors.keys()
        unexpected = self.tensors.keys() - wanted
        parts = [f"{listed(sorted(missing))} missing"] * bool(missing)
        return "; ".join(parts + [f"{listed(sorted(unexpected))} unknown to the CNN"] * bool(unexpected))


def _needed(wanted: Set[str]) -> set[str]:
    # Torch 0.4 did not write it.
    return {name for name in wanted if not name.endswith(BATCH_COUNTER)}


def _renamed(state: Mapping[str, Tensor], wanted: Set[str]) -> _Candidate:
    """``state`` without prefixes that the CNN does not have: a prefix of all names, or that of one module.

    With a prefix of all names of the CNN: it is a module that wraps the one whose weights these are.
    """
    found, notes = dict(state), list[str]()
    while prefix := _common_prefix(found.keys(), wanted):
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items()}
        notes.append(f"dropped the prefix {prefix!r} from all tensor names.")
    for infix in _INFIXES:
        if any(infix in name for name in found) and not any(infix in name for name in wanted):
            found = {name.replace(infix, ""): tensor for name, tensor in found.items()}
            notes.append(f"dropped {infix!r} from the tensor names.")
    if pruned := _pruned(found, wanted):
        found |= pruned
        found = {name: tensor for name, tensor in found.items() if not name.endswith(_OF_PRUNING)}
        notes.append("the masks of its pruning are applied to the weights.")
    if not _needed(wanted) <= found.keys() and (prefix := _prefix_of_wrapper(found.keys(), wanted)):
        found = {prefix + name: tensor for name, tensor in found.items()}
        notes.append(f"added the prefix {prefix!r}, which all tensors of the CNN have, to the tensor names.")
    if not _needed(wanted) <= found.keys() and (prefix := _prefix_of_module(found.keys(), wanted)):
        others = sorted({name.partition(".")[0] for name in found if not name.startswith(prefix)})
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
        rest = f"; {listed(others)} ignored" if others else ""
        notes.append(f"the CNN is the part {prefix.removesuffix('.')!r}{rest}.")
    return _Candidate(found, tuple(notes))


def _pruned(state: Mapping[str, Tensor], wanted: Set[str]) -> dict[str, Tensor]:
    """The tensors that ``torch.nn.utils.prune`` stores as another one and a mask; empty if the CNN has masks itself."""
    original, mask = _OF_PRUNING
    if any(name.endswith(mask) for name in wanted):
        return {}
    stems = [name.removesuffix(mask) for name in state if name.endswith(mask)]
    parts = {stem: (state.get(stem + original), state[stem + mask]) for stem in stems}
    return {stem: one * kept for stem, (one, kept) in parts.items() if one is not None and one.shape == kept.shape}


def _common_prefix(found: Set[str], wanted: Set[str]) -> str | None:
    """A known wrapper's prefix, if all names in ``found`` have it and none in ``wanted``."""
    for prefix in _PREFIXES:
        if found and all(name.startswith(prefix) for name in found):
            return None if any(name.startswith(prefix) for name in wanted) else prefix
    return None


def _prefix_of_wrapper(found: Set[str], wanted: Set[str]) -> str | None:
    """A prefix of all names in ``wanted`` with which ``found`` has all of them."""
    needed = _needed(wanted)
    first = min(needed, default="")
    prefixes = (first[: end + 1] for end, letter in enumerate(first) if letter == ".")
    shared = (prefix for prefix in prefixes if all(name.startswith(prefix) for name in wanted))
    return next((prefix for prefix in shared if {name.removeprefix(prefix) for name in needed} <= found), None)


def _prefix_of_module(found: Set[str], wanted: Set[str]) -> str | None:
    """The prefix under which ``found`` has all names in ``wanted``; if there are several, the usual one."""
    needed = _needed(wanted)
    if not needed:
        return None
    last = f".{min(needed)}"
    prefixes = {name.removesuffix(last) + "." for name in found if name.endswith(last)}
    fitting = sorted(prefix for prefix in prefixes if all(prefix + name in found for name in needed))
    usual = [prefix for prefix in _PREFIXES if prefix in fitting]
    return usual[0] if usual else fitting[0] if len(fitting) == 1 else None


def _as_float32(name: str, tensor: Tensor, wanted: Tensor, arch: str, path: Path) -> Tensor:
    if name.endswith(BATCH_COUNTER):
        # A state dict whose tensors were all converted to half precision.
        return torch.nan_to_num(tensor, posinf=0.0).to(wanted.dtype)
    if tensor.is_floating_point() != wanted.is_floating_point():
        raise CheckpointError(
            f"{name} is {_dtype(tensor)}",
            where=path,
            expected=f"must be {_dtype(wanted)}, as in {arch}",
            hint="Quantized weights are not supported: save the state dict in floating point.",
        )
    # A lazy module accepts any shape.
    if not is_lazy(wanted) and tensor.shape != wanted.shape:
        raise CheckpointError(
            f"{name} has shape {tuple(tensor.shape)}",
            where=path,
            expected=f"must be {tuple(wanted.shape)}, as in {arch}",
            hint="Give the CNN it was saved from, with the same channels and classes; arguments go in parentheses, "
            'as in "nets:make_cnn(classes=10)".',
        )
    converted = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
    if not bool(torch.isfinite(converted).all()):
        raise CheckpointError(f"{name} does not fit into float32: it contains {tensor.abs().max()}", where=path)
    return converted


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
