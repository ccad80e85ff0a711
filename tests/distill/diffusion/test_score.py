"""Score distillation where everything is known: contracts, fixed points, and what each rule adds."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from compress.bench.beds.mixture import Mixture
from compress.diffusion import Denoiser, guided
from compress.distill.diffusion import score
from compress.distill.diffusion.base import DiffusionMethod
from compress.distill.diffusion.diff_ratio import DiffRatio
from compress.distill.diffusion.disback import DisBack
from compress.distill.diffusion.dmd import WEIGHTS, Dmd
from compress.distill.diffusion.em import Em
from compress.distill.diffusion.score import ScoreDistillation
from compress.distill.diffusion.score_matching import ScoreMatching
from compress.distill.diffusion.sid import Sid
from compress.distill.diffusion.unlearn import Unlearn
from compress.distill.diffusion.vsd import Vsd
from compress.errors import RecipeError
from compress.train import OptimizerSettings
from tests.distill.diffusion.common import MEAN, SAYS_CLEAN, STD, Gaussian, Linear, batch_of, bed, method

RULES: list[type[ScoreDistillation]] = [Sid, Dmd, Vsd]
LOG_UNIFORM: dict[str, Any] = {"lowest": 0.1, "highest": 5.0, "share": 1.0, "rho": 1e6}


def learn(found: Any, student: nn.Module, steps: int, exact: bool = True, rate: float = 0.02) -> tuple[float, float]:
    """(std, mean) of the linear generator after the student's turns alone, with a fake score that is always exact."""
    optimizer = torch.optim.Adam(student.parameters(), lr=rate, betas=(0.0, 0.999))
    fake = Gaussian()
    batch = batch_of(found.task, 128)
    for step in range(steps):
        torch.manual_seed(step)
        if exact:
            with torch.no_grad():
                fake.std.copy_(student.a.abs())
                fake.mean.copy_(student.b)
        optimizer.zero_grad()
        sum(found.student_loss({"student": student, "fake": fake}, batch).values()).backward()
        optimizer.step()
    return float(student.a), float(student.b)


@pytest.mark.parametrize("kind", RULES, ids=lambda k: k.__name__)
def test_nothing_moves_where_fake_and_real_agree(kind: type[ScoreDistillation]) -> None:
    """The gradient of every rule vanishes; SiD's with all of its paths (its loss is a product with the difference)."""
    found, student = method(kind)
    sum(found.student_loss({"student": student, "fake": Gaussian()}, batch_of(found.task)).values()).backward()
    gradients = [float(p.grad) for p in student.parameters()]
    if kind is not Sid:
        assert gradients == [0.0, 0.0]
        return
    # For SiD the difference is 0 but its gradient is not the student's: both denoisers have the same slope.
    assert gradients == pytest.approx([0.0, 0.0], abs=1e-4)


@pytest.mark.parametrize("kind", RULES, ids=lambda k: k.__name__)
def test_a_student_s_turn_changes_neither_teacher_nor_fake(kind: type[ScoreDistillation]) -> None:
    found, student = method(kind)
    teacher = {k: v.clone() for k, v in found.teacher.state_dict().items()}
    modules = {"student": student, "fake": found.fake}
    learning = {name: p.requires_grad for name, p in found.fake.named_parameters()}
    sum(found.student_loss(modules, batch_of(found.task)).values()).backward()
    assert all(p.grad is None for p in found.teacher.parameters())
    assert all(p.grad is None for p in found.fake.parameters())
    assert {name: p.requires_grad for name, p in found.fake.named_parameters()} == learning
    student.zero_grad(set_to_none=True)
    sum(found.fake_loss(modules, batch_of(found.task)).values()).backward()
    assert all(p.grad is None for p in student.parameters())
    assert all(torch.equal(v, teacher[k]) for k, v in found.teacher.state_dict().items())


