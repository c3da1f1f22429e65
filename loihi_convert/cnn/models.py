"""The source CNNs that can be trained here.

All obey the constraints under which a CNN converts without loss of structure (Ngu & Lee 2022, section 3): convolution,
then ReLU, then average pooling; no max pooling. The order matters: pooling after ReLU is a linear map of the spikes.
The two-convolution nets have no bias either; the VGG nets have batch normalization between convolution and ReLU, which
`convert` folds into the weights, and biases in their hidden dense layers. The paper's dropout is not a layer here but
part of the training, see `recipe.Recipe`.

Input: float32 ``(N, C, H, W)`` in 0..1, which is pixel / 255, without any normalization. Output: scores
``(N, classes)``.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Final, get_args

import torch
from torch import Tensor, nn

from loihi_convert.choices import Architecture
from loihi_convert.cnn.qcfs import Qcfs
from loihi_convert.errors import UsageError, one_of

ARCHITECTURES: Final[tuple[str, ...]] = get_args(Architecture)


def default_architecture(data: str) -> str:
    """Return the default architecture for a data set: ``vgg-small`` for cifar10, else ``<data>-cnn``."""
    return "vgg-small" if data == "cifar10" else f"{data}-cnn"


def paper_architecture(data: str) -> str:
    """Return the architecture that Ngu & Lee 2022 train on a data set: ``vgg16`` for cifar10, else ``<data>-cnn``."""
    return "vgg16" if data == "cifar10" else f"{data}-cnn"


def build_model(
    architecture: str, input_shape: tuple[int, int, int], classes: int, *, qcfs_levels: int | None = None
) -> nn.Module:
    """Return the untrained CNN ``architecture``.

    =======================  ==================================================================================
    ``"mnist-cnn"``          12c5-2ap-64c5-2ap-``classes``, convolutions unpadded (the paper's MNIST CNN)
    ``"fashion-mnist-cnn"``  128c5-2ap-256c5-2ap-``classes``, convolutions unpadded (the paper's Fashion-MNIST CNN)
    ``"digits-cnn"``         16c3-2ap-32c3-2ap-``classes``, convolutions padded by 1
    ``"vgg-small"``          64c3-64c3-2ap-128c3-128c3-2ap-256c3-256c3-2ap-``classes``, padded, batch norm
    ``"vgg16"``              VGG-16 for small images: 13 convolutions of 64..512 channels in five blocks, each with
                             2ap after it, then 512-512-``classes``; padded, batch norm
    =======================  ==================================================================================

    ``12c5`` is a convolution of 12 channels and kernel 5 x 5 with ReLU, ``2ap`` is 2 x 2 average pooling.

    Parameters
    ----------
    architecture
        One of `ARCHITECTURES`.
    input_shape
        ``(C, H, W)``.
    classes
        Number of outputs.
    qcfs_levels
        L of the activation `qcfs.Qcfs`, in place of ReLU.

    Raises
    ------
    UsageError
        If there is no such architecture, or the images do not fit its pooling.
    """
    model = _build(architecture, input_shape, classes)
    if qcfs_levels is not None:
        channels = 0
        for name, module in list(model.named_children()):
            if isinstance(module, nn.Conv2d):
                channels = module.out_channels
            elif isinstance(module, nn.Linear):
                channels = module.out_features
            elif isinstance(module, nn.ReLU):
                setattr(model, name, Qcfs(channels, qcfs_levels))
    return model


def notation(architecture: str, input_shape: tuple[int, int, int], classes: int) -> str:
    """Return the CNN's layers as the literature writes them: ``28x28-12c5-2ap-64c5-2ap-10o``.

    ``12c5`` is a convolution of 12 channels and kernel 5 x 5, ``2ap`` 2 x 2 average pooling, ``512fc`` a hidden dense
    layer and ``10o`` the outputs; ReLU follows each but the last.
    """
    channels, height, width = input_shape
    parts = [f"{height}x{width}" + (f"x{channels}" if channels > 1 else "")]
    with torch.device("meta"):
        modules = list(_build(architecture, input_shape, classes).children())
    for module in modules:
        if isinstance(module, nn.Conv2d):
            parts.append(f"{module.out_channels}c{module.kernel_size[0]}")
        elif isinstance(module, nn.AvgPool2d):
            parts.append(f"{module.kernel_size}ap")
        elif isinstance(module, nn.Linear):
            parts.append(f"{module.out_features}{'o' if module is modules[-1] else 'fc'}")
    return "-".join(parts)


def multiply_adds(model: nn.Module, input_shape: tuple[int, int, int]) -> int:
    """Return the multiply-adds of the convolutions and dense layers of ``model`` for one image ``(C, H, W)``."""
    total = 0

    def add(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        nonlocal total
        positions = output[0, 0].numel() if isinstance(module, nn.Conv2d) else 1
        total += module.get_parameter("weight").numel() * positions

    hooks = [
        module.register_forward_hook(add) for module in model.modules() if isinstance(module, (nn.Conv2d, nn.Linear))
    ]
    was_training = model.training
    with torch.no_grad():
        model.eval()(torch.zeros(1, *input_shape))
    model.train(was_training)
    for hook in hooks:
        hook.remove()
    return total


def _build(architecture: str, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    if architecture == "mnist-cnn":
        return _two_convolutions(architecture, input_shape, classes, channels=(12, 64), kernel=5, padding=0)
    if architecture == "fashion-mnist-cnn":
        return _two_convolutions(architecture, input_shape, classes, channels=(128, 256), kernel=5, padding=0)
    if architecture == "digits-cnn":
        return _two_convolutions(architecture, input_shape, classes, channels=(16, 32), kernel=3, padding=1)
    if architecture == "vgg-small":
        return _vgg(architecture, input_shape, classes, blocks=((64, 64), (128, 128), (256, 256)), hidden=())
    if architecture == "vgg16":
        blocks = ((64, 64), (128, 128), (256, 256, 256), (512, 512, 512), (512, 512, 512))
        return _vgg(architecture, input_shape, classes, blocks=blocks, hidden=(512, 512))
    raise UsageError(
        f"found {architecture!r}",
        where="architecture",
        expected=one_of(ARCHITECTURES),
        hint="Or convert your own nn.Module.",
    )


def _two_convolutions(
    architecture: str,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    channels: tuple[int, int],
    kernel: int,
    padding: int,
) -> nn.Module:
    depth, *size = input_shape
    for _ in channels:
        convolved = [max(0, length + 2 * padding - kernel + 1) for length in size]
        if any(length < 2 or length % 2 for length in convolved):
            raise UsageError(
                f"{architecture} cannot take images of {input_shape[1]} x {input_shape[2]}: a convolution leaves "
                f"{convolved[0]} x {convolved[1]}",
                where="architecture",
                expected="2 x 2 average pooling needs even sizes",
                hint="Choose another architecture, or resize the images.",
            )
        size = [length // 2 for length in convolved]
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
    architecture: str,
    input_shape: tuple[int, int, int],
    classes: int,
    *,
    blocks: Sequence[Sequence[int]],
    hidden: Sequence[int],
) -> nn.Module:
    """Blocks of padded 3 x 3 convolutions with batch norm, pooling after each block, then dense layers."""
    depth, height, width = input_shape
    factor = 2 ** len(blocks)
    if height % factor or width % factor:
        raise UsageError(
            f"{architecture} cannot take images of {height} x {width}, which it halves {len(blocks)} times",
            where="architecture",
            expected=f"height and width must be multiples of {factor}",
            hint="Choose another architecture, or resize the images.",
        )
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for number, block in enumerate(blocks, 1):
        for position, channels in enumerate(block, 1):
            name = f"{number}_{position}"
            layers[f"conv{name}"] = nn.Conv2d(depth, channels, 3, padding=1, bias=False)
            layers[f"norm{name}"] = nn.BatchNorm2d(channels)
            layers[f"relu{name}"] = nn.ReLU()
            depth = channels
        layers[f"pool{number}"] = nn.AvgPool2d(2)
    layers["flatten"] = nn.Flatten()
    features = depth * (height // factor) * (width // factor)
    for number, neurons in enumerate(hidden, 1):
        layers[f"fc{number}"] = nn.Linear(features, neurons)
        layers[f"fc_relu{number}"] = nn.ReLU()
        features = neurons
    layers["fc"] = nn.Linear(features, classes, bias=False)
    return nn.Sequential(layers)
