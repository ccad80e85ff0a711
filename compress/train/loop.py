"""The one training loop: players take turns on the same batches; killed at any step, it resumes bit for bit.

Distillation, recovery after pruning and quantization-aware training are all `fit(players, ...)`. A player is a network
with its optimizer, its loss and its turn; adversarial and score distillation bring several. Batches are a pure
function of (seed, epoch, step), and the learning rate a pure function of the step, so a checkpoint holds weights,
optimizer and random state and nothing else.
"""

from __future__ import annotations

import copy
import math
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from lightning_fabric import Fabric
from torch import Tensor, nn

from compress.errors import RecipeError, TrainingDiverged
from compress.train import store
from compress.train.players import Draw, FitResult, Guard, Player, Watch
from compress.train.settings import LoopSettings, OptimizerSettings
from compress.types import Number

RESCUES = 3
"""How often a training of several players may go back after a loss that is no number."""


def fit(
    players: Sequence[Player],
    draw: Draw,
    size: int,
    settings: LoopSettings,
    fabric: Fabric,
    folder: Path,
    evaluate: Callable[[], Number] | None = None,
    better: Callable[[float, float], bool] = lambda new, old: new > old,
    on_epoch: Callable[[int], None] | None = None,
    watch: Watch | None = None,
    guard: Guard | None = None,
) -> FitResult:
    """Train the players in place and return the history; checkpoints go to `folder`, and a run resumes from there.

    Args:
        players: the networks that learn, in order of play.
        draw: the batch of given sample indices, with randomness from the given generator only.
        size: number of training samples.
        evaluate: quality on the validation split, called with the players in eval mode.
        better: whether a new quality beats an old one.
        on_epoch: called before each epoch (a schedule of loss weights, observers to freeze).
        watch: called after each step.
        guard: looks at each epoch, with the players in eval mode, and may order a lower rate, a rollback or the end.

    Raises:
        TrainingDiverged: a loss became NaN or infinite; names the step and the last good checkpoint. With several
            players that happens only where going back did not help; what was done is in the history's `findings`.
    """
    return _Fit(players, draw, size, settings, fabric, folder, evaluate, better, on_epoch, watch, guard).run()


