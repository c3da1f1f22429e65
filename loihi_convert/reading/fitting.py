"""Load the tensors of a file into a CNN: names, shapes and types are checked, prefixes dropped."""

from __future__ import annotations

from collections.abc import Mapping, Set
from pathlib import Path
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from loihi_convert.cnn.checkpoint import BATCH_COUNTER, require_finite
from loihi_convert.errors import CheckpointError
from loihi_convert.reading.users_code import listed, run_users_code

# Added to the names of parts of a CNN by torch.compile, activation checkpointing and FSDP.
_INFIXES: Final = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
# The usual names of the CNN in a wrapper, as of DistributedDataParallel or Lightning.
_USUAL: Final = ("module.", "model.", "net.", "network.")

_Tensors = dict[str, Tensor]


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
    candidates = {key: _renamed(state, wanted) for key, state in states.items()}
    named = [key for key, (tensors, _) in candidates.items() if not _difference(tensors, wanted.keys())]
    # For an error that names the shape, if none fits.
    fitting = [key for key in named if _has_shapes(candidates[key][0], wanted)] or named[:1]
    tensors, notes = candidates[fitting[0] if fitting else next(iter(candidates))]
    if any(
        name.endswith("activations.0.threshold") and name not in wanted for state in states.values() for name in state
    ):
        raise CheckpointError(
            "holds a CNN from `fine_tune` and its trained thresholds, but not their number of levels",
            where=path,
            hint="Let `fine_tune` write the file, with `output`, or convert the module itself.",
        )
    if difference := _difference(tensors, wanted.keys()):
        raise CheckpointError(f"does not match {arch}: {difference}", where=path)
    if len(fitting) > 1:
        others = listed([repr(other) for other in fitting[1:]])
        notes = [*notes, f"the weights under {fitting[0]!r} are used; {others} would fit too."]
    require_finite(tensors, path)
    filled = {name: _as_float32(name, tensor, wanted[name], arch, path) for name, tensor in tensors.items()}
    dtypes = sorted({_dtype(tensor) for tensor in tensors.values() if tensor.is_floating_point()} - {"float32"})
    notes = [*notes, *[f"{listed(dtypes)} tensors are converted to float32."] * bool(dtypes)]
    run_users_code("loading its weights", lambda: model.load_state_dict(filled, strict=False))
    run_users_code("calling eval", model.requires_grad_(False).eval)
    return model, tuple(f"{path.name}: {note}" for note in notes)


def _renamed(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor]) -> tuple[_Tensors, list[str]]:
    """``state`` by the names of the CNN, and notes: it may be a part of a module, or some parts of it wrapped."""
    found, notes = dict(state), list[str]()
    for infix in _INFIXES:
        if any(infix in name for name in found) and not any(infix in name for name in wanted):
            found = {name.replace(infix, ""): tensor for name, tensor in found.items()}
            notes.append(f"dropped {infix!r} from the tensor names.")
    if not _needed(wanted.keys()) <= found.keys() and (prefix := _prefix(found.keys(), _needed(wanted.keys()))):
        others = sorted({name.partition(".")[0] for name in found if not name.startswith(prefix)})
        found = {name.removeprefix(prefix): tensor for name, tensor in found.items() if name.startswith(prefix)}
        rest = f"; {listed(others)} ignored" if others else ""
        notes.append(f"the CNN is the part {prefix.removesuffix('.')!r}{rest}.")
    # `safetensors.torch.save_model` stores tensors that share their memory once.
    known = [(name, (one.data_ptr(), one.shape)) for name, one in wanted.items() if not is_lazy(one)]
    holder = {memory: name for name, memory in known if name in found}
    return {name: found[holder[memory]] for name, memory in known if memory in holder} | found, notes


def _needed(wanted: Set[str]) -> set[str]:
    # Torch 0.4 did not write it.
    return {name for name in wanted if not name.endswith(BATCH_COUNTER)}


def _prefix(found: Set[str], needed: Set[str]) -> str | None:
    """The prefix under which ``found`` has all ``needed`` names; if there are several, the usual one."""
    last = min(needed, default="")
    prefixes = {name.removesuffix(last) for name in found if name.endswith(f".{last}")}
    fitting = [prefix for prefix in prefixes if all(prefix + name in found for name in needed)]
    usual = [prefix for prefix in _USUAL if prefix in fitting]
    return usual[0] if usual else fitting[0] if len(fitting) == 1 else None


def _has_shapes(tensors: _Tensors, wanted: Mapping[str, Tensor]) -> bool:
    # A lazy module accepts any shape.
    return all(is_lazy(wanted[name]) or wanted[name].shape == own.shape for name, own in tensors.items())


def _difference(tensors: _Tensors, wanted: Set[str]) -> str:
    """The missing and the unexpected names, compared with ``wanted``; empty if there are none."""
    missing, unexpected = sorted(_needed(wanted) - tensors.keys()), sorted(tensors.keys() - wanted)
    parts = [f"{listed(missing)} missing"] * bool(missing) + [f"{listed(unexpected)} unknown to the CNN"] * bool(
        unexpected
    )
    return "; ".join(parts)


def _as_float32(name: str, tensor: Tensor, wanted: Tensor, arch: str, path: Path) -> Tensor:
    if name.endswith(BATCH_COUNTER):
        # A state dict whose tensors were all converted to half precision.
        return torch.nan_to_num(tensor, posinf=0.0).to(wanted.dtype)
    if tensor.is_floating_point() != wanted.is_floating_point():
        expected = f"must be {_dtype(wanted)}, as in {arch}"
        raise CheckpointError(f"{name} is {_dtype(tensor)}", where=path, expected=expected)
    if not is_lazy(wanted) and tensor.shape != wanted.shape:
        raise CheckpointError(
            f"{name} has shape {tuple(tensor.shape)}",
            where=path,
            expected=f"must be {tuple(wanted.shape)}, as in {arch}",
            hint='Give the CNN it was saved from; arguments go in parentheses, as in "nets:make_cnn(classes=10)".',
        )
    converted = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
    if not bool(torch.isfinite(converted).all()):
        raise CheckpointError(f"{name} does not fit into float32: it contains {tensor.abs().max()}", where=path)
    return converted


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
