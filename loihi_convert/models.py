"""The source CNNs that `train` can train.

Both obey the constraints under which a CNN converts without loss of structure (Ngu & Lee 2022, section 3): convolution,
then ReLU, then average pooling; no bias, no batch normalization, no max pooling. The order matters: pooling after
ReLU is a linear map of the spikes. The paper's spatial dropout of 0.5 is left out: augmentation regularizes enough.

Input: float32 ``(N, C, H, W)`` in 0..1, which is pixel / 255, without any normalization. Output: scores
``(N, classes)``.
"""

from __future__ import annotations

from collections import OrderedDict
from typing import Final

from torch import nn

from loihi_convert.errors import UsageError

ARCHITECTURES: Final[tuple[str, ...]] = ("mnist-cnn", "digits-cnn")


def build_model(architecture: str, input_shape: tuple[int, int, int], classes: int) -> nn.Module:
    """Return the untrained CNN ``architecture``.

    =================  ============================================================================
    ``"mnist-cnn"``    12c5-2ap-64c5-2ap-``classes``, convolutions unpadded (the paper's MNIST CNN)
    ``"digits-cnn"``   16c3-2ap-32c3-2ap-``classes``, convolutions padded by 1
    =================  ============================================================================

    ``12c5`` is a convolution of 12 channels and kernel 5 x 5 with ReLU, ``2ap`` is 2 x 2 average pooling.

    Parameters
    ----------
    architecture
        One of `ARCHITECTURES`.
    input_shape
        ``(C, H, W)``.
    classes
        Number of outputs.

    Raises
    ------
    UsageError
        If there is no such architecture, or the images do not fit its pooling.
    """
    if architecture == "mnist-cnn":
        return _two_convolutions(architecture, input_shape, classes, channels=(12, 64), kernel=5, padding=0)
    if architecture == "digits-cnn":
        return _two_convolutions(architecture, input_shape, classes, channels=(16, 32), kernel=3, padding=1)
    raise UsageError(
        f"architecture: {architecture!r} is not known; choose one of {', '.join(ARCHITECTURES)}, "
        "or convert your own nn.Module with loihi_convert.convert."
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
                f"architecture: {architecture} cannot take images of {input_shape[1]} x {input_shape[2]}: "
                f"a convolution leaves {convolved[0]} x {convolved[1]}, and 2 x 2 average pooling needs even sizes. "
                "Choose another architecture or resize the images."
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