class _Fit:
    """The state of one training while it runs."""

    def __init__(
        self,
        players: Sequence[Player],
        draw: Draw,
        size: int,
        settings: LoopSettings,
        fabric: Fabric,
        folder: Path,
        evaluate: Callable[[], Number] | None,
        better: Callable[[float, float], bool],
        on_epoch: Callable[[int], None] | None,
        watch: Watch | None,
        guard: Guard | None,
    ) -> None:
        self.players, self.draw, self.size, self.settings = players, draw, size, settings
        self.fabric, self.folder, self.evaluate, self.better = fabric, folder, evaluate, better
        self.on_epoch, self.watch, self.guard = on_epoch, watch, guard
        self.batch_size = min(settings.batch_size, size)
        if self.batch_size % fabric.world_size:
            size_text = f"train.batch_size {self.batch_size}"
            raise RecipeError(f"{size_text} does not divide by train.devices {fabric.world_size}; change either")
        self.steps_per_epoch = size // self.batch_size
        self.total = self.steps_per_epoch * settings.epochs
        self.step = 0
        self.result = FitResult()
        self.sums: dict[str, float] = {}
        self.stats: dict[str, list[float]] = {}
        self.factors = {player.name: 1.0 for player in players}
        self.good: dict[str, Any] | None = None
        self.rescues: list[str] = []
        self.said = 0
        self.stopped = False
        self.best: dict[str, Any] | None = None
        self.saved_at = time.monotonic()
        self.modules: dict[str, Any] = {}
        self.optimizers: dict[str, Any] = {}
        for player in players:
            trained = [p for p in player.module.parameters() if p.requires_grad]
            optimizer = _optimizer(trained, player.optimizer)
            self.modules[player.name], self.optimizers[player.name] = fabric.setup(player.module, optimizer)
        self.averages = (
            {p.name: {k: v.detach().clone() for k, v in _floats(p.module)} for p in players}
            if settings.ema_decay
            else {}
        )

    def run(self) -> FitResult:
        """Train from the last checkpoint, or from the start, to the end."""
        self._restore()
        # What is drawn by layers (dropout) follows the step alone, whatever ran before in this process.
        while self.step < self.total and not self.stopped:
            epoch, position = divmod(self.step, self.steps_per_epoch)
            if self.on_epoch is not None:
                self.on_epoch(epoch)
            self._epoch(epoch, position)
        self._finish()
        return self.result

    def _epoch(self, epoch: int, position: int) -> None:
        order = torch.randperm(self.size, generator=_generator(self.settings.seed, epoch, -1))
        self._mode(train=True)
        for index in range(position, self.steps_per_epoch):
            indices = order[index * self.batch_size : (index + 1) * self.batch_size]
            batch = self._batch(indices, _generator(self.settings.seed, epoch, index))
            torch.manual_seed(_mix(self.settings.seed, epoch, index) + self.fabric.global_rank)
            losses = self._play(batch)
            self.step += 1
            for name, value in losses.items():
                self.sums[name] = self.sums.get(name, 0.0) + value
            if self.watch is not None:
                self.watch(self.step, self.total, epoch, losses)
            if index + 1 < self.steps_per_epoch and self._save_is_due():
                self._save()
        self._close_epoch(epoch)

    def _batch(self, indices: Tensor, generator: torch.Generator) -> Any:
        """This process's share of the whole batch; every process draws it whole, so that shares add up to it."""
        batch = self.draw(indices, generator)
        world, rank = self.fabric.world_size, self.fabric.global_rank
        if world > 1:
            batch = _map_tensors(batch, lambda t: t[rank::world])
        return _map_tensors(batch, lambda t: _channels_last(t.to(self.fabric.device)))

    def _play(self, batch: Any) -> dict[str, float]:
        losses: dict[str, float] = {}
        for player in self.players:
            if self.step % player.every:
                continue
            optimizer, module = self.optimizers[player.name], self.modules[player.name]
            rate = player.optimizer.learning_rate * schedule(player.optimizer, self.step / self.total)
            rate *= self.factors[player.name]
            for group in optimizer.param_groups:
                group["lr"] = rate
            with self.fabric.autocast():
                terms = player.loss(self.modules, batch)
            total = torch.stack([term.float() for term in terms.values()]).sum()
            if not torch.isfinite(total):
                self._rescue(player, terms)
                continue
            optimizer.zero_grad()
            self.fabric.backward(total)
            if player.optimizer.clip_norm:
                self.fabric.clip_gradients(
                    module, optimizer, max_norm=player.optimizer.clip_norm, error_if_nonfinite=False
                )
            optimizer.step()
            prefix = "" if len(self.players) == 1 else f"{player.name}."
            losses |= {prefix + name: float(term.detach()) for name, term in terms.items()}
            for name, value in (player.stats() if player.stats else {}).items():
                self.stats.setdefault(name, []).append(value)
            losses[f"{prefix}learning_rate"] = rate
        self._average()
        return losses

    def _average(self) -> None:
        decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
        for player in self.players if self.averages else ():
            for key, value in _floats(player.module):
                self.averages[player.name][key].lerp_(value.detach(), 1 - decay)

    def _rescue(self, player: Player, terms: Mapping[str, Tensor]) -> None:
        """Several players go back to the end of the last sound epoch, and the one at fault goes on at half its rate.

        A network that learns beside the student (a fake score) may break without the student being at fault. After
        `RESCUES` times, or where there is no such epoch, the training has diverged.
        """
        if self.good is None or len(self.rescues) >= RESCUES:
            self._diverged(player, terms)
        assert self.good is not None
        self._load(self.good)
        self.factors[player.name] *= 0.5
        bad = ", ".join(name for name, term in terms.items() if not torch.isfinite(term))
        self.rescues.append(
            f"{player.name}: the loss '{bad}' became NaN or infinite at step {self.step}; all went back to the end of "
            f"the last sound epoch, {player.name} at half its rate"
        )

    def _diverged(self, player: Player, terms: Mapping[str, Tensor]) -> None:
        bad = ", ".join(name for name, term in terms.items() if not torch.isfinite(term))
        latest = sorted(self.folder.glob("step-*.pt"))
        kept = f"the last good checkpoint is {latest[-1]}" if latest else "no checkpoint had been written yet"
        raise TrainingDiverged(
            f"{player.name}: the loss '{bad}' became NaN or infinite at step {self.step}; {kept}; "
            f"lower learning_rate (now {player.optimizer.learning_rate:g})"
        )

    def _close_epoch(self, epoch: int) -> None:
        row: dict[str, Any] = {"epoch": epoch, **{k: v / self.steps_per_epoch for k, v in self.sums.items()}}
        if self.stats:
            row["stats"] = {name: sum(values) / len(values) for name, values in self.stats.items()}
        if self.rescues[self.said :]:
            row["findings"] = self.rescues[self.said :]
            self.said = len(self.rescues)
        self.sums, self.stats = {}, {}
        last = epoch + 1 == self.settings.epochs
        if self.evaluate is not None and (last or (epoch + 1) % self.settings.evaluate_every == 0):
            self._mode(train=False)
            with _Averaged(self):
                quality = self.evaluate().value
                row["quality"] = quality
                self._remember(epoch, quality)
        self.result.history.append(row)
        self._obey(epoch, row)
        if not last and self._save_is_due():
            self._save()

    def _remember(self, epoch: int, quality: float | None) -> None:
        """Keep the weights of the best epoch so far, by validation quality."""
        if self.settings.keep != "best" or quality is None or not math.isfinite(quality):
            return
        if self.best is None or self.better(quality, self.best["quality"]):
            weights = {p.name: {k: v.detach().clone() for k, v in p.module.state_dict().items()} for p in self.players}
            self.best = {"quality": quality, "epoch": epoch, "weights": weights}

    def _obey(self, epoch: int, row: dict[str, Any]) -> None:
        """Do what the guard orders after an epoch; an epoch without an order is what a rollback goes back to."""
        if self.guard is None:
            if len(self.players) > 1:
                self.good = copy.deepcopy(self._learned())
            return
        self._mode(train=False)
        with _Averaged(self):
            orders = self.guard.after_epoch(epoch, row)
        for order in orders:
            if order.action == "lower_rate":
                self.factors[order.player] *= order.factor
            elif order.action == "rollback" and self.good is not None:
                self._load(self.good)
            elif order.action == "stop":
                self.stopped = True
        if not orders:
            self.good = copy.deepcopy(self._learned())

    def _learned(self) -> dict[str, Any]:
        """All that the training has learned so far: weights, averages and the optimizers' state."""
        return {
            "modules": {p.name: p.module.state_dict() for p in self.players},
            "optimizers": {name: o.state_dict() for name, o in self.optimizers.items()},
            "averages": self.averages,
        }

    def _load(self, learned: Mapping[str, Any]) -> None:
        learned = copy.deepcopy(dict(learned))  # an optimizer goes on in the very tensors it is given
        for player in self.players:
            player.module.load_state_dict(learned["modules"][player.name])
            self.optimizers[player.name].load_state_dict(learned["optimizers"][player.name])
        self.averages = learned["averages"]

    def _finish(self) -> None:
        """Leave in the players the weights that the settings ask for."""
        if self.settings.keep == "best" and self.best is not None:
            for player in self.players:
                player.module.load_state_dict(self.best["weights"][player.name])
            self.result.best_epoch = self.best["epoch"]
        elif self.averages:
            _Averaged(self).__enter__()
        self._mode(train=False)
        self.result.steps = self.step

    def _mode(self, train: bool) -> None:
        for player in self.players:
            player.module.train(train)

    def _save_is_due(self) -> bool:
        due = time.monotonic() - self.saved_at >= self.settings.checkpoint_every_s
        return bool(self.fabric.broadcast(due)) if self.fabric.world_size > 1 else due

    def _save(self) -> None:
        state = {
            "step": self.step,
            **self._learned(),
            "good": self.good,
            "factors": self.factors,
            "rescues": self.rescues,
            "said": self.said,
            "guard": self.guard.to_dict() if self.guard is not None else {},
            "best": self.best,
            "history": self.result.history,
            "sums": self.sums,
            "stats": self.stats,
            "random": torch.get_rng_state(),
        }
        if self.fabric.is_global_zero:
            store.save(self.folder, self.step, state)
        self.fabric.barrier()
        self.saved_at = time.monotonic()

    def _restore(self) -> None:
        found = store.load_latest(self.folder)
        if found is None:
            return
        self.step, state = found
        self._load(state)
        self.best, self.sums, self.good, self.factors = (state[k] for k in ("best", "sums", "good", "factors"))
        self.stats, self.rescues, self.said = state["stats"], state["rescues"], state["said"]
        if self.guard is not None:
            self.guard.load_dict(state["guard"])
        self.result.history, self.result.resumed_from_step = state["history"], self.step
        torch.set_rng_state(state["random"])


