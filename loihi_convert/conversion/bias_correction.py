"""SpikingNetwork -> SpikingNetwork: correct biases and initial potentials for the error at few time steps.

With few steps the spikes of a layer arrive unevenly, unlike a constant current, and their counts are rounded and
clipped. The mean current of the next layer then differs from the CNN's, and the differences add up over layers. The
correction goes layer by layer, each time simulating the corrected layers before on calibration images (after Li et al.,
ICML 2021, "light" calibration):

1. bias: the mean difference between the input currents of the SNN and of the CNN is subtracted, per channel;
2. initial potential: of `SHARES` x threshold, the one whose firing rates have the least squared difference from the
   CNN's activations, per channel.

Relays (`ir.relays`) are not corrected. The bias of the last layer is corrected too, since its potential is the output.
The corrections are exported as biases and initial potentials, which cost nothing on the chip.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final

import numpy as np

from loihi_convert.conversion.calibration import calibration_subset, fitted_images, require_calibration
from loihi_convert.errors import UsageError
from loihi_convert.ir.network import ReluNetwork, SpikingLayer, SpikingNetwork
from loihi_convert.ir.relays import is_relay
from loihi_convert.progress import Progress, no_progress
from loihi_convert.simulation.image_shards import ImageArray
from loihi_convert.simulation.layerwise import GrowingSimulation

SHARES: Final = (0.5, 0.05, 0.15, 0.25, 0.35, 0.45, 0.55, 0.65, 0.75, 0.85, 0.95)
"""Initial potentials to try, as fractions of the threshold; the first of equally good ones is used."""


def correct_biases(
    cnn: ReluNetwork,
    network: SpikingNetwork,
    images: ImageArray,
    *,
    keeps_potentials: bool = False,
    device: str = "cpu",
    progress: Progress = no_progress,
) -> SpikingNetwork:
    """Return ``network`` with corrected biases and, with soft reset, initial potentials.

    Parameters
    ----------
    cnn
        The CNN that ``network`` was balanced from.
    network
        From `balancing.balance`, with compensated amplitudes.
    images
        Calibration images, uint8 ``(N, C, H, W)``, of which `calibration.calibration_subset` is used, and in each layer
        `calibration.fitted_images`.
    keeps_potentials
        Whether to leave the initial potentials as they are.
    device, progress
        As in `balancing.balance`.

    Raises
    ------
    UsageError
        If amplitudes are literal.
    DataError
        If the images do not fit the network, or there are none.
    """
    require_calibration(cnn, images)
    for layer in network.layers:
        if layer.neuron is not None and layer.neuron.is_literal:
            raise UsageError(
                "found literal spikes",
                where="amplitude",
                expected="must be compensated with `bias_correction`",
            )
    images = calibration_subset(images, network.timesteps)
    fits_initial = network.reset == "soft" and not keeps_potentials
    simulation = GrowingSimulation(
        cnn,
        images,
        network.timesteps,
        network.reset,
        poisson_seed=network.poisson_seed,
        device=device,
        whole=fits_initial,
        most_images=fitted_images(cnn),
    )
    layers: list[SpikingLayer] = []
    passes = 2 * len(network.layers) - 1

    def report(done: int, total: int) -> None:
        progress(2 * len(layers) * total + done, passes * total)

    for layer in network.layers:
        # The first layer's current equals the CNN's, with Poisson input on average.
        correction = None if not layers else -simulation.mean_excess(layers, progress=report)
        # A relay repeats spikes exactly; it needs no correction.
        relays = is_relay(layer.relay_of, layer.synapse.channels)
        if correction is not None:
            correction = np.where(relays, 0.0, correction)
        synapse = layer.synapse if correction is None else layer.synapse.with_added_bias(correction)
        neuron = layer.neuron
        if neuron is not None and fits_initial and len(layers) < len(network.layers) - 1:
            alive = np.isfinite(neuron.threshold)
            thresholds = np.tile(np.where(alive, neuron.threshold, 1.0), (len(SHARES), 1))
            potentials = np.array(SHARES)[:, None] * thresholds
            errors = simulation.rate_errors(layers, thresholds, potentials, correction=correction).errors
            best = np.take_along_axis(potentials, errors.argmin(axis=0)[None], axis=0)[0]
            neuron = replace(neuron, initial_potential=np.where(alive & ~relays, best, 0.0))
        layers.append(replace(layer, synapse=synapse, neuron=neuron, correction=correction))
    return replace(network, layers=tuple(layers), provenance=network.provenance.with_parts(calibration=len(images)))
