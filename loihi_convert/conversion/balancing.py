"""ReluNetwork -> SpikingNetwork: firing thresholds balanced for a latency T."""

from __future__ import annotations

from loihi_convert.conversion.bias_correction import correct_biases
from loihi_convert.conversion.calibration import require_calibration
from loihi_convert.conversion.choice import choose_method
from loihi_convert.conversion.methods import balance_each
from loihi_convert.conversion.options import AUTO, BalanceOptions, require_timesteps
from loihi_convert.errors import require_kind
from loihi_convert.ir.network import ReluNetwork, SpikingNetwork
from loihi_convert.progress import Progress, no_progress
from loihi_convert.simulation.image_shards import ImageArray


def balance(
    network: ReluNetwork,
    images: ImageArray,
    timesteps: int,
    options: BalanceOptions = BalanceOptions(),
    *,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> SpikingNetwork:
    """Return ``network`` with integrate-and-fire neurons and thresholds balanced for ``timesteps`` steps.

    Parameters
    ----------
    network
        From `lower.to_relu_network`.
    images
        Calibration images, uint8 ``(N, C, H, W)``; training images, never test images.
    timesteps
        The latency T.
    options
        The method and its parameters: see `BalanceOptions`. Here ``auto`` chooses with the default `QuantizeOptions`;
        `convert` uses those given to it.
    device
        Where to simulate: ``"cpu"`` or another torch device.
    progress
        Counts images, separately for the choice, the balancing and the correction.

    Raises
    ------
    UsageError
        If an argument is of another type, the number of steps is out of range, the method needs a CNN trained with
        thresholds, or a regression is to be read from spikes.
    RangeError
        If activations overflow float32.
    DataError
        If the images do not fit the network, or there are none.
    """
    require_kind("network", network, ReluNetwork, "must be what `to_relu_network` returns")
    require_kind("options", options, BalanceOptions, "must be BalanceOptions, such as BalanceOptions(method='rmp')")
    require_timesteps((timesteps,))
    require_calibration(network, images)
    if options.method == AUTO:
        best, *_ = choose_method(network, images, timesteps, options, device=device, progress=progress)
        options = best.chosen(options)
    (balanced,) = balance_each(network, images, (timesteps,), options, device=device, progress=progress)
    if not options.bias_correction:
        return balanced
    is_given = options.initial_potential is not None
    return correct_biases(network, balanced, images, keeps_potentials=is_given, device=device, progress=progress)
