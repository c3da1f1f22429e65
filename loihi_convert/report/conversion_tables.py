"""What quantization did to each layer, and what each layer takes on a chip, as tables."""

from __future__ import annotations

from typing import TYPE_CHECKING

from loihi_convert.report.table import Column, Table, table_of

if TYPE_CHECKING:
    from loihi_convert.chip.resources import Chips, LayerResources
    from loihi_convert.conversion.quantization_report import LayerReport, QuantizationReport


def quantization_table(report: QuantizationReport) -> Table:
    """Return the bits, thresholds and clipping of each layer of an exported network.

    For target loihi2 also what its grid changed in thresholds, and what keeps u from wrapping.
    """
    is_chip = report.target == "loihi2"
    columns: list[Column[LayerReport]] = [
        Column("layer", lambda layer: layer.name, is_text=True),
        Column("weight bits\nleast..most", _weight_bits),
        Column("weights\noff by", lambda layer: f"{100 * layer.weight_error:.2g} %"),
        Column("thresholds", _thresholds),
        Column("thresholds\noff by", lambda layer: _threshold_error(layer) if is_chip else None),
        Column("dead\nchannels", lambda layer: str(len(layer.dead_channels)) if layer.dead_channels else ""),
        Column(
            f"images {'wrapped' if is_chip else 'clipped'}\nlow / high",
            lambda layer: f"{layer.low_clipped:,} / {layer.high_clipped:,}",
        ),
        Column("u cannot wrap:", lambda layer: _proof(layer, report.image_count) if is_chip else None),
    ]
    if is_chip:
        caption = (
            f"target loihi2, pixels of {report.pixel_bits} bits, T = {report.timesteps}: proven for any image, or "
            "held in range, with headroom, on the calibration images"
        )
    else:
        caption = (
            f"clipping in {report.timesteps} steps of {report.image_count:,} calibration images; low is harmless in "
            f"the first layer. Output potentials are proven to fit for T <= {report.max_timesteps:,}"
        )
    return table_of(columns, report.layers, caption=caption)


def _weight_bits(layer: LayerReport) -> str:
    low, _, high = layer.weight_bits
    return f"{low}..{high}" if low < high else f"{high}"


def _thresholds(layer: LayerReport) -> str:
    return "only integrates" if layer.thresholds is None else "..".join(map(str, dict.fromkeys(layer.thresholds)))


def _threshold_error(layer: LayerReport) -> str:
    return f"{100 * layer.threshold_error:.2g} %" if layer.thresholds else ""


def _proof(layer: LayerReport, image_count: int) -> str:
    if layer.is_proven:
        return "proven"
    return "not held" if layer.low_clipped or layer.high_clipped else f"held on {image_count:,} images"


def resource_table(chips: Chips) -> Table:
    """Return what each layer of a network takes on Loihi 2."""
    columns: list[Column[LayerResources]] = [
        Column("layer", lambda layer: layer.name, is_text=True),
        Column("neurons", lambda layer: f"{layer.neurons:,}"),
        Column("fan-in", lambda layer: f"{layer.fan_in:,}"),
        Column("fan-out", lambda layer: f"{layer.fan_out:,}" if layer.fan_out else None),
        Column("synapses", lambda layer: f"{layer.synapses:,}"),
        Column("weights\nin file", lambda layer: f"{layer.weights:,}"),
        Column("memory KiB", lambda layer: f"{layer.shared_bytes / 1024:,.0f} .. {layer.expanded_bytes / 1024:,.0f}"),
        Column("neurocores", lambda layer: f"{layer.shared_cores:,} .. {layer.expanded_cores:,}"),
    ]
    caption = (
        f"{chips.shared_cores:,} .. {chips.expanded_cores:,} of {chips.cores:,} neurocores, an estimate: "
        f"{chips.boundary}"
    )
    return table_of(columns, chips.layers, caption=caption)