class _Averaged:
    """Puts the averaged weights into the players for a while (no-op where averaging is off)."""

    def __init__(self, run: _Fit) -> None:
        self.run = run
        self.kept: dict[str, dict[str, Tensor]] = {}

    def __enter__(self) -> None:
        for player in self.run.players if self.run.averages else ():
            self.kept[player.name] = {k: v.detach().clone() for k, v in _floats(player.module)}
            _assign(player.module, self.run.averages[player.name])

    def __exit__(self, *_: object) -> None:
        for player in self.run.players if self.kept else ():
            _assign(player.module, self.kept[player.name])


def _floats(module: nn.Module) -> list[tuple[str, Tensor]]:
    return [(k, v) for k, v in module.state_dict(keep_vars=True).items() if v.is_floating_point()]


@torch.no_grad()
def _assign(module: nn.Module, values: Mapping[str, Tensor]) -> None:
    for key, value in _floats(module):
        value.copy_(values[key])


def schedule(settings: OptimizerSettings, progress: float) -> float:
    """The learning rate at `progress` (0..1 of the training), as a share of its peak: warm-up, then cosine to 0."""
    if progress < settings.warm_up_share:
        return (progress + 1e-3) / (settings.warm_up_share + 1e-3)
    if settings.schedule == "constant":
        return 1.0
    done = (progress - settings.warm_up_share) / max(1e-9, 1 - settings.warm_up_share)
    return 0.5 * (1 + math.cos(math.pi * done))


