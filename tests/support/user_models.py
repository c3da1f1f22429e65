"""Six CNNs as six users would write them, for `export --arch user_models:NAME`."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch.nn import functional as F  # noqa: N812 (as users write it)

from loihi_convert.data import Dataset
from loihi_convert.ground.normalization import Normalization


class Sequential(nn.Sequential):
    """Batch norm after each convolution, one nn.Sequential."""

    def __init__(self) -> None:
        super().__init__(
            *(nn.Conv2d(1, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(inplace=True), nn.AvgPool2d(2)),
            *(nn.Conv2d(16, 32, 3, padding="same", bias=False), nn.BatchNorm2d(32), nn.ReLU(), nn.AvgPool2d(2)),
            *(nn.Flatten(), nn.Dropout(0.2), nn.Linear(128, 10)),
        )


class Tutorial(nn.Module):
    """PyTorch's tutorial with average pooling: functions in forward, one pooling module used twice, view, biases."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(1, 12, 3, padding=1)
        self.pool = nn.AvgPool2d(2, 2)
        self.conv2 = nn.Conv2d(12, 24, 3, padding=1)
        self.fc1 = nn.Linear(24 * 2 * 2, 40)
        self.fc2 = nn.Linear(40, 10)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 24 * 2 * 2)
        x = F.dropout(F.relu(self.fc1(x)), 0.2, self.training)
        return self.fc2(x)  # type: ignore[no-any-return]


class Separable(nn.Module):
    """Depthwise and pointwise convolutions as in MobileNet, the average of the whole map at the end."""

    def __init__(self) -> None:
        super().__init__()

        def block(inputs: int, outputs: int, stride: int) -> nn.Sequential:
            return nn.Sequential(
                *(nn.Conv2d(inputs, inputs, 3, stride, 1, groups=inputs, bias=False), nn.BatchNorm2d(inputs)),
                *(nn.ReLU(), nn.Conv2d(inputs, outputs, 1, bias=False), nn.BatchNorm2d(outputs), nn.ReLU()),
            )

        self.stem = nn.Sequential(nn.Conv2d(1, 16, 3, padding=1, bias=False), nn.BatchNorm2d(16), nn.ReLU())
        self.blocks = nn.ModuleList([block(16, 32, 2), block(32, 48, 1)])
        self.head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(48, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x)  # type: ignore[no-any-return]


class Shapes(nn.Module):
    """Kernels that are not square, dilation, strides, groups."""

    def __init__(self) -> None:
        super().__init__()
        self.wide = nn.Conv2d(1, 12, (1, 5), padding=(0, 2))
        self.tall = nn.Conv2d(12, 24, (5, 1), padding=(2, 0), groups=3)
        self.dilated = nn.Conv2d(24, 32, 3, padding=2, dilation=2, stride=(2, 1))
        self.act = nn.ReLU()
        self.fc = nn.Linear(32 * 4 * 8, 10, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        for layer in (self.wide, self.tall, self.dilated):
            x = self.act(layer(x))
        return self.fc(torch.flatten(x, 1))  # type: ignore[no-any-return]


class Normalizing(nn.Module):
    """Normalizes its images before a padded convolution; averages with mean over the axes."""

    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor([0.3]))
        self.register_buffer("std", torch.tensor([0.37]))
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 48, 3, stride=2, padding=1)
        self.fc = nn.Linear(48, 10)

    def forward(self, x: Tensor, return_features: bool = False) -> Tensor:
        x = (x - self.mean[:, None, None]) / self.std[:, None, None]
        x = F.relu(self.conv2(F.relu(self.conv1(x)))).mean(dim=[2, 3])
        return x if return_features else self.fc(x)


class PreNorm(nn.Module):
    """Batch norm before each padded convolution, log_softmax at the end; the caller normalizes the images."""

    def __init__(self) -> None:
        super().__init__()
        self.features = nn.Sequential(
            *(nn.BatchNorm2d(1), nn.Conv2d(1, 16, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
            *(nn.BatchNorm2d(16), nn.Conv2d(16, 32, 3, padding=1), nn.ReLU(), nn.AvgPool2d(2)),
        )
        self.classifier = nn.Sequential(nn.BatchNorm1d(128), nn.Linear(128, 10))

    def forward(self, x: Tensor) -> Tensor:
        x = self.features(x)
        return F.log_softmax(self.classifier(x.reshape(x.shape[0], -1)), dim=1)


NORMALIZATIONS: Mapping[type[nn.Module], Normalization | None] = {
    Sequential: None,
    Tutorial: Normalization((0.5,), (0.5,)),
    Separable: None,
    Shapes: None,
    Normalizing: None,
    PreNorm: Normalization((0.3,), (0.37,)),
}
"""The six, and what their user subtracts and divides by before the CNN."""


def prepared(kind: type[nn.Module], data: Dataset) -> Tensor:
    """Return the images as the user of ``kind`` prepares them: float32 ``(N, C, H, W)``."""
    (mean,), (std,) = NORMALIZATIONS[kind] or ((0.0,), (1.0,))
    return (torch.from_numpy(data.images.copy()).float() / 255 - mean) / std


def trained(kind: type[nn.Module], data: Dataset, epochs: int, seed: int = 0) -> nn.Module:
    """Return a CNN of ``kind`` in eval mode, trained with Adam and cross entropy."""
    torch.manual_seed(seed)
    model, images, labels = kind(), prepared(kind, data), torch.from_numpy(data.known_labels.copy())
    optimizer = torch.optim.Adam(model.parameters(), 3e-3)
    for _ in range(epochs):
        for batch in torch.split(torch.randperm(len(images)), 64):
            optimizer.zero_grad()
            loss = F.cross_entropy(model(images[batch]), labels[batch])
            loss.backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return model.eval()
