"""The work of the circuit of stock neurons: by hand, and counted event by event in its Processes on Lava."""

from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from support import networks
from support.lava_programs import output_of
from support.residual import RELAYS, residual_images, residual_network
from test_lava_circuit import pixels, two_channels

from loihi_convert.backends.lava.exchange import LavaRun, stock_interval
from loihi_convert.backends.reference import run_network
from loihi_convert.chip.energy import CircuitEvents, Estimate, NetworkSize, estimate
from loihi_convert.ground.arrays import Array
from loihi_convert.ir.neuron_model import NeuronModel
from loihi_convert.ir.quantized import QuantizedNetwork
from loihi_convert.metrics.early_exit import choose_margin
from loihi_convert.metrics.evaluation import Evaluation, evaluate
from loihi_convert.metrics.work import CircuitWork
from loihi_convert.report.run_tables import accuracy_table, energy_table
from loihi_convert.runs.columns import FileResults, accuracy_rows, energy_rows


def evaluated(
    network: QuantizedNetwork, images: Array, timesteps: int, *, neuron: NeuronModel | None = None
) -> Evaluation:
    result = run_network(network, images, timesteps, neuron=neuron)
    choice = choose_margin(result.outputs, None, split="validation") if timesteps > 1 else None
    return evaluate(result, network, exit_choice=choice)


def last_estimate(evaluation: Evaluation) -> Estimate:
    assert evaluation.energy is not None
    return evaluation.energy.estimates[-1]


def test_two_channels_by_hand() -> None:
    """`test_lava_circuit` traces them: with pixel 4, six spikes in seven steps, the last in step 7; with 0, none.

    Resets: 6 or 0, mean 3. In each step, one bias of each layer is not 0, and one neuron passes on the bit: 7 x 3. P is
    8: in step 8, at most the one neuron that fires in step 7 fires again, and reaches one synapse and its own.
    """
    network, images = two_channels(), pixels(4, 0)
    work = CircuitWork(run_network(network, images, 7), network)
    assert work.synaptic_operations.tolist() == [[3, 4, 5, 3, 5, 3, 4], [3] * 7]
    assert work.events(7) == CircuitEvents(
        steps=16, neurons=1, spikes=7, synaptic_operations=24, further_spikes=0.5, further_synaptic_operations=1
    )
    assert work.events(4) == CircuitEvents(8, 1, 4, (15 + 12) / 2, 0, 0)


def test_an_estimate_with_a_circuit_by_hand() -> None:
    """As `test_energy.test_an_estimate_by_hand`, T = 3: 12 neurons in 8 steps, 33 of these 96 updates without it.

    Of 15 operations and 5 spikes, 4 and 3 are the circuit's; at the high end there are 7 and 2 more. Pixels reach 68
    synapses in three steps. Energy, low: 23.6 x 15 + 52 x 96 + 1.7 x 5, of which 23.6 x 4 + 52 x 63 + 1.7 x 3; high:
    35.5 x (15 + 7 + 204) + 81 x 96 + 213.9 x 7, of which 35.5 x 11 + 81 x 63 + 213.9 x 5. Time: 8 steps and 2 layers.
    """
    events = CircuitEvents(8, 1, 3, 4.0, 2.0, 7.0)
    found = estimate(NetworkSize([8, 3], 68), 3, 5.0, 15.0, circuit=events)
    assert (found.synaptic_operations, found.spikes, found.membrane_updates) == (15, 5, 96)
    assert found.circuit_membrane_updates == 63
    assert found.circuit_loihi1_joules is not None
    assert [pytest.approx(end * 1e12) for end in found.loihi1_joules] == [5354.5, 17296.3]
    assert [pytest.approx(end * 1e12) for end in found.circuit_loihi1_joules] == [3375.5, 6563.0]
    work = 3.1 * 15 + 5.3 * 96 + 2.1 * 5, 4.7 * 226 + 9.7 * 96 + 51.1 * 7
    times = work[0] / 128 + 113 * 10, work[1] + 1800 * 10
    assert [pytest.approx(end * 1e9) for end in found.loihi1_seconds] == list(times)


