"""Types of the Lava objects used here, which Lava does not annotate, and the connection of two ports."""

from __future__ import annotations

from typing import Any, Protocol

from loihi_convert.ground.arrays import Array, Shape


class Port(Protocol):
    """An input or output of a Process."""

    @property
    def shape(self) -> Shape:
        """Neurons, or positions, along each axis."""
        ...

    def connect(self, other: Port) -> None:
        """Send to ``other`` or, if this is an input, forward to it."""
        ...

    def reshape(self, shape: Shape) -> Port:
        """Return the port with other axes."""
        ...


class Variable(Protocol):
    """A variable of a Process."""

    init: Any

    def get(self) -> Array:
        """Return its value in a running network."""
        ...


class Process(Protocol):
    """A Process, with the parameters that its model reads."""

    proc_params: dict[str, Any]

    def create_runtime(self, run_cfg: object, compile_config: dict[str, Any] | None = None) -> None:
        """Compile the network it is connected to."""
        ...

    def run(self, condition: object, run_cfg: object = None) -> None:
        """Run the network."""
        ...

    def stop(self) -> None:
        """Stop the network."""
        ...


class SourceProcess(Process, Protocol):
    """A Process that sends images."""

    s_out: Port


class SynapseProcess(Process, Protocol):
    """A Conv, Dense or Sparse."""

    s_in: Port
    a_out: Port


class NeuronProcess(Process, Protocol):
    """A LIF or LIFReset."""

    a_in: Port
    s_out: Port
    u: Variable
    vth: Variable


class GradedProcess(Process, Protocol):
    """A Delta, SigmaDelta or Sigma."""

    a_in: Port
    s_out: Port


def connect(out: Port, into: Port) -> None:
    """Connect two ports with the same number of neurons, reshaping if their axes differ."""
    (out if out.shape == into.shape else out.reshape(into.shape)).connect(into)
