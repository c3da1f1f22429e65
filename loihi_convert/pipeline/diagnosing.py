"""A checkpoint and its netx file -> where accuracy is lost, and what to try."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from loihi_convert import netx
from loihi_convert.backends import Backend
from loihi_convert.backends.request import check_run
from loihi_convert.data import Dataset
from loihi_convert.frontend.source import reopen_source
from loihi_convert.metrics.advice import advice, image_notes, verdict
from loihi_convert.metrics.diagnosis import Diagnosis
from loihi_convert.metrics.diagnosis import diagnose as diagnose_network
from loihi_convert.metrics.own_accuracy import own_accuracy
from loihi_convert.pipeline.opened_file import OpenedFile
from loihi_convert.pipeline.options import RunOptions
from loihi_convert.pipeline.origin import doubt, float_network
from loihi_convert.pipeline.running import run
from loihi_convert.progress import ProgressFactory, no_progress_bar
from loihi_convert.report.diagnosis_tables import cause_table, divergence_table
from loihi_convert.report.table import Table, notebook_html


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
        One sentence each.
    equal_on_lava
        Number of images on which Lava was equal to `ref`.
    """

    path: Path | None
    diagnosis: Diagnosis
    advice: tuple[str, ...]
    notes: tuple[str, ...]
    equal_on_lava: int = 0

    @property
    def verdict(self) -> str:
        """The loss, its cause and its place, in a few sentences."""
        return verdict(self.diagnosis)

    def tables(self) -> tuple[Table, Table]:
        """Return tables of the loss by cause and by layer."""
        return cause_table(self.diagnosis), divergence_table(self.diagnosis)

    def __repr__(self) -> str:
        return "\n".join((self.verdict, *(f"- {sentence}" for sentence in self.advice)))

    def _repr_html_(self) -> str:
        return notebook_html(repr(self), *self.tables())


def diagnose(
    model: str | Path,
    path: str | Path,
    images: Dataset,
    timesteps: int | None = None,
    *,
    data: str | None = None,
    arch: str | None = None,
    lava: Backend | None = None,
    lava_images: int = 0,
    device: str = "cpu",
    bars: ProgressFactory = no_progress_bar,
) -> DiagnosisReport:
    """Return where accuracy is lost between the CNN ``model`` and the netx file ``path``.

    Parameters
    ----------
    model
        The checkpoint that the file was made from.
    path
        The ``.net`` file.
    images
        With or without labels. Not the test images, because the answer is meant to guide options. On images the CNN was
        trained on, its accuracy is too high.
    timesteps
        T; by default the one the file was balanced for.
    data
        The name of the data set that the images belong to, if known.
    arch
        As in `source.open_source`, if the file was made with one.
    lava
        Lava's simulator, to run the first ``lava_images`` and compare every layer with `ref`.
    device
        As in `run`.

    Raises
    ------
    InputError
        If a file cannot be used, or the layers of the checkpoint and of the netx file differ.
    VerificationError
        If Lava's integers differ from those of `ref`.
    """
    model = Path(model)
    path = Path(path)
    network = netx.read(path)
    steps = network.timesteps if timesteps is None else timesteps
    check_run(network, images.images, steps)
    recorded = network.provenance.model
    source = reopen_source(model, recorded, network.input_shape, arch)
    notes = []
    own = own_accuracy(source, images, "images", data=data)
    if own is not None and own.warning:
        notes.append(own.warning)
    if reason := doubt(network, source, str(model)):
        notes.append(
            f"{path} {reason}: differences between the two CNNs are counted as loss, mostly under weight bits."
        )
    notes += image_notes(network)
    spiking = float_network(network, source.network)
    with bars(f"{path.name}: from the CNN to the file") as progress:
        found = diagnose_network(
            source.network,
            spiking,
            network,
            images.images,
            images.labels,
            steps,
            device=device,
            progress=progress,
        )
    equal_on_lava = 0
    if lava is not None and lava_images:
        with lava:
            options = RunOptions(timesteps=(steps,), trace=True, device=device)
            opened = OpenedFile(path, network, source.network, spiking)
            equal_on_lava = run(opened, images[:lava_images], lava, options, bars=bars).equal_to_reference
    return DiagnosisReport(path, found, advice(found, network), tuple(notes), equal_on_lava)