def test_figures_include_the_circuit_if_it_was_run() -> None:
    network, images = two_channels(), pixels(4, 0)
    stock, own = (evaluated(network, images, 7, neuron=neuron) for neuron in (None, NeuronModel.SOFT))
    assert [point.circuit_synaptic_operations for point in stock.points] == [3, 6.5, 13.5, 24]
    for point, plain, one in zip(stock.points, own.points, (stock.energy or own.energy).estimates, strict=True):
        assert point.circuit_synaptic_operations is not None
        assert plain.circuit_synaptic_operations is None
        assert point.synaptic_operations == one.synaptic_operations
        assert point.synaptic_operations == plain.synaptic_operations + point.circuit_synaptic_operations
        assert point.synaptic_operations_per_layer == plain.synaptic_operations_per_layer
        assert point.spikes_per_image == plain.spikes_per_image == one.spikes - point.timesteps
        assert one.membrane_updates == 5 * stock_interval(point.timesteps)
    assert last_estimate(own).membrane_updates == 4 * 7
    assert last_estimate(own).circuit_membrane_updates is None
    assert stock.early_exit is not None
    assert stock.early_exit.points[-1].synaptic_operations == stock.points[-1].synaptic_operations


def test_relays_also_reset_themselves() -> None:
    network = residual_network()
    plain = run_network(network, residual_images(3), 4)
    plain, stock = (evaluate(result, network) for result in (plain, replace(plain, wrapped_images=0)))
    for point, other, one in zip(stock.points, plain.points, (stock.energy or plain.energy).estimates, strict=True):
        assert point.relay_spikes_per_image
        assert other.relay_synaptic_operations is not None
        assert point.relay_synaptic_operations == other.relay_synaptic_operations + point.relay_spikes_per_image
        assert one.relay_membrane_updates == RELAYS * 36 * stock_interval(point.timesteps)


def test_tables_give_the_share_of_the_circuit_if_there_is_one() -> None:
    """Each of six spikes reaches one synapse of the next layer and one of the circuit: 24 of 27 a image, see above."""
    stock, own = (evaluated(two_channels(), pixels(4, 0), 7, neuron=neuron) for neuron in (None, NeuronModel.SOFT))
    tables = [(accuracy_table(one), energy_table([("model", one)])) for one in (stock, own)]
    (accuracy, energy), (own_accuracy, own_energy) = tables
    assert energy is not None
    assert own_energy is not None
    assert "stock circuit: 88.89 % at T = 7" in accuracy.caption
    assert "The stock circuit takes" in energy.caption
    assert "stock circuit" not in f"{own_accuracy.caption} {own_energy.caption}"
    columns = []
    for one in (stock, own):
        # Of the network and its integers these tables take nothing.
        run = FileResults("model", one, None, None)  # type: ignore[arg-type]
        columns.append({column for rows in (accuracy_rows, energy_rows) for row in rows(run) for column in row})
    assert columns[0] - columns[1] == {
        "circuit_synaptic_operations",
        "circuit_membrane_updates",
        "circuit_loihi1_joules_low",
        "circuit_loihi1_joules_high",
    }


