"""The one loop: resumes bit for bit, stops at NaN, survives damaged checkpoints, and lets players take turns."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.errors import RecipeError, TrainingDiverged
from compress.train import (
    DeviceSettings,
    LoopSettings,
    OptimizerSettings,
    Order,
    Player,
    fit,
    make_fabric,
    schedule,
    store,
)
from compress.types import Number

DATA = torch.randn(64, 6, generator=torch.Generator().manual_seed(0))
TRUTH = torch.randn(6, 3, generator=torch.Generator().manual_seed(1))


class Killed(Exception):
    """Stands for a process that dies."""


def _model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.ReLU(), nn.Dropout(0.2), nn.Linear(16, 3))


def _draw(indices: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    x = DATA[indices]
    return x + 0.1 * torch.randn(x.shape, generator=generator), x @ TRUTH


def _loss(modules: Any, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    return {"mse": (modules["model"](batch[0]) - batch[1]).square().mean()}


def _fit(folder: Path, model: nn.Module, loss: Callable[..., Any] = _loss, watch: Any = None, **settings: Any) -> Any:
    folder.mkdir(exist_ok=True, parents=True)
    loop = LoopSettings(**({"epochs": 6, "batch_size": 16, "checkpoint_every_s": 0.0} | settings))
    player = Player("model", model, loss, OptimizerSettings(learning_rate=0.05))
    return fit([player], _draw, 64, loop, make_fabric(DeviceSettings()), folder, watch=watch)


def _same(a: nn.Module, b: nn.Module) -> bool:
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


@pytest.mark.parametrize("dies_at", [1, 5, 13, 23])
def test_a_training_killed_at_any_step_ends_bit_identical(tmp_path: Path, dies_at: int) -> None:
    whole, killed = _model(), _model()
    result = _fit(tmp_path / "whole", whole)

    def dies(step: int, *_: Any) -> None:
        if step == dies_at:
            raise Killed

    with pytest.raises(Killed):
        _fit(tmp_path / "killed", killed, watch=dies)
    resumed = _model()
    again = _fit(tmp_path / "killed", resumed)
    assert _same(whole, resumed)
    assert again.history == result.history
    assert (again.resumed_from_step or 0) == dies_at - 1


def test_a_damaged_checkpoint_falls_back_to_the_one_before_and_says_so(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    def dies(step: int, *_: Any) -> None:
        if step == 10:
            raise Killed

    whole, resumed = _model(), _model()
    _fit(tmp_path / "whole", whole)
    with pytest.raises(Killed):
        _fit(tmp_path / "run", _model(), watch=dies)
    newest = max((tmp_path / "run").glob("step-*.pt"))
    newest.write_bytes(newest.read_bytes()[:-100])
    with caplog.at_level(logging.WARNING):
        result = _fit(tmp_path / "run", resumed)
    assert "damaged" in caplog.text and newest.name in caplog.text
    assert result.resumed_from_step == 8
    assert _same(whole, resumed)


def test_the_seed_decides_everything(tmp_path: Path) -> None:
    models = [_model() for _ in range(3)]
    for model, (name, seed) in zip(models, (("a", 0), ("b", 0), ("c", 1)), strict=True):
        _fit(tmp_path / name, model, seed=seed)
    assert _same(models[0], models[1])
    assert not _same(models[0], models[2])


def test_nan_stops_with_the_step_and_the_last_good_checkpoint(tmp_path: Path) -> None:
    steps = 0

    def explodes(modules: Any, batch: Any) -> dict[str, Tensor]:
        nonlocal steps
        steps += 1
        return {"mse": _loss(modules, batch)["mse"] * (float("nan") if steps == 8 else 1.0)}

    with pytest.raises(TrainingDiverged, match=r"'mse' became NaN or infinite at step 7; .*step-000000007") as caught:
        _fit(tmp_path, _model(), explodes)
    assert caught.value.exit_code == 1
    found = store.load_latest(tmp_path)
    assert found is not None
    assert all(torch.isfinite(t).all() for t in found[1]["modules"]["model"].values() if t.is_floating_point())


@pytest.mark.parametrize("broken", [(9,), (9, 14, 19), (9, 10, 11, 12)])
def test_players_go_back_when_one_breaks_and_give_up_when_that_does_not_help(
    tmp_path: Path, broken: tuple[int, ...]
) -> None:
    """Steps 0 to 3 are the first epoch; a fake score breaks at some later steps, through no fault of the student."""
    models = {"student": _model(), "fake": _model()}
    step = {"student": -1, "fake": -1}

    def loss_of(name: str) -> Callable[..., Any]:
        def loss(modules: Any, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
            step[name] += 1
            mse = (modules[name](batch[0]) - batch[1]).square().mean()
            return {"mse": mse * (float("nan") if name == "fake" and step[name] in broken else 1.0)}

        return loss

    players = [Player(n, m, loss_of(n), OptimizerSettings(learning_rate=0.05)) for n, m in models.items()]
    loop = LoopSettings(epochs=6, batch_size=16)

    def train() -> Any:
        return fit(players, _draw, 64, loop, make_fabric(DeviceSettings()), tmp_path)

    if len(broken) > 3:
        with pytest.raises(TrainingDiverged, match="fake: the loss 'mse' became NaN or infinite at step 12"):
            train()
        return
    history = train().history
    said = [text for row in history for text in row.get("findings", [])]
    assert len(said) == len(broken)
    assert said[0].startswith(f"fake: the loss 'mse' became NaN or infinite at step {broken[0]}; all went back")
    assert [("findings" in row) for row in history] == [epoch in {s // 4 for s in broken} for epoch in range(6)]
    assert all(bool(p.isfinite().all()) for m in models.values() for p in m.parameters())
    assert history[-1]["student.mse"] < history[0]["student.mse"]
    usual = [
        row["student.learning_rate"] / row["fake.learning_rate"] for row in history if row["epoch"] > broken[-1] // 4
    ]
    assert all(ratio == pytest.approx(2.0 ** len(broken)) for ratio in usual)


def test_players_take_turns_and_touch_only_their_own_weights(tmp_path: Path) -> None:
    generator, critic = nn.Linear(6, 3), nn.Linear(3, 1)
    before = {n: m.weight.detach().clone() for n, m in (("generator", generator), ("critic", critic))}
    turns = {"generator": 0, "critic": 0}

    def generator_loss(modules: Any, batch: Any) -> dict[str, Tensor]:
        turns["generator"] += 1
        return {"fool": -modules["critic"](modules["generator"](batch[0])).mean()}

    def critic_loss(modules: Any, batch: Any) -> dict[str, Tensor]:
        turns["critic"] += 1
        return {"judge": modules["critic"](modules["generator"](batch[0]).detach()).square().mean()}

    players = [
        Player("generator", generator, generator_loss, OptimizerSettings(learning_rate=0.1), every=4),
        Player("critic", critic, critic_loss, OptimizerSettings(learning_rate=0.0001, weight_decay=0)),
    ]
    loop = LoopSettings(epochs=2, batch_size=16)
    result = fit(players, _draw, 64, loop, make_fabric(DeviceSettings()), tmp_path)
    assert turns == {"generator": 2, "critic": 8}
    assert not torch.equal(generator.weight, before["generator"])
    assert (critic.weight - before["critic"]).abs().max() < 0.01, "the critic moves by its own small rate only"
    assert {"generator.fool", "critic.judge"} <= set(result.history[0])


def test_the_best_epoch_by_validation_is_kept(tmp_path: Path) -> None:
    qualities = iter([0.2, 0.9, 0.5])
    model, kept = _model(), []
    player = Player("model", model, _loss, OptimizerSettings())

    def judge() -> Number:
        kept.append([p.detach().clone() for p in model.parameters()])
        return Number(next(qualities), "", "measured")

    loop = LoopSettings(epochs=3, batch_size=16, keep="best")
    result = fit([player], _draw, 64, loop, make_fabric(DeviceSettings()), tmp_path, evaluate=judge)
    assert result.best_epoch == 1
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), kept[1], strict=True))


def test_averaged_weights_lie_between_and_resume_with_the_run(tmp_path: Path) -> None:
    plain, averaged, resumed = _model(), _model(), _model()
    _fit(tmp_path / "plain", plain)
    _fit(tmp_path / "ema", averaged, ema_decay=0.9)

    def dies(step: int, *_: Any) -> None:
        if step == 9:
            raise Killed

    with pytest.raises(Killed):
        _fit(tmp_path / "again", _model(), watch=dies, ema_decay=0.9)
    _fit(tmp_path / "again", resumed, ema_decay=0.9)
    assert not _same(plain, averaged)
    assert _same(averaged, resumed)


def test_schedule_rises_then_falls_to_zero() -> None:
    settings = OptimizerSettings(warm_up_share=0.1)
    rates = [schedule(settings, i / 100) for i in range(101)]
    assert max(rates) == pytest.approx(1.0)
    assert rates.index(max(rates)) == 10
    assert rates[0] < 0.02 and rates[100] == pytest.approx(0.0, abs=1e-9)
    assert schedule(OptimizerSettings(schedule="constant"), 0.7) == 1.0


def test_a_batch_that_does_not_divide_by_the_processes_is_refused(tmp_path: Path) -> None:
    class Two:
        world_size = 3

        def setup(self, *a: Any) -> Any:
            return a

    with pytest.raises(RecipeError, match=r"train\.batch_size 16 does not divide by train\.devices 3"):
        fit(
            [Player("model", _model(), _loss, OptimizerSettings())],
            _draw, 64, LoopSettings(epochs=1, batch_size=16), Two(), tmp_path,  # type: ignore[arg-type]
        )  # fmt: skip


class Scripted:
    """A guard that gives the orders it was told to, epoch by epoch; its state is how often it looked."""

    def __init__(self, orders: dict[int, list[Order]], seen: Callable[[], None] = lambda: None) -> None:
        self.orders, self.looks, self.seen = orders, 0, seen

    def after_epoch(self, epoch: int, row: dict[str, Any]) -> list[Order]:
        self.looks += 1
        self.seen()
        return self.orders.get(epoch, [])

    def to_dict(self) -> dict[str, Any]:
        return {"looks": self.looks}

    def load_dict(self, state: Mapping[str, Any]) -> None:
        self.looks = int(state["looks"])


def _guarded(folder: Path, model: nn.Module, guard: Scripted, watch: Any = None, epochs: int = 4) -> Any:
    player = Player("model", model, _loss, OptimizerSettings(learning_rate=0.1, schedule="constant", warm_up_share=0.0))
    loop = LoopSettings(epochs=epochs, batch_size=8, checkpoint_every_s=0.0)
    folder.mkdir(exist_ok=True)
    return fit([player], _draw, 32, loop, make_fabric(DeviceSettings()), folder, watch=watch, guard=guard)


def test_a_rollback_returns_to_the_end_of_the_last_epoch_without_an_order(tmp_path: Path) -> None:
    model, states = _model(), []
    guard = Scripted(
        {1: [Order("wait")], 2: [Order("rollback")]},
        lambda: states.append({k: v.clone() for k, v in model.state_dict().items()}),
    )
    _guarded(tmp_path, model, guard, epochs=3)
    assert len(states) == 3
    for key, value in model.state_dict().items():
        assert torch.equal(value, states[0][key])  # not epoch 1's, which was marked as none to go back to
        assert not torch.equal(value, states[1][key])


def test_an_order_lowers_the_rate_or_ends_the_training(tmp_path: Path) -> None:
    guard = Scripted({0: [Order("lower_rate", "model", 0.25)], 1: [Order("stop")]})
    result = _guarded(tmp_path, _model(), guard)
    rates = [row["learning_rate"] for row in result.history]
    assert rates == pytest.approx([0.1, 0.025]) and result.steps == 8


def test_a_guarded_training_killed_after_an_order_ends_bit_identical(tmp_path: Path) -> None:
    orders = {0: [], 1: [Order("rollback"), Order("lower_rate", "model", 0.5)]}
    whole = _model()
    _guarded(tmp_path / "whole", whole, Scripted(orders))

    def dies(step: int, total: int, epoch: int, losses: Any) -> None:
        if step == 11:
            raise Killed

    killed = _model()
    with pytest.raises(Killed):
        _guarded(tmp_path / "killed", killed, Scripted(orders), dies)
    resumed, guard = _model(), Scripted(orders)
    result = _guarded(tmp_path / "killed", resumed, guard)
    assert result.resumed_from_step and guard.looks == 4 and _same(whole, resumed)


def test_stats_are_noted_and_minimized_by_nobody(tmp_path: Path) -> None:
    model, seen = _model(), iter(range(100))
    player = Player("model", model, _loss, OptimizerSettings(), stats=lambda: {"sign": float(next(seen))})
    result = fit([player], _draw, 32, LoopSettings(epochs=2, batch_size=8), make_fabric(DeviceSettings()), tmp_path)
    assert [row["stats"] for row in result.history] == [{"sign": 1.5}, {"sign": 5.5}]
    assert "sign" not in result.history[0]
