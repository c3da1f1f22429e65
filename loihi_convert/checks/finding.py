"""What a rule has found: one line for the user, and how bad it is for each target."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Final, Generic, Literal, NamedTuple, TypeVar

from loihi_convert.ir.quantized import Target
from loihi_convert.records import Record

Severity = Literal["error", "warning", "note"]
"""An error makes the network unusable on the target; a warning costs accuracy or resources, or another tool goes wrong;
a note is good to know."""

SEVERITIES: Final[tuple[Severity, ...]] = ("error", "warning", "note")

Subject = TypeVar("Subject")


class Violation(NamedTuple):
    """How a claim fails: what was found, what is allowed, who says so, and what to do."""

    found: str
    allowed: str
    source: str
    fix: str


class Finding(Record):
    """One broken claim.

    Attributes
    ----------
    severity
        For the target that was asked for.
    rule
        The claim that does not hold, in words.
    layer
        Its name; None: the network.
    found, limit, source, fix
        As `Violation`; ``limit`` is its ``allowed``.
    """

    severity: Severity
    rule: str
    layer: str | None
    found: str
    limit: str
    source: str
    fix: str

    @property
    def line(self) -> str:
        """All of it but the rule, on one line."""
        where = "" if self.layer is None else f"{self.layer}: "
        source = f" ({self.source})" if self.source else ""
        limit = f"; {self.limit}{source}" if self.limit else source
        return f"{self.severity}: {where}{self.found}{limit}. {self.fix}".rstrip()


@dataclass(frozen=True)
class Rule(Generic[Subject]):
    """A claim and what it means if it does not hold.

    Parameters
    ----------
    claim
        Named after what holds; returns None, or how it fails.
    severity
        For each target it is a rule for.
    """

    claim: Callable[[Subject], Violation | None]
    severity: Mapping[Target, Severity]


def findings(
    rules: Iterable[Rule[Subject]], subjects: Iterable[tuple[str | None, Subject]], target: Target
) -> Iterator[Finding]:
    """Yield what the rules for ``target`` find, subject after subject.

    ``subjects`` are what the rules look at, each behind the name of its layer, or None: the network.
    """
    asked = [(rule, rule.severity[target]) for rule in rules if target in rule.severity]
    for layer, subject in subjects:
        for rule, severity in asked:
            broken = rule.claim(subject)
            if broken is not None:
                yield Finding(
                    severity=severity,
                    rule=rule.claim.__name__.replace("_", " "),
                    layer=layer,
                    found=broken.found,
                    limit=broken.allowed,
                    source=broken.source,
                    fix=broken.fix,
                )