@pytest.mark.parametrize(
    ("kind", "options"),
    [(Dmd, {}), (Vsd, {}), (Sid, {"alpha": 0.0}), (Sid, {"alpha": 1.0}), (Sid, {"alpha": 1.2})],
)
def test_a_linear_generator_becomes_the_data(
    kind: type[ScoreDistillation], options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """a z + b from N(-1, 1.5^2) to N(2, 0.5^2): the fixed point, with an exact fake score."""
    monkeypatch.setattr(score, "SMALLEST_ERROR", 0.1)  # one pixel can be right by chance; a picture's mean cannot
    found, student = method(kind, **({} if kind is Vsd else LOG_UNIFORM), **options)
    a, b = learn(found, student, 900)
    assert abs(a) == pytest.approx(STD, abs=0.12) and b == pytest.approx(MEAN, abs=0.12)


def test_too_much_correction_of_the_bias_does_not_converge(monkeypatch: pytest.MonkeyPatch) -> None:
    """SiD's negative test: at alpha 2 the estimate's sign is wrong."""
    monkeypatch.setattr(score, "SMALLEST_ERROR", 0.1)
    found, student = method(Sid, alpha=2.0, **LOG_UNIFORM)
    a, b = learn(found, student, 900)
    assert abs(b - MEAN) > 1 or abs(abs(a) - STD) > 0.5


@pytest.mark.parametrize("level", [0.3, 1.0, 3.0])
def test_sid_s_estimate_is_biased_by_its_alpha(level: float) -> None:
    """E[L_alpha] / E|x_r - x_f|^2 = 1 - alpha where the fake score is exact."""
    real, fake = Mixture.ring(8, 2.0, 0.1), Mixture.ring(5, 1.2, 0.3)
    generator = torch.Generator().manual_seed(0)
    made = fake.draw(200_000, generator)
    x = made + level * torch.randn(made.shape, dtype=made.dtype, generator=generator)
    difference = real.denoise(x, level) - fake.denoise(x, level)
    fisher = difference.square().sum(1).mean()
    for alpha in (0.0, 0.5, 1.0, 1.2):
        loss = (difference * ((real.denoise(x, level) - made) - alpha * difference)).sum(1).mean()
        assert float(loss / fisher) == pytest.approx(1 - alpha, abs=0.02)


def test_sid_s_loss_is_that_expression() -> None:
    found, _ = method(Sid, alpha=0.7)
    made = torch.randn(8, 1, 1, 1)
    level = torch.full((8,), 1.3)
    x = made + 1.3 * torch.randn(8, 1, 1, 1)
    real, fake = Gaussian(), Gaussian(0.3, 0.8)
    found.teacher = real.requires_grad_(False)
    terms = found.student_terms(made, x, level, (), Denoiser(fake, SAYS_CLEAN))
    r, f = real(x, level), fake(x, level)
    weight = (made - r).abs()
    wanted = (0.3 * (r - f) ** 2 + (r - f) * (f - made)) / weight
    assert float(terms["sid"]) == pytest.approx(float(wanted.mean()), rel=1e-5)


def test_cutting_the_path_through_the_noised_samples_changes_sid_s_gradient_only() -> None:
    losses, gradients = [], []
    for through in (True, False):
        found, student = method(Sid, through_noised=through)
        torch.manual_seed(0)
        terms = found.student_loss({"student": student, "fake": Gaussian(0.0, 1.0)}, batch_of(found.task))
        terms["sid"].backward()
        losses.append(float(terms["sid"]))
        gradients.append(float(student.b.grad))
    assert losses[0] == losses[1] and gradients[0] != pytest.approx(gradients[1], rel=1e-3)


def test_dmd_s_and_vsd_s_gradients_point_the_same_way() -> None:
    made, level = torch.randn(256, 1, 1, 1), torch.full((256,), 1.3)
    x = made + 1.3 * torch.randn(256, 1, 1, 1)
    found = {}
    for kind in (Dmd, Vsd):
        rule, _ = method(kind)
        given = made.clone().requires_grad_(True)
        rule.student_terms(given, x, level, (), Denoiser(Gaussian(0.0, 1.0), SAYS_CLEAN)).popitem()[1].backward()
        found[kind] = given.grad.flatten()
    assert bool((found[Dmd].sign() == found[Vsd].sign()).all())


def test_a_softened_divergence_s_weight_is_its_derivative() -> None:
    """d/dm KL((p_r + p_f) / 2 || p_r) for p_f = N(m, 1), p_r = N(0, 1): 1 / (2 (1 + r)), not 1 / r."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    step = float(x[1] - x[0])

    def density(mean: float) -> Tensor:
        return torch.exp(-((x - mean) ** 2) / 2) / math.sqrt(2 * math.pi)

    def divergence(mean: float) -> float:
        mixed = (density(mean) + density(0.0)) / 2
        return float((mixed * torch.log(mixed / density(0.0))).sum() * step)

    mean = 1.3
    numeric = (divergence(mean + 1e-4) - divergence(mean - 1e-4)) / 2e-4
    ratio = density(0.0) / density(mean)
    scores = x - (x - mean)  # s_fake - s_real
    for name, agrees in (("softened_reverse_kl", True), ("reverse_kl", False), ("forward_kl", False)):
        weighted = float((density(mean) * scores * WEIGHTS[name](ratio)).sum() * step)
        assert (abs(weighted - numeric) < 1e-4) == agrees


def test_a_ratio_weight_needs_a_head_and_has_mean_one() -> None:
    task = bed()
    found, _ = method(Dmd, task)
    assert not found.has_head

    class Head(nn.Module):
        def logits(self, x: Tensor, time: Tensor) -> Tensor:
            return x.flatten()

    found.options = Dmd.options_from({"weight": "forward_kl"})
    weights = found.divergence_weight(Head(), torch.randn(64, 1, 1, 1), torch.ones(64), ())
    assert float(weights.mean()) == pytest.approx(1.0, rel=1e-5) and float(weights.std()) > 0.1


def test_low_rank_fakes_begin_as_the_teacher_and_train_little() -> None:
    found, _ = method(Vsd, rank=1)
    x, time = torch.randn(4, 1, 1, 1), torch.rand(4)
    assert torch.equal(found.fake(x, time), found.teacher(x, time))
    assert {name.rsplit(".", 1)[-1] for name, p in found.fake.named_parameters() if p.requires_grad} == {"a", "b"}


def test_a_rollout_leaves_at_a_random_step_with_a_gradient_there_alone() -> None:
    task = bed(levels=(2.5, 1.0, 0.4, 0.0))
    found, _ = method(Sid, task)
    lengths = set()
    for seed in range(30):
        torch.manual_seed(seed)
        asked: list[tuple[float, bool]] = []

        def denoise(x: Tensor, level: Tensor, asked: list[tuple[float, bool]] = asked) -> Tensor:
            asked.append((float(level[0]), torch.is_grad_enabled()))
            return x

        found.rollout(denoise, 4, ())
        assert [level for level, _ in asked] == pytest.approx(task.sampler.levels[: len(asked)])
        assert [grad for _, grad in asked] == [False] * (len(asked) - 1) + [True]
        lengths.add(len(asked))
    assert lengths == {1, 2, 3}


def test_levels_stay_within_their_share() -> None:
    found, _ = method(Sid, lowest=0.01, highest=10.0, share=0.5)
    levels = found.draw_levels(4000)
    middle = ((0.01 ** (1 / 7) + 10.0 ** (1 / 7)) / 2) ** 7
    assert float(levels.min()) >= 0.01 and float(levels.max()) <= middle * 1.001
    assert float((levels < middle / 2).float().mean()) > 0.5


def test_the_fake_plays_as_often_as_it_is_told() -> None:
    found, student = method(Dmd)
    players = found.players(student, OptimizerSettings("adamw", 1e-3))
    assert [(p.name, p.every) for p in players] == [("fake", 1), ("student", 5)]
    assert players[0].optimizer.betas == (0.0, 0.999)


def test_score_matching_teaches_a_student_the_teacher_at_all_levels() -> None:
    found, student = method(ScoreMatching, student=Gaussian(0.0, 1.5))
    optimizer = torch.optim.Adam(student.parameters(), lr=0.02)
    for step in range(400):
        batch = found.task.train_batch(torch.arange(128), torch.Generator().manual_seed(step))
        optimizer.zero_grad()
        found.loss(student, batch)["score"].backward()
        optimizer.step()
    assert float(student.mean) == pytest.approx(MEAN, abs=0.05)
    assert float(student.std) == pytest.approx(STD, abs=0.05)


def test_wrong_wishes_are_named() -> None:
    with pytest.raises(RecipeError, match="asked names condition 3; the task has 0"):
        method(Sid, asked=(3,))
    with pytest.raises(RecipeError, match=r"distill\.options\.alpa: unknown key; known: guidance, asked"):
        Sid.options_from({"alpa": 1})

    class NoDiffusion(DiffusionMethod):
        pass

    with pytest.raises(RecipeError, match="NoDiffusion is for diffusion, and this is a str task"):
        NoDiffusion(nn.Identity(), nn.Identity(), (), NoDiffusion.options_from({}), "task")  # type: ignore[arg-type]


def test_guidance_asks_the_teacher_twice() -> None:
    rows = torch.eye(2)
    task = bed(conditions=rows[torch.arange(128) % 2], drop=0.0)
    asked = []

    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[1.0], [3.0]]))

        def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
            return x * 0 + (condition @ self.weight).reshape(-1, 1, 1, 1)

    found, _ = method(Sid, task, teacher=Conditional(), student=Conditional(), guidance=2.0)
    x, level = torch.zeros(2, 1, 1, 1), torch.ones(2)
    assert found.real(x, level, rows).flatten().tolist() == [2.0, 6.0]
    assert guided(lambda *given: asked.append(given), 1.0, torch.zeros_like)(x, level, rows) is None and len(asked) == 1


def test_one_move_of_the_noise_alone_is_the_reverse_kl() -> None:
    """EM with K = 1 and no latent step: Diff-Instruct's gradient, noise_step level^2 (s_fake - s_real)."""
    found, student = method(Em, moves=1, latent_step=0.0)
    fake = Gaussian(0.0, 1.0)
    denoiser, level = found.denoiser(student), torch.full((512,), 1.3)
    latent, noise = torch.randn(512, 1, 1, 1), torch.randn(512, 1, 1, 1)
    moved, target = found.moved(denoiser, Denoiser(fake, SAYS_CLEAN), latent, noise, level, ())
    assert torch.equal(moved, latent)
    made = found.generate(denoiser, latent, ()).detach()
    x = made + 1.3 * noise
    wanted = 0.16 * (Gaussian()(x, level) - fake(x, level)).detach()
    assert float(torch.cosine_similarity((target - made).flatten(), wanted.flatten(), dim=0)) > 0.999
    torch.testing.assert_close(target - made, wanted, rtol=1e-4, atol=1e-4)


def test_taking_the_drawn_noise_out_of_the_target_leaves_little_variance() -> None:
    variances = {}
    for cancel in (True, False):
        found, student = method(Em, moves=4, latent_step=0.0, cancel=cancel)
        torch.manual_seed(0)
        latent = torch.randn(2048, 1, 1, 1)
        noise, level = torch.randn(2048, 1, 1, 1), torch.full((2048,), 1.0)
        denoiser = found.denoiser(student)
        _, target = found.moved(denoiser, Denoiser(Gaussian(0.0, 1.0), SAYS_CLEAN), latent, noise, level, ())
        variances[cancel] = float((target - found.generate(denoiser, latent, ())).detach().var())
    assert variances[False] > 5 * variances[True]


def test_one_state_of_the_teacher_is_dmd_itself_and_more_are_met_in_reverse() -> None:
    single, student = method(DisBack, states=1)
    base, _ = method(Dmd, student=Linear())
    batch = batch_of(single.task)
    losses = []
    for rule in (single, base):
        torch.manual_seed(5)
        rule.on_epoch(0, 10)
        losses.append(float(rule.student_loss({"student": student, "fake": Gaussian(0.0, 1.0)}, batch)["distribution"]))
    assert losses[0] == losses[1]
    found, student = method(DisBack, states=3, spoiling=0.4, return_by=0.8)
    for epoch in range(10):
        found.on_epoch(epoch, 10)
        assert found.spoils == (epoch < 4)
        with torch.no_grad():
            found.fake.mean.fill_(float(epoch))
        if found.spoils:
            assert list(found.student_loss({"student": student, "fake": found.fake}, batch)) == ["waiting"]
    assert [float(state.mean) for state in found.extra] == [1.0, 3.0]  # as they were when their turn came
    x, level = torch.zeros(1, 1, 1, 1), torch.full((1,), 100.0)
    met = []
    for epoch in range(4, 10):
        found.on_epoch(epoch, 10)
        met.append(round(float(found.real(x, level)), 1))
    assert met == [3.0, 3.0, 1.0, 1.0, 2.0, 2.0]  # the most spoiled first, the teacher (2.0) at the end


def test_a_forgotten_class_is_asked_of_the_teacher_as_another() -> None:
    rows = torch.eye(3)
    task = bed(conditions=rows[torch.arange(128) % 3], drop=0.0)

    class Conditional(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight = nn.Parameter(torch.tensor([[1.0], [2.0], [3.0]]))

        def forward(self, x: Tensor, time: Tensor, condition: Tensor) -> Tensor:
            return x * 0 + (condition @ self.weight).reshape(-1, 1, 1, 1)

    x, level = torch.zeros(3, 1, 1, 1), torch.ones(3)
    asked = task.asked
    for substitute, wanted in ((2, [1.0, 3.0, 3.0]), (-1, [1.0, 0.0, 3.0])):
        forget = int((asked @ torch.tensor([0.0, 1.0, 0.0])).argmax())
        other = -1 if substitute < 0 else int((asked @ torch.tensor([0.0, 0.0, 1.0])).argmax())
        found, _ = method(Unlearn, task, teacher=Conditional(), student=Conditional(), forget=forget, substitute=other)
        assert found.real(x, level, rows).flatten().tolist() == wanted
    with pytest.raises(RecipeError, match="must be two of the task's 3 conditions"):
        method(Unlearn, task, teacher=Conditional(), student=Conditional(), forget=3)


class Picture(nn.Module):
    """A denoiser with a convolution at a lower resolution, for heads."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.down, self.up = nn.Conv2d(1, 4, 3, 2, 1), nn.Conv2d(4, 1, 1)

    def forward(self, x: Tensor, time: Tensor) -> Tensor:
        deep = self.down(x).relu()
        return self.up(nn.functional.interpolate(deep, scale_factor=2.0)) + time.reshape(-1, 1, 1, 1)


def picture_task() -> Any:
    generator = torch.Generator().manual_seed(0)
    samples = 1 + 0.3 * torch.randn(256, 1, 8, 8, generator=generator)
    small = bed()
    small.clean, small.real = samples[:128], {"validation": samples[128:192], "test": samples[192:]}
    return small


def test_a_head_reads_the_deepest_features_and_leaves_the_denoiser_as_it_is() -> None:
    task = picture_task()
    found, student = method(Dmd, task, teacher=Picture(), student=Picture(), gan=0.1)
    assert found.has_head and found.fake.layer == "down"
    x, time = torch.randn(4, 1, 8, 8), torch.rand(4)
    assert torch.equal(found.fake(x, time), found.teacher(x, time)) and found.fake.logits(x, time).shape == (4,)
    modules = {"student": student, "fake": found.fake}
    batch = batch_of(task, 16)
    assert set(found.fake_loss(modules, batch)) == {"denoise", "discriminator"}
    terms = found.student_loss(modules, batch)
    assert set(terms) == {"distribution", "gan"}
    terms["gan"].backward()
    assert all(p.grad is None for p in found.fake.parameters()) and float(student.up.weight.grad.abs().sum()) > 0


def test_a_ratio_s_gradient_points_at_the_data() -> None:
    """A head that knows that larger is more real pulls samples up, whatever the teacher says."""
    task = picture_task()
    found, student = method(DiffRatio, task, teacher=Picture(), student=Picture())

    class Knows(nn.Module):
        def logits(self, x: Tensor, time: Tensor) -> Tensor:
            return x.sum((1, 2, 3))

    made = torch.randn(8, 1, 8, 8, requires_grad=True)
    found.student_terms(made, made, torch.ones(8), (), Denoiser(Knows(), SAYS_CLEAN))["ratio"].backward()
    assert bool((made.grad < 0).all())
    assert set(found.fake_loss({"student": student, "fake": found.fake}, batch_of(task, 16))) == {"ratio"}
