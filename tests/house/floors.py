"""The house's floors: every room of the package and the floor it is on. An import goes strictly down."""

from __future__ import annotations

from dataclasses import dataclass

# Highest first. Rooms of one floor never meet; a room's own files may.
FLOORS: tuple[tuple[str, tuple[str, ...]], ...] = (
    ("door", ("__init__", "__main__")),
    ("face", ("cli",)),
    ("clerk", ("adapt",)),
    (
        "desk",
        (
            "catalogue",
            "doctor",
            "estimate",
            "measure_files",
            "methods",
            "planner",
            "schema",
            "starter",
            "terminal",
            "worker",
        ),
    ),
    ("pipeline", ("pipeline",)),
    ("assembly", ("assemble",)),
    ("steps", ("steps",)),
    ("job", ("job",)),
    ("records", ("recipe", "checkpoint", "report", "entry", "console")),
    ("proof", ("bench", "conformance")),
    ("methods", ("search", "rewrite", "prune", "distill", "quantize", "verify")),
    ("measure", ("profile",)),
    ("write", ("export",)),
    ("tasks", ("tasks",)),  # tasks may use metrics and diffusion; else the tools never meet
    ("tools", ("graph", "train", "adversarial", "students", "diffusion", "metrics", "runtimes", "targets")),
    ("ground", ("files", "resources", "sources", "types", "version")),
    ("bedrock", ("errors",)),
)
HEIGHTS = {room: len(FLOORS) - height for height, (_, rooms) in enumerate(FLOORS) for room in rooms}
TOOLS = {"graph", "train", "adversarial", "students", "runtimes", "targets"}


@dataclass(frozen=True)
class Import:
    """`module` (a dotted name in the package) imports `imported` at `line`."""

    module: str
    imported: str
    line: int


def room_of(module: str) -> str:
    """The room a dotted name of the package belongs to; the package's face is `__init__`."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else "__init__"


def fault(found: Import) -> str | None:
    """What is wrong with an import of the package by the package, or None."""
    room, other = room_of(found.module), room_of(found.imported)
    for name in (room, other):
        if name not in HEIGHTS:
            return f"{found.module}:{found.line}: the room '{name}' has no floor; give it one in tests/house/floors.py"
    if room == other and room != "__init__":
        return None
    if room == "tasks" and other in TOOLS:
        return f"{found.module}:{found.line}: tasks may use metrics and diffusion, not its sibling {other}"
    if HEIGHTS[other] < HEIGHTS[room]:
        return None
    direction = "sideways" if HEIGHTS[other] == HEIGHTS[room] else "up"
    return f"{found.module}:{found.line}: imports {found.imported}, which is {direction}"
