"""Where does an artifact leave the model? The first op whose inputs agree and whose output does not.

The model's ops run one after the other on the artifact's own tensors (see `replay`). The first value that neither a
tensor of the artifact holds nor any later value vouches for is the suspect. Then the tensor that stands in its place is
looked for: the one with which, taken as it is, most of what follows agrees again. So the verdict also says which ops
the artifact computes as one, and whether anything else is wrong.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import fx

from compress.errors import CompressError
from compress.export.program import QUANTIZE, op_name
from compress.runtimes import intermediates
from compress.runtimes.intermediate import Intermediate
from compress.verify.layouts import Counterpart, Pool, by_shape
from compress.verify.replay import Replay, op_of, place_of
from compress.verify.thresholds import threshold_of
from compress.verify.verdict import Input, Suspect, Verdict

_FUSED_MOST = 5  # ops that a converter may make one of: convolution, norm, activation, quantize, dequantize
_NEVER_BEHIND = ("conv", "linear", "mm", "matmul", "attention", "lstm", "gru")  # ops that none before them takes in
_CANDIDATES = 16  # tensors tried in the suspect's place; a converter makes a dozen ops of one norm


def bisect(reference: Any, path: str | Path, format: str, scheme: str, inputs: Sequence[np.ndarray]) -> Verdict:
    """Where an artifact leaves its reference on one set of inputs.

    Args:
        reference: the model behind the artifact: a traced `fx.GraphModule`, or an exported program.
        path: the artifact.
        format: a key of `compress.runtimes.RUNTIMES`.
        scheme: says what one op must keep (`thresholds.THRESHOLDS`).
        inputs: one float32 array per input, batch 1. Random ones tell more than blank ones.

    Raises:
        ToolError, InputError: the runtime cannot show what is inside the file, or cannot read it.
    """
    return locate(reference, intermediates(path, format, inputs), inputs, threshold_of(scheme).op_sqnr_db)


def explain(reference: Any, path: str | Path, format: str, scheme: str, inputs: Sequence[np.ndarray]) -> Verdict:
    """As `bisect`, but where it cannot look inside, the verdict says so: for a check that has failed already."""
    try:
        return bisect(reference, path, format, scheme, inputs)
    except CompressError as error:
        reason = str(error)
    except Exception as error:  # whatever stops the look must not hide the failure that it was to explain
        reason = f"{type(error).__name__}: {(str(error).splitlines() or [''])[0][:160]}"
    return Verdict(None, f"the first diverging op could not be looked for ({reason})", 0, 0)


def locate(reference: Any, tensors: list[Intermediate], inputs: Sequence[np.ndarray], least_db: float) -> Verdict:
    """The verdict on an artifact's tensors: an op diverges where its output is below `least_db` on agreeing inputs."""
    module = reference if isinstance(reference, fx.GraphModule) else reference.module(check_guards=False)
    for layer in module.children():  # an exported module refuses eval() itself
        layer.eval()
    arrays = [torch.from_numpy(np.ascontiguousarray(value, np.float32)) for value in inputs]
    pool = Pool(tensors)

    def replay(granted: dict[str, np.ndarray] | None = None) -> Replay:
        run = Replay(module, pool, least_db, granted)
        with torch.no_grad():
            run.run(*arrays)
        return run

    first = replay()
    good = _good(module.graph, first)
    wrong = [node for node in module.graph.nodes if node.name in first.values and node.name not in good]
    counts = (len(first.values), len(first.values) - len(wrong))
    if not wrong:
        return Verdict(None, _clean(module, first), *counts)
    search = _Search(module, pool, first, wrong[0])
    suspect = search.suspect(replay)
    return Verdict(suspect, str(suspect), *counts)


def _good(graph: fx.Graph, run: Replay) -> set[str]:
    """The nodes whose value is in the artifact, or is vouched for by one computed from it that is."""
    good: set[str] = set()
    for node in reversed(graph.nodes):
        if node.name in run.found or any(user.name in good for user in node.users):
            good.add(node.name)
    return good


def _clean(module: fx.GraphModule, run: Replay) -> str:
    """What there is to say where no op diverges."""
    for output in (node for node in module.graph.nodes if node.op == "output"):
        for source in output.all_input_nodes:
            held = run.found.get(source.name, [])
            if held and not any(found.is_plain for found in held):
                return f"no op diverges, but the output {source.name} is in the file {held[0].layout} only"
    exact = {name: held[0].sqnr_db for name, held in run.found.items()}
    if not exact:
        return "no op diverges: no value of the model could be compared"
    least = min(exact, key=lambda name: exact[name])
    return f"no op diverges when each tensor is read out; the least exact is node {least}, {exact[least]:.1f} dB"


@dataclass(frozen=True, slots=True)
class _Pairing:
    """A tensor taken for a node's value: how many later values agree now and did not (`gained`), how many do not."""

    node: fx.Node
    held: Counterpart
    gained: int
    rest: int


