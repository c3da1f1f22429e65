"""A checkpoint and its netx file -> where accuracy is lost, and what to try."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from loihi_convert.backends.result import check_run
from loihi_convert.data import Dataset
from loihi_convert.ground.progress import progress_bar
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.metrics.advice import advice, image_notes, verdict
from loihi_convert.metrics.diagnosis import Diagnosis
from loihi_convert.metrics.diagnosis import diagnose as diagnose_network
from loihi_convert.metrics.own_accuracy import own_accuracy
from loihi_convert.pipeline.opening import float_network, is_made_from
from loihi_convert.reading.source import Source
from loihi_convert.report.conversion_tables import cause_table, divergence_table
from loihi_convert.report.table import Table, notebook_html

_OTHER_CNN: Final = (
    "Diagnose the file with the CNN that it was made from: no advice on its options can be drawn from another one."
)


@dataclass(frozen=True, eq=False, repr=False)
class DiagnosisReport:
    """Where one network loses accuracy, what to try, and further notes.

    Parameters
    ----------
    path
        The file; None if the network is only in memory.
    diagnosis
        The figures.
    advice, notes
        One sentence each. With a CNN that the file was not made from, ``advice`` says only that.
    doubt
        The reason to doubt that the file was made from this CNN (`opening.doubt`); empty if it was.
    equal_on_lava
        Number of images on which Lava was equal to `ref`.
    """

    path: Path | None
    diagnosis: Diagnosis
    advice: tuple[str, ...]
    notes: tuple[str, ...]
    doubt: str = ""
    equal_on_lava: int = 0

    @property
    def verdict(self) -> str:
        """The doubt, if any, then the loss, its cause and its place, in a few sentences."""
        found = verdict(self.diagnosis)
        if not self.doubt:
            return found
        return f"{self.doubt}: differences between the two CNNs are counted as loss. {found}"

    def tables(self) -> tuple[Table, Table]:
        """Return tables of the loss by cause and by layer."""
        return cause_table(self.diagnosis), divergence_table(self.diagnosis)

    def __repr__(self) -> str:
        return "\n".join((self.verdict, *(f"- {sentence}" for sentence in self.advice)))

    def _repr_html_(self) -> str:
        return notebook_html(repr(self), *self.tables())


def diagnose(
    network: QuantizedNetwork,
    source: Source,
    images: Dataset,
    timesteps: int,
    *,
    path: Path | None = None,
    doubt: str = "",
    data: str | None = None,
    fingerprint: str | None = None,
    device: str = "cpu",
) -> DiagnosisReport:
    """Return where accuracy is lost between the CNN ``source`` and ``network``.

    Parameters
    ----------
    images
        With or without labels. Not the test images, because the answer is meant to guide options. On images the CNN was
        trained on, its accuracy is too high.
    path
        The file of ``network``, if it is in one.
    doubt
        As in `DiagnosisReport`.
    data
        The name of the data set that the images belong to, if known.
    fingerprint
        The fingerprint of the `Dataset` of which ``images`` are a part; None: they are all of it.
    device
        As in `run`.
    """
    check_run(network, images.images, timesteps)
    own = own_accuracy(source, images, "images", data=data)
    warned = (own.warning,) if own is not None and own.warning else ()
    described = "from the CNN to the integers" if path is None else f"{path.name}: from the CNN to the file"
    with progress_bar(described):
        found = diagnose_network(
            source.network,
            float_network(network, source.network),
            network,
            images.images,
            images.labels,
            timesteps,
            device=device,
        )
    notes = image_notes(network, fingerprint or images.fingerprint)
    is_other = bool(doubt) and is_made_from(network, source) is False
    advised = (_OTHER_CNN,) if is_other else advice(found, network)
    return DiagnosisReport(path, found, advised, (*warned, *notes), doubt)
