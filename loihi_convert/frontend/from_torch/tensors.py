"""The tensors of a traced graph, as they are now: functions may have changed them in place, also through views."""

from __future__ import annotations

from dataclasses import dataclass, field

from torch import Tensor, fx

from loihi_convert.frontend.from_torch.calls import name_of
from loihi_convert.frontend.from_torch.moved import Moved
from loihi_convert.frontend.from_torch.tracing import is_as_taken, same_storage
from loihi_convert.frontend.operations import refuse


@dataclass(eq=False)
class Tensors:
    """What the nodes hold that were read so far."""

    # Tensors that depend on the image; those that do not.
    moved: dict[fx.Node, Moved] = field(default_factory=dict)
    constants: dict[fx.Node, Tensor] = field(default_factory=dict)
    # Obstacles that return several tensors, or one for all images, and what is computed from them; as indices.
    lost: dict[fx.Node, int] = field(default_factory=dict)
    # Nodes that are one tensor, which may be changed in place.
    names: dict[fx.Node, list[fx.Node]] = field(default_factory=dict)
    # The memory that a node has changed in place. Other views of it are no longer what they were.
    overwritten: list[tuple[Tensor, fx.Node]] = field(default_factory=list)

    def overwrite(self, node: fx.Node, before: fx.Node | None) -> None:
        """Let the input that ``node`` has changed in place, if any, stand for what it is now."""
        if node not in self.moved and node not in self.lost:
            return
        if before in self.constants:
            self.overwritten.append((self.constants.pop(before), node))
            if node in self.lost:
                self.lost[before] = self.lost[node]
            else:
                self.moved[before] = self.moved[node]
        if before not in self.moved:
            return
        if node in self.lost or self.moved[node].memory is not self.moved[before].memory:
            self.overwritten.append((self.moved[before].memory, node))
        if node in self.moved:
            # From now on its input is its output, whether or not forward uses what it returned.
            self.names[node] = names = self.names.get(before, [before])
            self.names[before] = names
            names.append(node)
            self.moved.update(dict.fromkeys(names, self.moved[node]))

    def require_current(self, node: fx.Node) -> None:
        """Refuse ``node`` if it takes numbers that were changed in place through another view, or constants later."""
        if not all(is_as_taken(before, node) for before in node.all_input_nodes if before in self.constants):
            refuse(
                "takes a constant that is changed in place afterwards",
                supported="constants that keep their numbers",
                hint="Compute a new tensor instead of changing it in place.",
            )
        self.require_not_overwritten(node)

    def require_not_overwritten(self, node: fx.Node) -> None:
        if (change := self.change_of(node)) is not None:
            refuse(
                f"takes a tensor that {name_of(change)} changed in place through a view of it",
                supported="what the change returned",
                hint="Change nothing in place, or let forward go on with what the change returns.",
            )

    def change_of(self, node: fx.Node) -> fx.Node | None:
        """What has changed a tensor that ``node`` takes, through another view of it."""
        taken = [self.moved[before] for before in node.all_input_nodes if before in self.moved]
        constants = [self.constants[before] for before in node.all_input_nodes if before in self.constants]
        for memory, change in self.overwritten:
            if any(moved.shares(memory) for moved in taken) or any(
                same_storage(constant, memory) for constant in constants
            ):
                return change
        return None