class _Search:
    """The look for the tensor that stands in the suspect's place."""

    def __init__(self, module: fx.GraphModule, pool: Pool, run: Replay, node: fx.Node) -> None:
        self._module, self._run, self._node = module, run, node
        self._order = {entry.name: index for index, entry in enumerate(module.graph.nodes)}
        self._chain = _chain(module, node)
        self._sources = list(_sources(node, run))
        self._roots = {held.tensor.name for source in self._sources for held in run.found.get(source.name, [])}
        explained = {held.tensor.name for many in run.found.values() for held in many}
        self._behind = list(_behind(pool.tensors, self._roots, explained))
        # What the suspect reads comes first: should the artifact simply go on with that, the op was dropped.
        own = [tensor for tensor in pool.tensors if tensor.name in self._roots]
        self._candidates = own + [t for t in self._behind if t.value.size and np.isfinite(t.value).all()][:_CANDIDATES]

    def suspect(self, replay: Callable[[dict[str, np.ndarray]], Replay]) -> Suspect:
        """The suspect with the pairing under which most of what follows agrees again."""
        best: _Pairing | None = None
        for tensor in self._candidates:
            pairings = [p for p in self._pairings(tensor, replay) if p.gained]
            # A clamp or a rounding leaves its own results as they are, so several may fit: the nearest in value is it.
            fitting = max(pairings, key=lambda p: (-p.rest, p.held.sqnr_db), default=None)
            if fitting is not None and (best is None or fitting.rest < best.rest):
                best = fitting
            if best is not None and not best.rest:
                break
        return self._made(best or self._guess())

    def _pairings(self, tensor: Intermediate, replay: Callable[[dict[str, np.ndarray]], Replay]) -> Iterator[_Pairing]:
        """Yields what comes of taking `tensor` for the suspect's value, or for that of an op fused with it."""
        for node in reversed(self._chain):
            value = self._run.values.get(node.name)
            held = by_shape(value, tensor, self._run.shapes[node.name]) if value is not None else None
            if held is None:
                continue
            # An op that gives codes is read by dequantize ops: they take the numbers.
            takers: Iterable[fx.Node] = node.users if op_name(node) == QUANTIZE else [node]
            granted = {taker.name: held.value(self._run.values[node.name].shape) for taker in takers}
            yield self._pairing(node, held, replay(granted))

    def _pairing(self, node: fx.Node, held: Counterpart, again: Replay) -> _Pairing:
        good = _good(self._module.graph, again)
        later = [name for name in again.values if self._order[name] > self._order[node.name]]
        later = [name for name in later if name not in again.granted]
        gained = sum(name in again.found and name not in self._run.found for name in later)
        return _Pairing(node, held, gained, sum(name not in good for name in later))

    def _guess(self) -> _Pairing | None:
        """The tensor behind the agreeing ones that comes nearest to the suspect's value, with nothing to prove it."""
        for node in self._chain:
            value, shapes = self._run.values.get(node.name), self._run.shapes.get(node.name, [])
            tried = [by_shape(value, tensor, shapes) for tensor in self._behind] if value is not None else []
            nearest = max((held for held in tried if held is not None), key=lambda held: held.sqnr_db, default=None)
            if nearest is not None:
                return _Pairing(node, nearest, 0, 0)
        return None

    def _made(self, pairing: _Pairing | None) -> Suspect:
        node = self._node
        fused = self._chain[1 : self._chain.index(pairing.node) + 1] if pairing is not None else []
        tensor = pairing.held.tensor if pairing is not None else next(iter(self._behind), None)
        return Suspect(
            op=op_of(self._module, node), where=place_of(node), node=node.name, inputs=tuple(self._inputs(tensor)),
            sqnr_db=pairing.held.sqnr_db if pairing is not None else None,
            fused=tuple(f"{op_of(self._module, other)} at {place_of(other) or other.name}" for other in fused),
            artifact_op=tensor.op if tensor is not None else "",
            artifact_tensor=tensor.name if tensor is not None else "",
            dropped=tensor is not None and tensor.name in self._roots,
            rest=pairing.rest if pairing is not None and pairing.gained else None,
        )  # fmt: skip

    def _inputs(self, tensor: Intermediate | None) -> Iterator[Input]:
        """Yields the suspect's inputs, each in the layout in which the op in its place reads it."""
        reads = tensor.reads if tensor is not None else ()
        for source in self._sources:
            held = self._run.found.get(source.name)
            if held is None:
                yield Input(source.name, None)
                continue
            read = next((found for found in held if found.tensor.name in reads), held[0])
            yield Input(source.name, read.sqnr_db, read.layout)
        if any(sqnr is not None for sqnr in self._run.weights.values()):  # the file shows its weights
            for weight in self._node.all_input_nodes:
                if weight.name in self._run.weights:
                    yield Input(weight.name, self._run.weights[weight.name], "a weight")


def _sources(node: fx.Node, run: Replay) -> Iterator[fx.Node]:
    """Yields the values nearest before a node that the artifact holds, and the model's inputs, each once."""
    seen: set[str] = set()
    waiting = list(node.all_input_nodes)
    while waiting:
        source = waiting.pop(0)
        if source.name in seen or source.name in run.constants:
            continue
        seen.add(source.name)
        if source.op == "placeholder" or source.name in run.found:
            yield source
        else:
            waiting += source.all_input_nodes


def _chain(module: fx.GraphModule, node: fx.Node) -> list[fx.Node]:
    """A node and the ops behind it that a converter may fuse with it: each the only reader of the one before."""
    chain = [node]
    while len(chain) < _FUSED_MOST:
        readers = [user for user in chain[-1].users if user.op != "output"]
        if len(readers) != 1 or any(word in op_of(module, readers[0]).lower() for word in _NEVER_BEHIND):
            break
        chain.append(readers[0])
    return chain


def _behind(tensors: list[Intermediate], roots: set[str], explained: set[str]) -> Iterator[Intermediate]:
    """Yields the tensors that hold nothing known and are computed from the roots, in execution order."""
    reached = set(roots)
    for tensor in tensors:
        if tensor.constant or not reached.intersection(tensor.reads):
            continue
        reached.add(tensor.name)
        if tensor.name not in explained:
            yield tensor
