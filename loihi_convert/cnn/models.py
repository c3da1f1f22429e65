"""The built-in CNN architectures.

All but ``conv3-max`` and ``resnet20`` satisfy the conditions under which a CNN converts without loss of structure (Ngu
& Lee 2022, section 3): convolution, then ReLU, then average pooling; no max pooling. The order matters: pooling after
ReLU is a linear map of the spikes. The networks with two convolutions have no biases either. The others have batch
normalization between convolution and ReLU, which the front end folds into the weights, and biases in their hidden dense
layers. The paper's dropout is not a layer here but part of the training, see `recipe.Recipe`.
`RoundedWeights` are what they compute with in quantization-aware fine-tuning.

=======================  ==================================================================================
``"mnist-cnn"``          12c5-2ap-64c5-2ap-``classes``, convolutions unpadded (the paper's MNIST CNN)
``"fashion-mnist-cnn"``  128c5-2ap-256c5-2ap-``classes``, convolutions unpadded (the paper's Fashion-MNIST CNN)
``"digits-cnn"``         16c3-2ap-32c3-2ap-``classes``, convolutions padded by 1
``"conv3-avg"``          32c3-2ap-64c3-2ap-128c3-``classes``, padded, batch norm
``"conv3-max"``          the same with 2 x 2 max pooling: 32c3-2mp-64c3-2mp-128c3-``classes``
``"vgg-small"``          64c3-64c3-2ap-128c3-128c3-2ap-256c3-256c3-2ap-``classes``, padded, batch norm
``"vgg16"``              VGG-16 for small images: 13 convolutions of 64..512 channels in five blocks, each with
                         2ap after it, then 512-512-``classes``; padded, batch norm
``"resnet20"``           16c3, three stages of three residual blocks of 16, 32, 64 channels, each of two 3 x 3
                         convolutions with batch norm, the mean of each map, ``classes`` (He et al. 2016, section
                         4.2); a stage that halves the map has a 1 x 1 convolution in its skip (their option B)
=======================  ==================================================================================

``12c5`` is a convolution with 12 channels, a 5 x 5 kernel and ReLU, ``2ap`` is 2 x 2 average pooling.

Input: float32 ``(N, C, H, W)`` in 0..1 (pixel / 255), without normalization. Output: scores
``(N, classes)``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Final, NamedTuple, get_args

import torch
from torch import Tensor, nn

from loihi_convert.cnn.qcfs import MIN_THRESHOLD, Qcfs
from loihi_convert.errors import UsageError, one_of
from loihi_convert.ground.choices import Architecture
from loihi_convert.ir.quantized import nearest_scales

ARCHITECTURES: Final[tuple[str, ...]] = get_args(Architecture)


def build_model(
    architecture: str, input_shape: tuple[int, int, int], classes: int, *, qcfs_levels: int | None = None
) -> nn.Module:
    """Return the untrained CNN ``architecture``.

    A table at the top describes them; ``input_shape`` is ``(C, H, W)``, and ``classes`` the number of outputs. With
    ``qcfs_levels``, L, activations are `qcfs.Qcfs` instead of ReLU.
    """
    if architecture not in _BUILT:
        raise UsageError(f"found {architecture!r}", where="architecture", expected=one_of(ARCHITECTURES))
    model = _BUILT[architecture](input_shape, classes)
    if torch.get_default_dtype() != torch.float32:
        model.float()
    if qcfs_levels is not None:
        channels = 0
        # Every ReLU has the channels of the layer before it, also in a residual block.
        for name, module in list(model.named_modules()):
            if isinstance(module, nn.Conv2d):
                channels = module.out_channels
            elif isinstance(module, nn.Linear):
                channels = module.out_features
            elif isinstance(module, nn.ReLU):
                parent, _, child = name.rpartition(".")
                setattr(model.get_submodule(parent), child, Qcfs(channels, qcfs_levels))
    return model


def multiply_adds(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return the multiply-adds of ``model`` for one image ``(C, H, W)``."""
    from torch.utils.flop_counter import FlopCounterMode

    was_training = model.training
    like = next(nn.Module.parameters(model))
    # Not chained: a user's `train`, which it calls, may return nothing.
    model.eval()
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        model(like.new_zeros(1, *input_shape))
    model.train(was_training)
    return int(counter.get_total_flops()) // 2


def _unfit(input_shape: tuple[int, int, int], expected: str) -> UsageError:
    """The error for images that an architecture cannot use."""
    return UsageError(
        f"found images of {input_shape[1]} x {input_shape[2]}",
        where="architecture",
        expected=expected,
        hint="Choose another architecture, or resize the images.",
    )


