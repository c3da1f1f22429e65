"""The best of our methods for each T: method chosen on calibration images, network on validation images, then tested.

The choice is among exported files. Up to T = `images.LONG`, `--balance auto` chooses each file's method for its T.
For larger T, where trials take long and methods hardly differ, the method chosen for `images.LONG` is used.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final

from loihi_convert import netx, pipeline
from loihi_convert.conversion.calibration import calibration_subset
from loihi_convert.conversion.options import BalanceOptions, QuantizeOptions
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.reproduction import images
from loihi_convert.reproduction.measure import Measurements, Outcome
from loihi_convert.reproduction.meter import Meter
from loihi_convert.reproduction.records import Records

# Cost of `--balance auto`, in runs of its trial images: about eight trials of 2,000 images each, plus balancing.
_TRIALS: Final = 10


@dataclass(frozen=True)
class Best:
    """The best of our methods for one T.

    Parameters
    ----------
    method
        The method that `--balance auto` chose.
    network
        File name of the checkpoint that is best on validation images.
    outcome
        Test result of its exported file.
    """

    method: str
    network: str
    outcome: Outcome


class BestOfOurs:
    """Finds the best result for each T among several networks trained on the same data.

    Parameters
    ----------
    networks
        The table's network, and versions of it that were fine-tuned for few steps.
    records
        Stored results.
    weight_bits
        Weight bits of the exported files.
    device
        Device for the conversion: ``"cpu"``, or another torch device.
    tell
        Called with a sentence for each accuracy that has been computed.
    """

    def __init__(
        self,
        networks: Sequence[Measurements],
        records: Records,
        *,
        weight_bits: int = 8,
        device: str = "cpu",
        tell: Callable[[str], None] = lambda sentence: None,
    ) -> None:
        self._networks, self._records = tuple(networks), records
        self._images = networks[0].images
        self._weight_bits, self._device, self._tell = weight_bits, device, tell

    def work(self, timesteps: int) -> int:
        """Return the approximate work of `find`, in images times steps."""
        if self.stored(timesteps) is not None:
            return 0
        # Larger T reuse the trials for `images.LONG`, which have usually been run already.
        is_tried = timesteps <= images.LONG
        trials = (
            _TRIALS
            * len(calibration_subset(self._images.export_calibration(timesteps), timesteps))
            * timesteps
            * is_tried
        )
        exported = len(self._images.export_calibration(timesteps)) * timesteps
        is_alone = len(self._networks) == 1
        validated = 0 if is_alone else len(self._images.validation(timesteps)) * timesteps
        return len(self._networks) * (trials + exported + validated) + len(self._images.test(timesteps)) * timesteps

    def stored(self, timesteps: int) -> Best | None:
        """Return the stored result of `find`, or None."""
        found = self._records.get("best", self._key(timesteps))
        return None if found is None else Best(found["method"], found["network"], Outcome(**found["outcome"]))

    def find(self, timesteps: int, meter: Meter) -> Best:
        """Return the best of our methods for T; test images take no part in the choice.

        Each network is exported. The file with the most correct validation images (the first, if tied) is then tested.
        """
        if (stored := self.stored(timesteps)) is not None:
            return stored
        with meter.step(self.work(timesteps)) as progress:
            files = [self._export(network, timesteps) for network in self._networks]
            chosen = 0
            if len(files) > 1:
                validation = self._images.validation(timesteps)
                right = [self._networks[0].right(netx.read(path), validation, timesteps) for path in files]
                chosen = right.index(max(right))
            started = time.monotonic()
            network = netx.read(files[chosen])
            test = self._images.test(timesteps)
            correct = self._networks[0].right(network, test, timesteps, progress)
        calibration = len(self._images.export_calibration(timesteps))
        outcome = Outcome(correct, len(test), calibration, time.monotonic() - started)
        best = Best(_method(network), self._networks[chosen].name, outcome)
        self._records.put("best", self._key(timesteps), asdict(best))
        self._tell(f"best for T = {timesteps}, {best.method}, {best.network}: {outcome.accuracy:.2f} % ({meter.state})")
        return best

    def _key(self, timesteps: int) -> dict[str, Any]:
        first, *others = self._networks
        validation = self._images.digest(self._images.validation(timesteps)) if others else None
        return {
            "networks": [first.digest, *(other.digest for other in others)],
            **self._export_key(timesteps),
            "validation": validation,
            "test": self._images.digest(self._images.test(timesteps)),
        }

    def _export_key(self, timesteps: int) -> dict[str, Any]:
        chosen_for = images.LONG
        return {
            "timesteps": timesteps,
            "weight_bits": self._weight_bits,
            "calibration": self._images.digest(self._images.export_calibration(timesteps)),
            **({"method": self._export_key(chosen_for)} if timesteps > chosen_for else {}),
        }

    def _export(self, network: Measurements, timesteps: int) -> Path:
        key = {"network": network.digest, **self._export_key(timesteps)}
        path = self._records.path("export", key).with_suffix(netx.SUFFIX)
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            pipeline.export(
                network.source,
                path,
                (timesteps,),
                self._images.export_calibration(timesteps),
                balance_options=self._options(network, timesteps),
                quantize_options=QuantizeOptions(weight_bits=self._weight_bits),
                device=self._device,
            )
        return path

    def _options(self, network: Measurements, timesteps: int) -> BalanceOptions:
        if timesteps <= images.LONG:
            return BalanceOptions()
        chosen = netx.read(self._export(network, images.LONG)).provenance
        return BalanceOptions(
            method=chosen["balance"]["method"],
            percentile=chosen["balance"].get("percentile") or BalanceOptions.percentile,
            bias_correction="calibration" in chosen,
        )


def _method(network: QuantizedNetwork) -> str:
    made = network.provenance["balance"]
    percentile = f" {made['percentile']:g}" if made["method"] == "percentile" else ""
    return f"{made['method']}{percentile}" + (", corrected" if "calibration" in network.provenance else "")
