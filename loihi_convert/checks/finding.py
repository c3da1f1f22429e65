"""Findings of the rules: one line for the user, and a severity per target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Final, Generic, Literal, NamedTuple, TypeVar

from loihi_convert.chip.limits import TARGETS
from loihi_convert.ground.choices import Target
from loihi_convert.ground.options import Record
from loihi_convert.ir.network import layer_words

Severity = Literal["error", "warning", "note"]
"""error: unusable on the target; warning: costs accuracy or resources, or makes another tool fail; note: good to
know."""

SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")

_Subject = TypeVar("_Subject")


class Violation(NamedTuple):
    """A violated rule: what was found, what is allowed, the source of that limit, and what to do."""

    found: str
    allowed: str
    source: str
    fix: str


class Finding(Record):
    """One violated rule.

    Attributes
    ----------
    severity
        Severity for the requested target.
    rule
        The claim in words.
    layer
        Name of the layer; None for the whole network.
    found, limit, source, fix
        As in `Violation`; ``limit`` is its ``allowed``.
    """

    severity: Severity
    rule: str
    layer: str | None
    found: str
    limit: str
    source: str
    fix: str

    @property
    def text(self) -> str:
        """Everything except severity and rule, on one line."""
        where = "" if self.layer is None else f"{layer_words(self.layer)}: "
        source = f" ({self.source})" if self.source else ""
        limit = f"; {self.limit}{source}" if self.limit else source
        return f"{where}{self.found}{limit}. {self.fix}".rstrip()

    @property
    def line(self) -> str:
        """The severity and `text`, on one line."""
        return f"{self.severity}: {self.text}"


class Rule(Generic[_Subject]):
    """A claim, and the severity of its violation on a CPU and on a chip; None where the rule does not apply.

    ``claim`` is a function named after the claim; it yields nothing if the claim holds.
    """

    def __init__(
        self,
        claim: Callable[[_Subject], Iterator[Violation]],
        severity: Severity | None,
        on_chip: Severity | Literal["same"] | None = "same",
    ) -> None:
        self.claim, self._severities = claim, (severity, severity if on_chip == "same" else on_chip)

    def severity(self, target: Target) -> Severity | None:
        """Return the severity for ``target``."""
        return self._severities[TARGETS[target].is_circuit]


def claim_words(claim: Callable[..., Iterator[Violation]]) -> str:
    """Return a claim in words: the name of its function."""
    return claim.__name__.replace("_", " ")


def findings(
    rules: Iterable[Rule[_Subject]], subjects: Iterable[tuple[str | None, _Subject]], target: Target
) -> Iterator[Finding]:
    """Yield the findings of the rules for ``target``, one subject after the other.

    Each of ``subjects`` comes with the name of its layer, or None for the whole network.
    """
    asked = [(rule, severity) for rule in rules if (severity := rule.severity(target))]
    for layer, subject in subjects:
        for rule, severity in asked:
            for broken in rule.claim(subject):
                yield Finding(
                    severity=severity,
                    rule=claim_words(rule.claim),
                    layer=layer,
                    found=broken.found,
                    limit=broken.allowed,
                    source=broken.source,
                    fix=broken.fix,
                )