COUNTING = """
import contextlib, os, sys
from collections import Counter
from dataclasses import replace
from pathlib import Path
import numpy as np
from loihi_convert.backends.lava import host
host.import_lava()
from lava.proc.conv.process import Conv
from lava.proc.dense.process import Dense
from lava.proc.lif.process import LIF, LIFReset
from lava.proc.sparse.process import Sparse
from loihi_convert.backends.lava import networks
from loihi_convert.backends.lava.processes.gemm import ConvGemm

folder, (first, last) = Path(sys.argv[1]), map(int, sys.argv[2:])
run = host.LavaRun.read(sys.argv[1])

class Counting:
    # Counts events in the global steps first..last. Each model runs in its own process, and writes a file of its own.
    def __init__(self, parameters):
        super().__init__(parameters)
        self.counts = Counter()

    def count(self, **events):
        if first <= self.time_step <= last:
            self.counts.update({name: int(number) for name, number in events.items()})
        if self.time_step == last:
            text = "".join(f"{name} {number}\\n" for name, number in self.counts.items())
            (folder / f"{os.getpid()}.events").write_text(text)

class Told:
    # A port that tells what it receives.
    def __init__(self, port, tell):
        self.shape, self._port, self._tell = port.shape, port, tell

    def recv(self):
        values = self._port.recv()
        self._tell(values)
        return values

class CountingSynapse(Counting):
    def start(self):
        # Pixels are not counted.
        if not self.num_message_bits.any():
            self.s_in = Told(self.s_in, lambda spikes: self.count(synaptic_operations=self.reached(spikes)))
        super().start()

    def reached(self, spikes):
        return np.asarray((self.weights != 0).sum(axis=0)).ravel() @ spikes.ravel().astype(np.int64)

class CountingConv(CountingSynapse):
    def reached(self, spikes):
        ones = (self.weight[:, ::-1, ::-1] != 0).astype(np.float32)
        geometry = {name: tuple(getattr(self, name)) for name in ("stride", "padding", "dilation")}
        reached = np.empty((1, *self.a_buf.shape), np.float32)
        ConvGemm(ones, spikes.shape, groups=int(self.groups[0]), **geometry)(spikes[np.newaxis], out=reached)
        return reached.sum()

class CountingNeurons(Counting):
    def spiking_activation(self):
        spikes = super().spiking_activation()
        self.count(spikes=spikes.sum(), membrane_updates=spikes.size)
        return spikes

models = networks.models(run)
counting = {Conv: CountingConv, Dense: CountingSynapse, Sparse: CountingSynapse}
counting |= {LIF: CountingNeurons, LIFReset: CountingNeurons}
models |= {process: type("Counted", (mixin, models[process]), {}) for process, mixin in counting.items()}
networks.models = lambda run: models

class Host:
    stepping = contextlib.nullcontext

host._run(run, Host())
"""


def counted(network: QuantizedNetwork, image: Array, timesteps: int, folder: Path) -> Counter[str]:
    """Return the events in 2P steps on Lava, in which every layer repeats itself, as the same image is shown again."""
    images, interval = np.repeat(image[np.newaxis], 3, axis=0), stock_interval(timesteps)
    assert len(network.layers) + 1 <= interval
    LavaRun(str(folder), network, 3, timesteps, neuron=NeuronModel.CIRCUIT).fill(images)
    output_of(COUNTING, folder, interval + 1, 2 * interval)
    found: Counter[str] = Counter()
    for path in folder.glob("*.events"):
        found.update({name: int(number) for name, number in map(str.split, path.read_text().splitlines())})
    return found


@pytest.mark.lava
@pytest.mark.parametrize("seed", [96, 250])
@pytest.mark.parametrize("timesteps", [4, 3])
def test_every_event_on_lava_is_counted(seed: int, timesteps: int, tmp_path: Path) -> None:
    """Pooling, biases, output neurons; exact if T is a power of two, otherwise between the counts of both ends."""
    network, images = networks.random_loihi2_network(seed)
    evaluation = evaluated(network, images[:1], timesteps)
    assert evaluation.wrapped_images == 0
    assert network.layers[0].largest_input > 1
    found, one = counted(network, images[0], timesteps, tmp_path), last_estimate(evaluation)
    events = CircuitWork(run_network(network, images[:1], timesteps), network).events(timesteps)
    assert found["membrane_updates"] == one.membrane_updates
    for name, most in (("spikes", events.further_spikes), ("synaptic_operations", events.further_synaptic_operations)):
        assert (most > 0) == (timesteps == 3)
        assert getattr(one, name) <= found[name] <= getattr(one, name) + most
