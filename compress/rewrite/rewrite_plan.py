"""What a rewrite does, place by place, as data that replays on a fresh model."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

NOT_ASKED = "it is not among the places asked for"


@dataclass(frozen=True)
class SiteRewrite:
    """What becomes of one place: `form` is what it is rewritten into, "" where it stays.

    `before` and `after` are texts for people; where the place stays, `after` is the reason. `values` holds what the
    rewrite needs beside the model's own weights.
    """

    rewrite: str
    place: str
    form: str
    before: str
    after: str
    values: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class RewritePlan:
    """All places that a rewrite looked at, and the counted figures of the model before and after."""

    sites: tuple[SiteRewrite, ...]
    before: Mapping[str, float] = field(default_factory=dict)
    after: Mapping[str, float] = field(default_factory=dict)
    kind = "rewrite"

    def summary(self) -> str:
        """One line on what is rewritten and what it brings."""
        if not self.done:
            return "nothing is rewritten"
        count = Counter(site.form for site in self.done)
        forms = ", ".join(f"{number} {form}" for form, number in count.items())
        return f"{len(self.done)} of {len(self.sites)} places rewritten ({forms})"

    def warnings(self) -> list[str]:
        """The places that were asked for and stay, each with the reason."""
        return [f"{s.place} was left alone: {s.after}" for s in self.sites if not s.form and s.after != NOT_ASKED]

    @property
    def done(self) -> tuple[SiteRewrite, ...]:
        """The places that are rewritten."""
        return tuple(site for site in self.sites if site.form)

    def to_dict(self) -> dict[str, Any]:
        """The plan as plain JSON data."""
        return {
            "kind": self.kind,
            "sites": [asdict(site) for site in self.sites],
            "before": dict(self.before),
            "after": dict(self.after),
        }

    @classmethod
    def from_dict(cls, record: Mapping[str, Any]) -> Self:
        """The plan back from plain JSON data."""
        return cls(tuple(SiteRewrite(**site) for site in record["sites"]), record["before"], record["after"])

    def table(self) -> list[tuple[str, str, str]]:
        """Rows (place, what was there, what is there now); places that stay with their reason."""
        return [(s.place, s.before, s.after if s.form else f"left alone: {s.after}") for s in self.sites]
