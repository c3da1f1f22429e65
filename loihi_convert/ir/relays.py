"""Relays: neurons that repeat each spike of one neuron of the layer before, for connections that skip a layer.

A relay has one synapse, whose weight is its threshold theta. As V0 + theta >= theta, it fires when its source does, and
V returns to V0 (soft reset) or 0 (hard reset). It therefore repeats a spike train exactly, for any initial potential
below theta. On Lava every layer responds one step later, and so does a relay, so the spikes of all sources of a layer
arrive together.

How relays are counted throughout this package:

=============================================  =======================================================================
number                                         relays
=============================================  =======================================================================
firing rates, activation sparsity, silent and  left out: a relay repeats another neuron, already counted
saturated channels, ranges of thresholds
correlation with the CNN, errors, weight bits  left out: a relay adds no error and causes no loss
of a layer, share of clipped activations
the CNN's multiplications                      left out: the CNN does not multiply values it only passes on
neurons, spikes, synaptic operations, updates  included, and their share is given: a relay does the same work
energy, time, memory, neurocores               included, and their share is given
equality of backends, exactness and chip       included: a relay must be exact and fit the chip like any neuron
rules, clipped potentials
=============================================  =======================================================================
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from loihi_convert.errors import RangeError
from loihi_convert.ground.arrays import Array, by_channel
from loihi_convert.ir.synapse import Conv, Dense, Synapse


def is_relay(relay_of: Array | None, channels: int) -> Array:
    """Return which channels are relays: bool ``(channels,)``."""
    return np.zeros(channels, np.bool_) if relay_of is None else np.asarray(relay_of >= 0)


def relay_count(relay_of: Array | None) -> int:
    """Return how many channels of a layer are relays."""
    return 0 if relay_of is None else int(np.count_nonzero(relay_of >= 0))


def relayed(values: Array, before: Array, relay_of: Array | None) -> Array:
    """Return ``values``, ``(C_out,)``, with the value of each relay replaced by its source's in ``before``."""
    if relay_of is None:
        return values
    return np.where(relay_of >= 0, before[relay_of], values)


def only_relays(relay_of: Array | None) -> bool:
    """Return whether all channels of a layer are relays."""
    return relay_of is not None and bool((relay_of >= 0).all())


def own_channels(relay_of: Array | None) -> slice | Array:
    """Return an index of the channels that are not relays; of all channels if all are relays.

    Without relays it is a slice, which makes no copy.
    """
    if relay_of is None or only_relays(relay_of) or not (relay_of >= 0).any():
        return slice(None)
    return np.flatnonzero(relay_of < 0)


def without_relays(synapse: Synapse, relay_of: Array | None) -> Synapse:
    """Return the synapse with the weights of relays set to 0."""
    if relay_of is None:
        return synapse
    own = by_channel(~is_relay(relay_of, synapse.channels), synapse.weight.ndim)
    return replace(synapse, weight=synapse.weight * own)


def require(holds: bool, where: str, found: str, expected: str) -> None:
    """Raise a `RangeError` about a layer, or a part of a network, unless a rule ``holds``."""
    if not holds:
        raise RangeError(found, where=where, expected=expected)


def brief(value: Array) -> str:
    """Return up to four numbers, or the dtype and shape of a larger array, for an error message."""
    return f"{value.dtype} {value.shape}" if value.size > 4 else f"{value.dtype} {value.tolist()}"


def is_positive(values: Array) -> Array:
    """Return which numbers are finite and above 0."""
    return np.asarray(np.isfinite(values) & (values > 0))


def require_numbers(
    name: str, channels: int, numbers: Iterable[tuple[str, Array | None, Callable[[Array], Array]]]
) -> None:
    """Raise a `RangeError` unless ``numbers`` of layer ``name``, and which of them are valid, have one per channel."""
    for what, array, are_valid in numbers:
        holds = array is None or (array.shape == (channels,) and bool(are_valid(array).all()))
        require(holds, name, f"{what} {'' if array is None else brief(array)}", "must be one valid number per channel")


def require_relays(name: str, synapse: Synapse, relay_of: Array | None) -> None:
    """Raise a `RangeError` unless each relay of layer ``name`` has one positive weight, at its source.

    ``relay_of`` is as in `network.ReluLayer`. A layer with relays must not pool, and its relays must not have a bias.
    """
    if relay_of is None:
        return
    fits = relay_of.shape == (synapse.channels,) and np.issubdtype(relay_of.dtype, np.integer)
    require(fits, name, f"found {relay_of.dtype} {relay_of.shape}", f"relay_of must be int ({synapse.channels},)")
    relays = np.flatnonzero(relay_of >= 0)
    if not relays.size:
        return
    require(synapse.pool == (1, 1), name, f"has relays after a pooling of {synapse.pool}", "must not pool")
    weight = synapse.weight.reshape(synapse.channels, -1)
    # One row at a time: a copy of all may not fit into memory.
    used = [np.flatnonzero(weight[relay]) for relay in relays]
    is_single = all(
        taps.size < 2 and (weight[relay, taps] >= 0).all() for relay, taps in zip(relays, used, strict=True)
    )
    require(is_single, name, "a relay has more than one weight, or a negative one", "must have one")
    has_bias = synapse.bias is not None and synapse.bias[relays].any()
    require(not has_bias, name, "a relay has a bias", "must not have one")
    if isinstance(synapse, Conv):
        _, inputs, *kernel = synapse.weight.shape
        connected = relays[[taps.size > 0 for taps in used]]
        groups = connected // (synapse.channels // synapse.groups)
        repeats = groups * inputs + np.concatenate(used) // int(np.prod(kernel))
        for channel, found, wanted in zip(connected, repeats, relay_of[connected], strict=True):
            if found != wanted:
                expected = f"must repeat {wanted}, as relay_of says"
                raise RangeError(f"channel {channel} repeats {found}", where=name, expected=expected)


def require_exact_relays(
    name: str, synapse: Synapse, relay_of: Array | None, threshold: Array | None, sources: int
) -> None:
    """Raise a `RangeError` unless each relay of an integer layer fires exactly when its source does.

    Its weight must equal its threshold. The relay of a channel that can never fire has weight 0 and never fires.

    Parameters
    ----------
    name, synapse, relay_of
        The layer, which has passed `require_relays`.
    threshold
        Thresholds of its neurons: ``(C_out,)``, integers.
    sources
        Number of channels of the layer before.
    """
    if relay_of is None or threshold is None:
        return
    relays = np.flatnonzero(relay_of >= 0)
    if not relays.size:
        return
    rows = synapse.weight[relays].reshape(relays.size, -1)
    weights, wanted = rows.sum(axis=1), threshold[relays]
    wrong = np.flatnonzero((weights != wanted) & (weights != 0))
    if wrong.size:
        found = f"weight {weights[wrong[0]]} of channel {relays[wrong[0]]}, whose threshold is {wanted[wrong[0]]}"
        raise RangeError(f"a relay's weight must equal its threshold; found {found}", where=name)
    repeats = relay_of[relays]
    if isinstance(synapse, Dense):
        taps = rows.argmax(axis=1) // max(1, rows.shape[1] // sources)
        repeats = np.where(weights > 0, taps, repeats)
    is_source = np.array_equal(repeats, relay_of[relays]) and repeats.max(initial=0) < sources
    expected = f"must be one of the {sources} channels of the layer before, at the relay's only weight"
    require(is_source, name, "a relay does not repeat the channel given in relay_of", expected)
