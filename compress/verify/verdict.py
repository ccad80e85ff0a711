"""What a bisect says: the first op that diverges, what it reads, and what the artifact has in its place."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Input:
    """A value the suspect reads: its node, how exactly the artifact holds it, and in which layout.

    `sqnr_db` is None where the artifact has no tensor for it: fused away, or, for a weight, another one.
    """

    node: str
    sqnr_db: float | None
    layout: str = ""


@dataclass(frozen=True, slots=True)
class Suspect:
    """The first op that diverges: where it stands in the model, and what the artifact has in its place.

    `fused` names the ops that the artifact holds in one tensor with it ("aten.relu at stem.2"); `dropped` says that
    the artifact goes on with the suspect's input instead. `sqnr_db` compares that tensor with the value the model gives
    on the artifact's own inputs; None where none of its size was found.
    `rest` counts the values behind it that still differ once the artifact's tensor is taken as it is: 0 says that
    nothing else is wrong; None that it could not be told.
    """

    op: str
    where: str
    node: str
    inputs: tuple[Input, ...]
    sqnr_db: float | None
    fused: tuple[str, ...] = ()
    artifact_op: str = ""
    artifact_tensor: str = ""
    dropped: bool = False
    rest: int | None = None

    def __str__(self) -> str:
        place = f"{self.op} at {self.where or 'an unnamed place'} (node {self.node})"
        if self.fused:
            place += f", in one tensor with {', '.join(self.fused)}"
        output = "no tensor in its place" if self.sqnr_db is None else f"its output {self.sqnr_db:.1f} dB"
        parts = [f"first diverging op {place}: inputs {', '.join(map(_input_words, self.inputs)) or 'none'}; {output}"]
        if self.dropped:
            parts.append(f"the file goes on with its input '{self.artifact_tensor}' instead")
        elif self.artifact_op:
            parts.append(f"in the file {self.artifact_op} '{self.artifact_tensor}'")
        if self.rest is not None:
            parts.append("all behind it agrees" if self.rest == 0 else f"{self.rest} values behind it differ too")
        return "; ".join(parts)


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a bisect found: the suspect, or None with the reason in `words`; how many of the model's values agree."""

    suspect: Suspect | None
    words: str
    compared: int
    agreeing: int

    def to_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON data."""
        return asdict(self)

    def __str__(self) -> str:
        return self.words


def _input_words(entry: Input) -> str:
    if entry.sqnr_db is None:
        return f"{entry.node} ({'not among the weights in the file' if entry.layout else 'not compared'})"
    shown = "" if entry.layout in ("as in the model", "a weight") else f", {entry.layout}"
    return f"{entry.node} ({entry.sqnr_db:.1f} dB{shown})"
