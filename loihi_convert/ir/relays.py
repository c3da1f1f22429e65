"""Relays: neurons that repeat each spike of one neuron of the layer before, for what skips a layer.

A relay has one synapse, whose weight is its threshold theta: V0 + theta >= theta, so it fires when its source does, and
V is V0 again (soft reset) or 0 (hard reset). It therefore repeats a spike train exactly, whatever its initial potential
below theta. On Lava every layer answers one step later, and so does a relay: the spikes of all sources of a layer
arrive together.

How relays are counted, everywhere in this package:

=============================================  =======================================================================
number                                         relays
=============================================  =======================================================================
firing rates, activation sparsity, silent and  left out: a relay repeats another neuron, which has been counted
saturated channels, ranges of thresholds
correlation with the CNN, errors, weight bits  left out: a relay has no error of its own, and causes no loss
of a layer, share of clipped activations
the CNN's multiplications                      left out: the CNN does not multiply where a value is only passed on
neurons, spikes, synaptic operations, updates  included, and their share is named: a relay works as any other neuron
energy, time, memory, neurocores               included, and their share is named
equality of backends, exactness and chip       included: a relay must be exact, and fit the chip, as any other neuron
rules, clipped potentials
=============================================  =======================================================================
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from loihi_convert.arrays import Array
from loihi_convert.errors import RangeError
from loihi_convert.ir.synapse import Conv, Dense, Synapse


def is_relay(relay_of: Array | None, channels: int) -> Array:
    """Return which channels are relays: bool ``(channels,)``."""
    return np.zeros(channels, np.bool_) if relay_of is None else np.asarray(relay_of >= 0)


def relay_count(relay_of: Array | None) -> int:
    """Return how many channels of a layer are relays."""
    return 0 if relay_of is None else int(np.count_nonzero(relay_of >= 0))


def relayed(values: Array, before: Array, relay_of: Array | None) -> Array:
    """Return ``values``, ``(C_out,)``, with those of relays replaced by what their sources have in ``before``."""
    if relay_of is None:
        return values
    return np.where(relay_of >= 0, before[relay_of], values)


def only_relays(relay_of: Array | None) -> bool:
    """Return whether a layer holds nothing but relays."""
    return relay_of is not None and bool((relay_of >= 0).all())


def own_channels(relay_of: Array | None) -> slice | Array:
    """Return an index of the channels that are not relays; of all, if there is nothing but relays.

    A slice, which copies nothing, where there are no relays.
    """
    if relay_of is None or only_relays(relay_of) or not (relay_of >= 0).any():
        return slice(None)
    return np.flatnonzero(relay_of < 0)


def without_relays(synapse: Synapse, relay_of: Array | None) -> Synapse:
    """Return the synapse of the same geometry in which no input reaches a relay."""
    if relay_of is None:
        return synapse
    own = ~is_relay(relay_of, synapse.channels).reshape(-1, *(1,) * (synapse.weight.ndim - 1))
    return replace(synapse, weight=synapse.weight * own)


def require_relays(name: str, synapse: Synapse, relay_of: Array | None) -> None:
    """Raise a `RangeError` unless each relay of the layer ``name`` has one positive weight, and it meets its source.

    ``relay_of`` is that of `network.ReluLayer`. A layer with relays pools nothing, and gives relays no bias.
    """
    if relay_of is None:
        return
    if relay_of.shape != (synapse.channels,) or not np.issubdtype(relay_of.dtype, np.integer):
        raise RangeError(
            f"found {relay_of.dtype} {relay_of.shape}",
            where=name,
            expected=f"relay_of must be int ({synapse.channels},)",
        )
    relays = np.flatnonzero(relay_of >= 0)
    if not relays.size:
        return
    if synapse.pool != (1, 1):
        raise RangeError(f"has relays behind a pooling of {synapse.pool}", where=name, expected="must pool nothing")
    rows = synapse.weight[relays].reshape(relays.size, -1)
    if (np.count_nonzero(rows, axis=1) > 1).any() or rows.min(initial=0) < 0:
        raise RangeError("a relay has more than one weight, or a negative one", where=name, expected="must have one")
    if synapse.bias is not None and synapse.bias[relays].any():
        raise RangeError("a relay has a bias", where=name, expected="must have none")
    taps = rows.argmax(axis=1)
    if isinstance(synapse, Conv):
        _, inputs, *kernel = synapse.weight.shape
        groups = relays // (synapse.channels // synapse.groups)
        found = groups * inputs + taps // int(np.prod(kernel))
        wrong = (found != relay_of[relays]) & rows.any(axis=1)
        if wrong.any():
            raise RangeError(
                f"channel {relays[wrong][0]} repeats {found[wrong][0]}",
                where=name,
                expected=f"must repeat {relay_of[relays][wrong][0]}, as relay_of says",
            )


def require_exact_relays(
    name: str, synapse: Synapse, relay_of: Array | None, threshold: Array | None, sources: int
) -> None:
    """Raise a `RangeError` unless each relay of a layer of integers fires when its source does, and only then.

    Its weight must be its threshold. A relay of a channel that can never fire has none, and never fires.

    Parameters
    ----------
    name, synapse, relay_of
        Of the layer; `require_relays` holds.
    threshold
        Of its neurons: ``(C_out,)``, integers.
    sources
        Channels of the layer before.
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
        raise RangeError(f"a relay's weight is its threshold does not hold: {found}", where=name)
    repeats = relay_of[relays]
    if isinstance(synapse, Dense):
        taps = rows.argmax(axis=1) // max(1, rows.shape[1] // sources)
        repeats = np.where(weights > 0, taps, repeats)
    if not np.array_equal(repeats, relay_of[relays]) or repeats.max(initial=0) >= sources:
        raise RangeError(
            "a relay repeats another channel than relay_of says",
            where=name,
            expected=f"must be one of the {sources} channels of the layer before, at the relay's one weight",
        )
