"""A CNN -> Loihi's integers, its skips spread over as many relays as are worth it."""

from __future__ import annotations

from dataclasses import replace

from loihi_convert.arrays import Array
from loihi_convert.conversion.flow import Conversion, to_integers
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.conversion.skip_copies import COPIES, CopiesTrial, choose_copies
from loihi_convert.errors import UsageError
from loihi_convert.frontend.source import Source
from loihi_convert.ir.relays import relay_count
from loihi_convert.progress import ProgressFactory, no_progress_bar


def converted(
    source: Source,
    images: Array,
    timesteps: int,
    balance_options: BalanceOptions,
    quantize_options: QuantizeOptions,
    *,
    skip_copies: int | None = None,
    device: str = "cpu",
    bars: ProgressFactory = no_progress_bar,
) -> Conversion:
    """Return ``source`` in Loihi's integers, with the CNN in its provenance.

    Parameters
    ----------
    source
        The CNN.
    images
        Calibration images, uint8 ``(N, C, H, W)``.
    timesteps
        The latency T.
    balance_options, quantize_options
        See `BalanceOptions` and `QuantizeOptions`.
    skip_copies
        How many relays carry each value of a skip, 1..8; ``None``: as many of `COPIES` as make the network agree
        better with the CNN on calibration images.
    device
        Where it is simulated.
    bars
        Opens a progress bar for each stage.

    Raises
    ------
    UsageError
        If ``skip_copies`` is out of range, or as `to_integers`.
    RangeError, DataError
        As `to_integers`.
    """
    require_skip_copies(skip_copies)
    notes: tuple[str, ...] = ()
    if skip_copies is None and any(relay_count(layer.relay_of) for layer in source.network.layers):
        trials = choose_copies(
            lambda copies: source.with_skip_copies(copies).network,
            images,
            timesteps,
            balance_options,
            quantize_options,
            device=device,
            bars=bars,
        )
        skip_copies, notes = trials[0].copies, _notes(trials)
    chosen = source.with_skip_copies(skip_copies or 1)
    done = to_integers(chosen.network, images, timesteps, balance_options, quantize_options, device=device, bars=bars)
    provenance = done.quantized.provenance.with_parts(model=dict(chosen.provenance))
    return replace(done, quantized=replace(done.quantized, provenance=provenance), notes=(*notes, *done.notes))


def require_skip_copies(skip_copies: int | None) -> None:
    """Raise the `UsageError` of `converted` about ``skip_copies``; it can be known before any work."""
    if skip_copies is not None and not 1 <= skip_copies <= 2 * max(COPIES):
        raise UsageError(f"found {skip_copies}", where="skip_copies", expected=f"must be in 1..{2 * max(COPIES)}")


def _notes(trials: tuple[CopiesTrial, ...]) -> tuple[str, ...]:
    """What was chosen, and what the others gave; nothing where skips cost no bits."""
    best, *others = trials
    if not others:
        return ()
    by_copies = sorted(trials, key=lambda trial: trial.copies)
    found = ", ".join(f"{trial.copies}: {100 * trial.agreement:.2f} %" for trial in by_copies)
    return (
        f"each skip is carried by {best.copies} relay{'s' * (best.copies > 1)}; with one, its weight costs the "
        f"convolution that it joins {by_copies[0].identity_bits:.1f} bits. Agreement with the CNN on "
        f"{best.image_count} calibration images by relays: {found}. `skip_copies` sets them.",
    )