def _optimizer(parameters: list[nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    # Biases and norms are not decayed: decaying them only fights the normalization.
    groups = [
        {"params": [p for p in parameters if p.dim() > 1], "weight_decay": settings.weight_decay},
        {"params": [p for p in parameters if p.dim() <= 1], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    if settings.kind == "adamw":
        return torch.optim.AdamW(groups, lr=settings.learning_rate, betas=settings.betas)
    return torch.optim.SGD(
        groups, lr=settings.learning_rate, momentum=settings.momentum, nesterov=settings.momentum > 0
    )


def _mix(seed: int, epoch: int, index: int) -> int:
    """One seed out of three numbers, well apart for neighbours."""
    return (seed * 1_000_003 + epoch * 7_919 + index * 104_729 + 12_345) % (2**62)


def _generator(seed: int, epoch: int, index: int) -> torch.Generator:
    return torch.Generator().manual_seed(_mix(seed, epoch, index))


def _channels_last(tensor: Tensor) -> Tensor:
    return tensor.contiguous(memory_format=torch.channels_last) if tensor.dim() == 4 else tensor


def _map_tensors(batch: Any, change: Callable[[Tensor], Tensor]) -> Any:
    """The batch with `change` applied to each tensor in its fields, tuples, lists and dictionaries."""
    if isinstance(batch, Tensor):
        return change(batch)
    if isinstance(batch, (tuple, list)):
        return type(batch)(_map_tensors(item, change) for item in batch)
    if isinstance(batch, dict):
        return {key: _map_tensors(item, change) for key, item in batch.items()}
    if hasattr(batch, "__dataclass_fields__"):
        return type(batch)(**{k: _map_tensors(getattr(batch, k), change) for k in batch.__dataclass_fields__})
    return batch
