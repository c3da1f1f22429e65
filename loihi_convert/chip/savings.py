"""Changes of a CNN that save neurocores of Loihi 2, each computed with `chip.partition`."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final

from loihi_convert.chip.partition import ConvLayer, DenseLayer, Kernel
from loihi_convert.ground.records import Record
from loihi_convert.ir.network import layer_words

CoreRange = tuple[int, int]
"""Fewest and most neurocores."""

_SHOWN: Final = 3

_LARGEST_STRIDE: Final = 4
"""A stride does not replace a larger pooling, such as a global one."""

_WORTH_CHANNELS: Final = 1 / 4
"""Smallest share of a layer's cores that fewer channels must save; the fewest channels that do are named. One channel
less can halve the cores: 8 x 8 x 64 neurons are one too many for a core."""


class Saving(Record):
    """One change.

    Attributes
    ----------
    layer
        The layer to change.
    change
        The change in words.
    before, after
        Neurocores of the layers whose cores change.
    """

    layer: str
    change: str
    before: CoreRange
    after: CoreRange

    @property
    def saved(self) -> int:
        """Neurocores saved, in the middle of both ranges, doubled to stay an integer."""
        return sum(self.before) - sum(self.after)

    @property
    def sentence(self) -> str:
        """The change and its effect."""
        return (
            f"{self.change} in {layer_words(self.layer)} ({span(self.after)} instead of {span(self.before)} neurocores)"
        )


@dataclass(frozen=True)
class Placed:
    """A layer of the network, and the pooling before it.

    Parameters
    ----------
    name
        Its name.
    layer
        The layer as the file stores it, with the pooling written out in its kernel or inputs.
    own
        Number of its channels that are not relays.
    pool
        (vertical, horizontal) window of the pooling; (1, 1) for none.
    unpooled
        The layer without the pooling: what it takes if its input is already small.
    smaller
        The layer with a kernel two taps smaller in each direction; None if it has none to give.
    """

    name: str
    layer: ConvLayer | DenseLayer
    own: int
    pool: tuple[int, int]
    unpooled: ConvLayer | DenseLayer
    smaller: ConvLayer | None


def span(cores: CoreRange) -> str:
    """Return a range as text: "3 to 5", or "3" if both ends are equal."""
    return " to ".join(f"{count:,}" for count in dict.fromkeys(cores))


def cores_of(*layers: ConvLayer | DenseLayer) -> CoreRange:
    """Return the neurocores of some layers together."""
    both = [layer.partitions() for layer in layers]
    return sum(low.cores for low, _ in both), sum(high.cores for _, high in both)


def savings(placed: Sequence[Placed]) -> tuple[Saving, ...]:
    """Return the changes that save most neurocores, the best first; at most one per layer."""
    best: dict[str, Saving] = {}
    for index, layer in enumerate(placed):
        is_last = index == len(placed) - 1
        for saving in _changes(layer, placed[index - 1] if index else None, is_last=is_last):
            if saving.saved > 0 and (layer.name not in best or saving.saved > best[layer.name].saved):
                best[layer.name] = saving
    return tuple(sorted(best.values(), key=lambda saving: -saving.saved)[:_SHOWN])


def _changes(placed: Placed, before: Placed | None, *, is_last: bool) -> Iterator[Saving]:
    name, cores = placed.name, cores_of(placed.layer)
    # The outputs of the last layer are the task's.
    fewer = [] if is_last or placed.own <= 1 else [1, *(placed.own // part for part in (8, 4, 2) if placed.own > part)]
    for count in fewer:
        after = cores_of(without_channels(placed.layer, count))
        if sum(cores) - sum(after) >= _WORTH_CHANNELS * sum(cores):
            what = "channels" if isinstance(placed.layer, ConvLayer) else "neurons"
            yield Saving(
                layer=name, change=f"{placed.own - count} {what} instead of {placed.own}", before=cores, after=after
            )
            break
    if placed.smaller is not None:
        change = "a kernel two taps smaller" + (" after the pooling" if placed.pool != (1, 1) else "")
        yield Saving(layer=name, change=change, before=cores, after=cores_of(placed.smaller))
    if placed.pool == (1, 1) or before is None or not isinstance(before.layer, ConvLayer):
        return
    both = cores_of(before.layer, placed.layer)
    strided = _strided(before.layer, placed.pool)
    if max(placed.pool) <= _LARGEST_STRIDE:
        yield Saving(
            layer=before.name,
            change=f"a stride of {_window(placed.pool)} instead of the pooling after it,",
            before=both,
            after=cores_of(strided, placed.unpooled),
        )
    channels = before.layer.kernel.channels
    pooling = replace(strided, kernel=Kernel(placed.pool[0] * placed.pool[1], 1, channels, channels), has_bias=False)
    yield Saving(
        layer=before.name,
        change="the pooling as a layer of its own, a strided convolution with groups = channels, after the ReLU",
        before=both,
        after=cores_of(before.layer, pooling, placed.unpooled),
    )


def without_channels(layer: ConvLayer | DenseLayer, fewer: int) -> ConvLayer | DenseLayer:
    """Return the layer without ``fewer`` of its channels, or neurons."""
    if isinstance(layer, DenseLayer):
        return replace(layer, neurons=layer.neurons - fewer)
    kernel = layer.kernel
    # Groups of a layer with relays may be as many as its channels; those that go take their groups along.
    groups = max(1, kernel.groups * (kernel.channels - fewer) // kernel.channels)
    return replace(layer, kernel=replace(kernel, channels=kernel.channels - fewer, groups=groups))


def narrowed(placed: Sequence[Placed], eighths: int) -> tuple[ConvLayer | DenseLayer, ...]:
    """Return the layers with ``eighths`` / 8 of the channels of every layer but the last, and inputs to match."""
    layers: list[ConvLayer | DenseLayer] = []
    for index, each in enumerate(placed):
        is_first, is_last = index == 0, index == len(placed) - 1

        def part(count: int, *, is_kept: bool) -> int:
            return count if is_kept else max(1, count * eighths // 8)

        if isinstance(each.layer, DenseLayer):
            neurons, inputs = part(each.layer.neurons, is_kept=is_last), part(each.layer.inputs, is_kept=is_first)
            layers.append(replace(each.layer, neurons=neurons, inputs=inputs))
            continue
        kernel = each.layer.kernel
        channels = part(kernel.channels, is_kept=is_last)
        # Of a grouped layer, groups go; what one group reads stays.
        inputs = part(kernel.inputs, is_kept=is_first or kernel.groups > 1)
        groups = part(kernel.groups, is_kept=is_last or kernel.groups == 1)
        layers.append(replace(each.layer, kernel=replace(kernel, channels=channels, inputs=inputs, groups=groups)))
    return tuple(layers)


def _strided(layer: ConvLayer, pool: tuple[int, int]) -> ConvLayer:
    return replace(layer, width=max(1, layer.width // pool[1]), height=max(1, layer.height // pool[0]))


def _window(pool: tuple[int, int]) -> str:
    return str(pool[0]) if pool[0] == pool[1] else f"{pool[0]} x {pool[1]}"
