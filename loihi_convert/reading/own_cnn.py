"""A user's own CNN with the tensors of a file, as something to train, and back from the checkpoint of that training."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Final

import torch
from pydantic import JsonValue
from torch import Tensor, nn
from torch.nn.parameter import is_lazy

from loihi_convert.cnn import checkpoint
from loihi_convert.cnn.checkpoint import BATCH_COUNTER, Checkpoint, require_finite
from loihi_convert.cnn.design import (
    FIRST_IMAGES,
    Design,
    NoActivationsError,
    Teacher,
    inputs_of,
    pixels,
    record_of,
    require_classes,
    scores_of,
)
from loihi_convert.cnn.qcfs import SpikingCnn, SpikingQcfs
from loihi_convert.cnn.recipe import TrainOptions
from loihi_convert.cnn.with_qcfs import WithQcfs
from loihi_convert.data import DataSplits
from loihi_convert.errors import CheckpointError, LoihiConvertError, UsageError, first_few, first_line
from loihi_convert.ground.normalization import Normalization
from loihi_convert.ir.network import class_count
from loihi_convert.lowering import lowered
from loihi_convert.reading.graph import LeakyRelu, MaxPool, Relu
from loihi_convert.reading.reader import read_graph
from loihi_convert.reading.users_code import (
    build_cnn,
    copied,
    require_not_of_machine,
    run_users_code,
    shape_taken,
    told,
    users_code,
)


def own_design(
    arch: str,
    weights: Path | None,
    splits: DataSplits,
    *,
    options: TrainOptions = TrainOptions(),
    normalization: Normalization | None = None,
) -> Design:
    """Return the CNN that the code ``arch`` builds as a design to train; its parts are read before the training.

    Parameters
    ----------
    arch
        As in `source.open_source`; it is imported and executed.
    weights
        The file with the weights to begin with, as in `source.open_source`, or a checkpoint of such a training; None:
        those that the code gives it.
    splits
        The images to train on.
    options
        Of the training; ``qcfs_levels`` and ``timesteps`` are used.
    normalization
        What it takes; by default that in the checkpoint, or pixel / 255.
    """
    made, trained = _made(arch, weights)
    start: dict[str, JsonValue] | None = None
    if trained is not None:
        normalization = recorded_normalization(trained, normalization)
        if splits.classes:
            require_classes(trained, splits.classes)
        start = record_of(trained)
    elif weights is not None:
        start = {"file": weights.name, "sha256": checkpoint.digest(made().state_dict())}
    return design_of(made, arch, splits, options=options, normalization=normalization, start=start)


def _made(arch: str, weights: Path | None) -> tuple[Callable[[], nn.Module], Checkpoint | None]:
    """A function that builds the CNN of ``arch`` with the tensors in ``weights``; and its record, if any."""
    if weights is None:
        return partial(build_cnn, arch), None
    trained = checkpoint.load_if_ours(weights)
    if trained is not None:
        if not trained.is_own:
            found = f"{weights.name} holds a {trained.architecture}"
            raise UsageError(found, where="arch", expected="is for your own CNN")
        return partial(rebuilt, trained, arch, weights), trained
    states = checkpoint.load_states(weights)
    return lambda: fill(build_cnn(arch), states, arch, weights)[0].requires_grad_(True), None


def own_teacher(arch: str, weights: Path, splits: DataSplits, design: Design) -> Teacher:
    """Return the trained CNN that the code ``arch`` builds as the teacher of ``design``; see `teacher_of`.

    ``weights`` is a file as in `own_design`. A checkpoint's own normalization counts, otherwise that of ``design``.
    """
    made, trained = _made(arch, weights)
    if trained is not None:
        if splits.classes:
            require_classes(trained, splits.classes, "teacher")
        design = replace(design, normalization=trained.normalization)
    return teacher_of(made(), arch, splits, design)


def teacher_of(cnn: nn.Module, name: str, splits: DataSplits, design: Design) -> Teacher:
    """Return ``cnn``, called ``name``, as the teacher of ``design``; it need not have a spiking equivalent.

    It takes images normalized as those of ``design``. Outputs that are probabilities are taken for what they are.

    Raises
    ------
    UsageError
        If it has another number of outputs than ``design``, or returns something else than scores.
    InputError
        If it does not accept such images.
    """
    cnn = cnn.float().requires_grad_(False)
    cnn.eval()
    image_shape = shape_taken(cnn, splits.input_shape)
    first = pixels(splits.train.images[:FIRST_IMAGES])
    with torch.no_grad():
        returned = scores_of(cnn(inputs_of(first, design.normalization, image_shape)))
        if not isinstance(returned, Tensor):
            raise UsageError(
                f"found a CNN that returns a {type(returned).__name__}",
                where="teacher",
                expected="must return a tensor of scores, or a dict or dataclass with `logits`",
            )
        outputs = returned.reshape(len(first), -1)
        learner = design.network()
        learner.eval()
        count = learner(first[:2]).shape[1]
    if outputs.shape[1] != count:
        raise UsageError(
            f"found a CNN with {outputs.shape[1]} outputs",
            where="teacher",
            expected=f"must have {count}, as the CNN has",
        )
    taught = Design(
        name,
        lambda: cnn,
        design.classes,
        normalization=design.normalization,
        image_shape=image_shape,
        ending=_ending(outputs),
    )
    record: dict[str, JsonValue] = {"architecture": name, "sha256": checkpoint.digest(cnn.state_dict())}
    return Teacher(taught.network(), record, gives_probabilities=bool(taught.ending))


def _ending(outputs: Tensor) -> str:
    """The function that makes ``outputs`` ``(N, outputs)`` probabilities, as in `Design`; empty if they are not."""
    if outputs.min() < 0 or outputs.max() > 1:
        return ""
    if outputs.shape[1] == 1:
        return "sigmoid"
    return "softmax" if torch.allclose(outputs.sum(1), outputs.new_ones(()), atol=1e-3) else ""


def design_of(
    made: Callable[[], nn.Module],
    name: str,
    splits: DataSplits,
    *,
    options: TrainOptions = TrainOptions(),
    normalization: Normalization | None = None,
    start: dict[str, JsonValue] | None = None,
) -> Design:
    """Return a design of the CNN that ``made`` returns, with the weights to begin with; the rest is as in `own_design`.

    If it is a `WithQcfs`, it keeps its levels.
    """
    cnn, qcfs_levels = made().float(), options.qcfs_levels
    cnn.eval()
    if isinstance(cnn, WithQcfs):
        if qcfs_levels not in (None, cnn.levels):
            raise UsageError(
                f"found {qcfs_levels}", where="qcfs_levels", expected=f"the CNN was trained with {cnn.levels} levels"
            )
        qcfs_levels = cnn.levels
    if normalization is not None:
        normalization = normalization.per_channel(splits.input_shape[0])
    image_shape = shape_taken(cnn, splits.input_shape)
    network = lowered(cnn, splits.input_shape, normalization).network
    if options.timesteps is not None:
        _require_spiking(cnn, splits)
        two = pixels(splits.train.images[:2])
        _require_results_used(cnn, inputs_of(two, normalization, image_shape))

    def build() -> nn.Module:
        model = made().float()
        if qcfs_levels is not None and not isinstance(model, WithQcfs):
            first = pixels(splits.train.images[:FIRST_IMAGES])
            return WithQcfs(model, inputs_of(first, normalization, image_shape), qcfs_levels)
        return model

    count = class_count(network.shapes[-1][0])
    if splits.classes and len(splits.classes) != count:
        raise UsageError(
            f"found {len(splits.classes)} classes in {splits.name}",
            where="data",
            expected=f"must have {count}, as the CNN has",
        )
    return Design(
        name,
        build,
        splits.classes or tuple(map(str, range(count))),
        qcfs_levels,
        normalization,
        image_shape,
        start,
        None if start is None else made,
        network.ending,
    )


def rebuilt(trained: Checkpoint, arch: str, path: Path) -> nn.Module:
    """Return the CNN in ``trained``, a checkpoint of the user's own code, which is at ``path``.

    Raises
    ------
    UsageError
        If ``arch`` cannot be used.
    CheckpointError
        If the tensors do not match the CNN.
    """
    cnn = build_cnn(arch).cpu().float()
    if trained.qcfs_levels is not None:
        cnn.eval()
        black = torch.zeros(2, *shape_taken(cnn, trained.input_shape), dtype=torch.float32)
        cnn = WithQcfs(cnn, black, trained.qcfs_levels)
    try:
        with users_code():
            cnn.load_state_dict(trained.state)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise CheckpointError(f"does not match {arch}: {reason}", where=path) from error
    return cnn


def recorded_normalization(trained: Checkpoint, given: Normalization | None) -> Normalization | None:
    """Return ``trained.normalization``; another that is given is refused."""
    recorded = trained.normalization
    if given is not None:
        wanted = given.per_channel(trained.input_shape[0], is_shape_known=True)
        each = zip(Normalization._fields, given, wanted, recorded or (None, None), strict=True)
        for where, found, numbers, expected in each:
            if numbers != expected:
                raise UsageError(
                    f"found {found}",
                    where=where,
                    expected=f"the checkpoint was trained with {expected or 'no normalization'}",
                )
    return recorded


def copies_of(module: nn.Module) -> Callable[[], nn.Module]:
    """Return a function that copies ``module`` as it is now, on the CPU."""
    kept = copied(module).cpu()
    return lambda: copied(kept).requires_grad_(True)


def _require_spiking(cnn: nn.Module, splits: DataSplits) -> None:
    """Raise a `UsageError` unless the spiking network of ``cnn`` can be trained."""
    if not isinstance(cnn, WithQcfs):
        raise NoActivationsError
    # By node: whether it has values for every time step. The image has one for all.
    per_step: list[bool] = []
    for node in read_graph(cnn, splits.input_shape).nodes:
        is_plain_relu = isinstance(node.operation, Relu) and node.operation.threshold is None
        before = {per_step[index] for index in node.inputs}
        if is_plain_relu or isinstance(node.operation, LeakyRelu | MaxPool) or len(before) > 1:
            raise UsageError(
                f"found {node.kind} at {node.name}",
                where="timesteps",
                expected="needs QCFS activations with linear layers between them, and no skip from the image",
            )
        per_step.append(True in before or isinstance(node.operation, Relu))


def _require_results_used(cnn: nn.Module, images: Tensor) -> None:
    """Raise a `UsageError` if the forward goes on with the input of an in-place ReLU; it turns ``cnn`` into spikes.

    `WithQcfs` fills that input with NaN, as spikes of several steps do not fit into it.
    """
    found: list[bool] = []
    spiking = SpikingCnn(cnn, 2)
    for module in cnn.modules():
        if isinstance(module, SpikingQcfs):
            module.register_forward_pre_hook(lambda _, given: found.append(bool(given[0].isfinite().all())))
    try:
        with torch.no_grad():
            found.append(bool(spiking(images, {}).isfinite().all()))
        reason = "" if all(found) else "uses the input of an in-place ReLU after it"
    except RuntimeError as error:
        reason = f"fails on spikes of two steps ({first_line(error)})"
    if reason:
        raise UsageError(
            f"found a forward that {reason}",
            where="timesteps",
            expected="needs one that uses what its in-place ReLUs return, and takes any number of images",
            hint="Write h = relu(h), or train it without `timesteps`.",
        )


_SHOWN: Final = 8
"""Images of a step in train mode: batch normalization of a single pixel needs several."""


@torch.inference_mode(False)
@torch.enable_grad()
def require_training(design: Design, splits: DataSplits) -> None:
    """Raise an error if the CNN of ``design`` computes something else in training than scores, or without gradients.

    Raises
    ------
    UsageError
        If its forward fails or returns something else in train mode, or computes parts of a QCFS network again for
        gradients.
    MemoryError, OSError, RuntimeError
        If memory or disk space ran out, unchanged.
    """
    if len(splits.train) < 2:
        # Too few for batch normalization, of which the training tells.
        return
    model = design.build()
    model.train()
    shown = inputs_of(pixels(splits.train.images[:_SHOWN]), design.normalization, design.image_shape)
    try:
        with users_code(), torch.random.fork_rng(devices=[]):
            cnn = model.cnn if isinstance(model, WithQcfs) else model
            returned = scores_of(cnn(shown))
            if not isinstance(returned, Tensor):
                raise UsageError(
                    f"returns a {type(returned).__name__} in training",
                    where=design.name,
                    expected="must return only its scores, as in eval mode",
                    hint="Switch its auxiliary outputs off, for example by aux_logits=False.",
                )
            if isinstance(model, WithQcfs):
                scores = model(shown)
                scores.sum().backward()
                if _is_recomputed(scores):
                    raise UsageError("needs torch.utils.checkpoint, which leaves QCFS out", where=design.name)
    except LoihiConvertError:
        raise
    # The user's forward may raise any exception.
    except Exception as error:
        require_not_of_machine(error)
        raise UsageError(f"its forward fails in train mode ({told(error)})", where=design.name) from error


def _is_recomputed(scores: Tensor) -> bool:
    """Whether a part is computed again in the backward pass, where its ReLUs are not replaced."""
    waiting, seen = [scores.grad_fn], set[object]()
    while waiting:
        if (step := waiting.pop()) not in seen and step is not None:
            seen.add(step)
            waiting += [before for before, _ in step.next_functions]
    return any(type(step).__name__ == "CheckpointFunctionBackward" for step in seen)


# Added to the names of parts of a CNN by torch.compile, activation checkpointing and FSDP.
_INFIXES: Final = ("_orig_mod.", "_checkpoint_wrapped_module.", "_fsdp_wrapped_module.")
# The usual names of the CNN in a wrapper, as of DistributedDataParallel or Lightning.
_USUAL: Final = ("module.", "model.", "net.", "network.")

_MAX_NAMES: Final = 4

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
    problems = {key: _problem(tensors, wanted) for key, (tensors, _) in candidates.items()}
    fitting = [key for key, problem in problems.items() if not problem]
    chosen = (fitting or [*candidates])[0]
    tensors, notes = candidates[chosen]
    if any(
        name.endswith("activations.0.threshold") and name not in wanted for state in states.values() for name in state
    ):
        raise CheckpointError(
            "holds a CNN from `fine_tune` and its trained thresholds, but not their number of levels",
            where=path,
            hint="Let `fine_tune` write the file, with `output`, or convert the module itself.",
        )
    if problems[chosen]:
        raise CheckpointError(
            f"does not match {arch}: {problems[chosen]}",
            where=path,
            hint='Give the CNN it was saved from; arguments go in parentheses, as in "nets:make_cnn(classes=10)".',
        )
    if len(fitting) > 1:
        others = first_few([repr(other) for other in fitting[1:]], _MAX_NAMES)
        notes = [*notes, f"the weights under {chosen!r} are used; {others} would fit too."]
    require_finite(tensors, path)
    filled = {name: _as_float32(name, tensor, path) for name, tensor in tensors.items()}
    dtypes = sorted({_dtype(tensor) for tensor in tensors.values() if tensor.is_floating_point()} - {"float32"})
    notes = [*notes, *[f"{first_few(dtypes, _MAX_NAMES)} tensors are converted to float32."] * bool(dtypes)]
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
        rest = f"; {first_few(others, _MAX_NAMES)} ignored" if others else ""
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


def _problem(tensors: _Tensors, wanted: Mapping[str, Tensor]) -> str:
    """Why ``tensors`` are not those of a CNN with the state ``wanted``; empty if they are."""
    missing, unknown = sorted(_needed(wanted.keys()) - tensors.keys()), sorted(tensors.keys() - wanted.keys())
    names = {"missing": missing, "unknown to the CNN": unknown}
    if any(names.values()):
        return "; ".join(f"{first_few(each, _MAX_NAMES)} {what}" for what, each in names.items() if each)
    for name, tensor in tensors.items():
        own = wanted[name]
        # A lazy module accepts any shape.
        if not is_lazy(own) and tensor.shape != own.shape:
            return f"{name} has shape {tuple(tensor.shape)}, not {tuple(own.shape)}"
        # The counter may be one of a state dict whose tensors were all converted to half precision.
        if tensor.is_floating_point() != own.is_floating_point() and not name.endswith(BATCH_COUNTER):
            return f"{name} is {_dtype(tensor)}, not {_dtype(own)}"
    return ""


def _as_float32(name: str, tensor: Tensor, path: Path) -> Tensor:
    if name.endswith(BATCH_COUNTER):
        return torch.nan_to_num(tensor, posinf=0.0).to(torch.int64)
    converted = tensor.to(torch.float32) if tensor.is_floating_point() else tensor
    if not bool(torch.isfinite(converted).all()):
        raise CheckpointError(f"{name} does not fit into float32: it contains {tensor.abs().max()}", where=path)
    return converted


def _dtype(tensor: Tensor) -> str:
    return str(tensor.dtype).removeprefix("torch.")