def _two_convolutions(
    input_shape: tuple[int, int, int], classes: int, *, channels: tuple[int, int], kernel: int, padding: int
) -> nn.Module:
    depth, *size = input_shape
    for _ in channels:
        size = [length + 2 * padding - kernel + 1 for length in size]
        if any(length < 2 or length % 2 for length in size):
            expected = f"must have even sizes after each {kernel} x {kernel} convolution, for 2 x 2 average pooling"
            raise _unfit(input_shape, expected)
        size = [length // 2 for length in size]
    first, second = channels
    return nn.Sequential(
        OrderedDict(
            conv1=nn.Conv2d(depth, first, kernel, padding=padding, bias=False),
            relu1=nn.ReLU(),
            pool1=nn.AvgPool2d(2),
            conv2=nn.Conv2d(first, second, kernel, padding=padding, bias=False),
            relu2=nn.ReLU(),
            pool2=nn.AvgPool2d(2),
            flatten=nn.Flatten(),
            fc=nn.Linear(second * size[0] * size[1], classes, bias=False),
        )
    )


def _vgg(
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    blocks: Sequence[Sequence[int]],
    hidden: Sequence[int] = (),
    pooling: type[nn.AvgPool2d | nn.MaxPool2d] = nn.AvgPool2d,
    halvings: int | None = None,
) -> nn.Module:
    """Blocks of padded 3 x 3 convolutions with batch norm, pooling after the first blocks or all, then dense layers."""
    depth, height, width = input_shape
    halvings = len(blocks) if halvings is None else halvings
    factor = 2**halvings
    if height % factor or width % factor:
        raise _unfit(input_shape, f"height and width must be multiples of {factor}")
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, block in enumerate(blocks, 1):
        for position, channels in enumerate(block, 1):
            name = f"{number}_{position}"
            layers[f"conv{name}"] = nn.Conv2d(depth, channels, 3, padding=1, bias=False)
            layers[f"norm{name}"] = nn.BatchNorm2d(channels)
            layers[f"relu{name}"] = nn.ReLU()
            depth = channels
        if number <= halvings:
            layers[f"pool{number}"] = pooling(2)
    layers["flatten"] = nn.Flatten()
    features = depth * (height // factor) * (width // factor)
    for number, neurons in enumerate(hidden, 1):
        layers[f"fc{number}"] = nn.Linear(features, neurons)
        layers[f"fc_relu{number}"] = nn.ReLU()
        features = neurons
    layers["fc"] = nn.Linear(features, classes, bias=False)
    return nn.Sequential(layers)


class ResidualBlock(nn.Module):
    """Two 3 x 3 convolutions with batch norm, and the input added before the last ReLU.

    Parameters
    ----------
    depth, channels
        Channels of its input and its output.
    stride
        Stride of the first convolution. If the shape changes, the skip has a 1 x 1 convolution.
    """

    def __init__(self, depth: int, channels: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(depth, channels, 3, stride=stride, padding=1, bias=False)
        self.norm1 = nn.BatchNorm2d(channels)
        self.relu1 = nn.ReLU()
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1, bias=False)
        self.norm2 = nn.BatchNorm2d(channels)
        self.skip: nn.Module = nn.Identity()
        if (depth, 1) != (channels, stride):
            conv = nn.Conv2d(depth, channels, 1, stride=stride, bias=False)
            self.skip = nn.Sequential(OrderedDict(conv=conv, norm=nn.BatchNorm2d(channels)))
        self.relu2 = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        y = self.relu1(self.norm1(self.conv1(x)))
        y = self.norm2(self.conv2(y)) + self.skip(x)
        found: Tensor = self.relu2(y)
        return found


def _resnet(input_shape: tuple[int, int, int], classes: int, *, stages: Sequence[int], blocks: int) -> nn.Module:
    """A convolution, stages of residual blocks, each but the first halving the map, and the mean of each map."""
    depth, *size = input_shape
    if min(size) < 2 ** (len(stages) - 1):
        raise _unfit(input_shape, f"height and width must be at least {2 ** (len(stages) - 1)}")
    layers: OrderedDict[str, nn.Module] = OrderedDict(
        conv1=nn.Conv2d(depth, stages[0], 3, padding=1, bias=False), norm1=nn.BatchNorm2d(stages[0]), relu1=nn.ReLU()
    )
    depth = stages[0]
    for number, channels in enumerate(stages, 1):
        for position in range(1, blocks + 1):
            stride = 2 if number > 1 and position == 1 else 1
            layers[f"block{number}_{position}"] = ResidualBlock(depth, channels, stride)
            depth = channels
    layers["pool"] = nn.AdaptiveAvgPool2d(1)
    layers["flatten"] = nn.Flatten()
    layers["fc"] = nn.Linear(depth, classes)
    return nn.Sequential(layers)


_VGG16: Final = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
_BUILT: Final[Mapping[str, Callable[[tuple[int, int, int], int], nn.Module]]] = {
    "mnist-cnn": partial(_two_convolutions, channels=(12, 64), kernel=5, padding=0),
    "fashion-mnist-cnn": partial(_two_convolutions, channels=(128, 256), kernel=5, padding=0),
    "digits-cnn": partial(_two_convolutions, channels=(16, 32), kernel=3, padding=1),
    "conv3-avg": partial(_vgg, blocks=((32,), (64,), (128,)), halvings=2),
    "conv3-max": partial(_vgg, blocks=((32,), (64,), (128,)), halvings=2, pooling=nn.MaxPool2d),
    "vgg-small": partial(_vgg, blocks=((64, 64), (128, 128), (256, 256))),
    "vgg16": partial(_vgg, blocks=_VGG16, hidden=(512, 512)),
    "resnet20": partial(_resnet, stages=(16, 32, 64), blocks=3),
}


Parameters = Mapping[str, Tensor]
"""Parameters of a model by name."""


class _Rounded(NamedTuple):
    weight: str
    threshold_before: str | None
    is_output: bool


class RoundedWeights:
    """The rounded weights of a model from `build_model` with QCFS activations, with which it is trained for a chip.

    `quantize` rounds a weight times the amplitude of its input spikes, which is the threshold of their channel. The
    same is done here in each forward pass, with the current thresholds; gradients ignore the rounding (straight-through
    estimator, Bengio et al. 2013).

    Parameters
    ----------
    model
        The CNN; only its structure is used.
    bits
        2..8, sign included.

    Raises
    ------
    UsageError
        If the model is not a plain chain: the input of a residual block has a different amplitude in each of its sums.
    """

    def __init__(self, model: nn.Module, bits: int) -> None:
        self._largest = 2 ** (bits - 1) - 1
        synapses: list[_Rounded] = []
        threshold: str | None = None
        for name, module in model.named_children():
            if isinstance(module, ResidualBlock):
                expected = "must be unset unless the CNN is a plain chain of layers"
                raise UsageError("found a network with residual blocks", where="weight_bits", expected=expected)
            if isinstance(module, (nn.Conv2d, nn.Linear)):
                synapses.append(_Rounded(f"{name}.weight", threshold, is_output=False))
            elif isinstance(module, Qcfs):
                threshold = f"{name}.threshold"
        self._synapses = [*synapses[:-1], synapses[-1]._replace(is_output=True)]

    def scales(self, tensors: Parameters) -> dict[str, Tensor]:
        """Return the scales as in `quantize`: ``(C_out, 1)``, one per row of each weight; one for all output rows."""
        found = {}
        for synapse in self._synapses:
            rows = _rows(synapse, tensors).detach()
            numbers = rows.cpu().numpy()
            chosen = nearest_scales(numbers.reshape(1, -1) if synapse.is_output else numbers, self._largest)
            found[synapse.weight] = torch.from_numpy(chosen).float().reshape(-1, 1).to(rows.device)
        return found

    def weights(self, tensors: Parameters, scales: Parameters) -> dict[str, Tensor]:
        """Return the rounded weights in ``tensors``; gradients pass to the unrounded weights."""
        found = {}
        for synapse in self._synapses:
            weight, factors, rows = tensors[synapse.weight], _factors(synapse, tensors), _rows(synapse, tensors)
            with torch.no_grad():
                scale = scales[synapse.weight].clamp_min(torch.finfo(torch.float32).tiny)
                steps = (rows / scale).round().clamp(-self._largest, self._largest)
                change = (steps * scale).reshape(weight.shape) / factors - weight
            found[synapse.weight] = weight + change
        return found


def rounded_state(model: nn.Module, state: Parameters, bits: int | None) -> Parameters:
    """Return ``state`` with the weights that a CNN trained for ``bits`` computes with; unchanged for None.

    ``model`` is the CNN; only its structure is used.
    """
    if bits is None:
        return state
    rounded = RoundedWeights(model, bits)
    with torch.no_grad():
        return {**state, **rounded.weights(state, rounded.scales(state))}


def _rows(synapse: _Rounded, tensors: Parameters) -> Tensor:
    """``(C_out, inputs)``: weights times the amplitude of an input spike."""
    return (tensors[synapse.weight] * _factors(synapse, tensors)).flatten(1)


def _factors(synapse: _Rounded, tensors: Parameters) -> Tensor:
    """The amplitude of an input spike, a factor on the weights: the threshold of its channel."""
    weight = tensors[synapse.weight]
    if synapse.threshold_before is None:
        return weight.new_ones(1)
    threshold = tensors[synapse.threshold_before].detach().clamp_min(MIN_THRESHOLD)
    if weight.ndim == 2:
        # Flattened maps: all positions of a channel are adjacent.
        return threshold.repeat_interleave(weight.shape[1] // len(threshold))
    return threshold.reshape(-1, 1, 1)
