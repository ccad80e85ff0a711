"""E2GAN: a new concept for a few per cent of the weights.

"E^2GAN: Efficient Training of Efficient GANs for Image-to-Image Translation" (Gong et al., ICML 2024).

Teacher and student are the base generator. The task's real outputs show the new concept: pairs of an input and what an
editor, such as a diffusion model, made of it. Only low-rank changes of the crucial layers learn, W + B A, at the
smallest rank after which a larger one gains little. They are merged into the weights at the end: what leaves is the
network that came in, with other numbers. `near_centroids` picks the few samples to learn from.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx, nn

from compress.distill.generator.base import GeneratorMethod, Options, Terms
from compress.distill.lora import add_lora, loras, merge_lora
from compress.errors import DataError, RecipeError, ToolMissing
from compress.graph.layers import LAYERS
from compress.tasks import Task
from compress.train import OptimizerSettings, Player

TRIAL_RATE = 1e-3
_SEED = 0


@dataclass(frozen=True)
class E2ganOptions(Options):
    """The loss of a paired translation, and where and how large the low-rank changes are."""

    teacher: Terms = field(default_factory=Terms)
    target: Terms = field(default_factory=lambda: Terms(pixel=1.0))
    gan: float = 0.01
    crucial: float = 0.8
    """Crucial are the layers that together have this share of the sensitivity."""
    ranks: tuple[int, ...] = (1, 2, 4, 8)
    """Tried in this order; one alone is taken as it is."""
    saturation: float = 0.1
    """A rank is large enough where the next lowers the trial loss by less than this share."""
    trial_steps: int = 30
    trial_batch: int = 16


class E2gan(GeneratorMethod):
    """The shared terms on a student of which only `Lora` at the crucial layers learns."""

    Options = E2ganOptions
    options: E2ganOptions

    def __init__(
        self,
        teacher: fx.GraphModule,
        student: fx.GraphModule,
        example_inputs: Sequence[Tensor],
        options: E2ganOptions,
        task: Task,
    ) -> None:
        super().__init__(teacher, student, example_inputs, options, task)
        if not options.ranks or min(options.ranks) < 1:
            raise RecipeError(f"distill.options.ranks is {list(options.ranks)}; give one rank or more, each above 0")
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(_SEED)
            self.crucial = crucial_layers(self.sensitivities(student), options.crucial)
            self.rank = self.found_rank(student)
            add_lora(student, self.crucial, self.rank)

    def players(self, learner: nn.Module, optimizer: OptimizerSettings) -> list[Player]:
        """The players of all methods; of the student only the low-rank changes learn, and no statistic moves."""
        student: Any = learner.student
        student.requires_grad_(False)
        for lora in loras(student):
            lora.requires_grad_(True)
        learner.keep_norms = True  # type: ignore[assignment]
        return super().players(learner, optimizer)

    def finish(self, student: nn.Module) -> None:
        """Merge the changes into the weights, in place."""
        merge_lora(student)

    def sensitivities(self, student: nn.Module) -> dict[str, float]:
        """What a change of each layer is worth, on one batch of trials: see `sensitivity`."""
        model = copy.deepcopy(student).eval().requires_grad_(True)
        self.trial_loss(model, self.trial_batch(0)).backward()
        layers = {path: module for path, module in model.named_modules() if isinstance(module, LAYERS)}
        return {
            path: sensitivity(layer.weight.detach(), layer.weight.grad)
            for path, layer in layers.items()
            if layer.weight.grad is not None
        }

    def found_rank(self, student: nn.Module) -> int:
        """The first rank after which the next gains less than `saturation`, by short trials of each."""
        best, before = self.options.ranks[0], float("inf")
        for rank in self.options.ranks if len(self.options.ranks) > 1 else ():
            after = self.trial(student, rank)
            if after > before * (1 - self.options.saturation):
                break
            best, before = rank, after
        return best

    def trial(self, student: nn.Module, rank: int) -> float:
        """The loss on samples that were not learned from, after a few steps at a rank."""
        model = copy.deepcopy(student).eval().requires_grad_(False)
        torch.manual_seed(_SEED)
        add_lora(model, self.crucial, rank)
        optimizer = torch.optim.Adam([p for lora in loras(model) for p in lora.parameters()], lr=TRIAL_RATE)
        for step in range(self.options.trial_steps):
            loss = self.trial_loss(model, self.trial_batch(1 + step))
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        with torch.no_grad():
            return float(self.trial_loss(model, self.trial_batch(0)))

    def trial_loss(self, model: nn.Module, batch: Any) -> Tensor:
        """The loss of a trial: that of the training, without the game and the features."""
        terms = self.output_terms(model(*batch.inputs), self.reference(batch), batch)
        if not terms:
            raise RecipeError(
                "distill.options.target: e2gan learns from real outputs; take a task that has them, and a weight"
            )
        return torch.stack([term.float() for term in terms.values()]).sum()

    def trial_batch(self, number: int) -> Any:
        """A batch of training samples; number 0 is apart, as far as there are enough."""
        size, count = self.task.train_size(), min(self.options.trial_batch, self.task.train_size())
        order = torch.randperm(size, generator=torch.Generator().manual_seed(_SEED))
        rest = order[count:] if size >= 2 * count else order
        start = (number - 1) * count
        chosen = order[:count] if number == 0 else rest[torch.arange(start, start + count) % len(rest)]
        return self.task.train_batch(chosen, torch.Generator().manual_seed(number))


def sensitivity(weight: Tensor, gradient: Tensor) -> float:
    """The first-order gain of the best rank-1 change as large as the weight: ||W||_2 ||dL/dW||_2.

    Of all changes of rank 1 and norm ||W||_2 the one along the gradient's first singular pair lowers the loss most.
    """
    norms = [torch.linalg.matrix_norm(x.flatten(1).float(), 2) for x in (weight, gradient)]
    return float(norms[0] * norms[1])


def crucial_layers(sensitivities: Mapping[str, float], share: float) -> list[str]:
    """The fewest layers, the most sensitive first, that have a share of the whole sensitivity."""
    if not 0 < share <= 1:
        raise RecipeError(f"distill.options.crucial is {share:g}; it has to be above 0 and at most 1")
    order = sorted(sensitivities, key=lambda path: -sensitivities[path])
    total, covered = sum(sensitivities.values()), 0.0
    chosen: list[str] = []
    for path in order:
        if chosen and covered >= share * total:
            break
        chosen.append(path)
        covered += sensitivities[path]
    return chosen


def near_centroids(features_NC: Tensor, keep: int, clusters: int, seed: int = 0) -> Tensor:
    """The numbers (keep,), sorted, of the samples nearest to the centroids of k-means, from each cluster its share.

    Raises:
        DataError: there are fewer samples than clusters or than are to be kept.
        ToolMissing: scikit-learn is not installed.
    """
    if not 1 <= clusters <= keep <= len(features_NC):
        raise DataError(f"{keep} of {len(features_NC)} samples cannot be kept from {clusters} clusters; ask for fewer")
    try:
        from sklearn.cluster import KMeans
    except ImportError as error:
        raise ToolMissing("scikit-learn", "examples") from error
    found = KMeans(clusters, random_state=seed, n_init=4).fit(features_NC.double().numpy())
    cluster_N = torch.from_numpy(found.labels_).long()
    centroids_KC = torch.from_numpy(found.cluster_centers_)
    away_N = (features_NC.double() - centroids_KC[cluster_N]).norm(dim=1)
    # Its place in its own cluster as a share of the cluster: the lowest places are, in each, its share of what is kept.
    place_N = torch.empty_like(away_N)
    for number in range(clusters):
        rows = (cluster_N == number).nonzero()[:, 0]
        place_N[rows[away_N[rows].argsort()]] = (torch.arange(len(rows), dtype=torch.double) + 0.5) / len(rows)
    return place_N.argsort(stable=True)[:keep].sort().values
