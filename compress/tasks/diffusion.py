"""Diffusion: a network that denoises is judged by the pictures that its sampler makes of it, as a whole distribution.

The model of such a run is the network as it is shipped: (scaled samples, times[, conditions]) to raw outputs. What its
output means is the task's `preconditioning`, how often and at which noise levels it is asked the task's `sampler`, a
table of constants that is shipped beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import cycle
from typing import Any

import torch
from torch import Tensor, nn

from compress.diffusion import Preconditioning, SamplerTable, per_sample
from compress.errors import DataError
from compress.metrics import Features, figure_name, frechet_distance, half_sample_interval
from compress.tasks.base import Batch, Companion, Predict, Reference, Sample, Split, Stored, Task, Use, take
from compress.tasks.distribution import neighbours, rows_of
from compress.tasks.draws import generator_of
from compress.tasks.generation import Classifier
from compress.tasks.imitation import mean_of
from compress.tasks.prompts import Prompts
from compress.types import Number

GOLDEN = 8
"""Samples that go with a pipeline's files, for a device to make again."""
DECODED = 64
"""Real latents that the decoder is calibrated and verified with."""


@dataclass(frozen=True)
class Noised:
    """What is behind the inputs of a training batch; all (N, ...), `condition` None where there is none."""

    clean: Tensor
    noise: Tensor
    level: Tensor
    condition: Tensor | None

    @property
    def x(self) -> Tensor:
        """The noised samples, in the coordinate of `compress.diffusion`."""
        return self.clean + per_sample(self.level, self.clean) * self.noise


class Sampling:
    """A network with a sampler of its own, for `Diffusion.references`; called, it is the network."""

    def __init__(self, network: Predict, sampler: SamplerTable) -> None:
        self.network, self.sampler = network, sampler

    def __call__(self, *inputs: Tensor) -> Tensor:
        """The network's raw output."""
        return self.network(*inputs)


class Diffusion(Task):
    """Quality is the Fréchet distance of made samples to real ones on a named backbone; lower is better.

    Every model makes its samples from the same noise: the number of a sample says which.

    Args:
        train: clean samples (N, C, H, W), as the network sees them (images in [-1, 1]).
        real: real samples that nothing is trained on, (M, C, H, W): the first half judges on the validation split, the
            other on the test split.
        real_pictures: RGB in [0, 1] that they stand for, (M, 3, H', W'), where `pixels` of them would lose something.
        preconditioning: what the network's output means.
        teacher_preconditioning: what the teacher's means, where that is another.
        sampler: how samples are made of a student. Where it tells the network a second time (a flow map), all networks
            take one; samplers without are told the first time twice.
        teacher_sampler: how they are made of the teacher; by default as of a student.
        features: the backbone of all figures of sets; its name is in theirs.
        conditions: rows (N, K) that go with the training samples; zeros ask for nothing.
        asked: rows (K', K) that samples are made for, in turn; by default the distinct training conditions.
        drop: share of training samples that lose their condition, for guidance.
        classifier: says what is in a picture; the report then has the share that shows the class asked for.
        class_of: condition rows (N, K) to the classes (N,) that they ask for.
        seen_in: clean samples (N, C, H, W) to the last numbers (N, R) of the condition rows that they would answer; for
            methods that learn a condition from what the student itself makes.
        count: samples made per split.
        level_mean, level_std: of the logarithm of the noise levels that are trained on (Karras et al., 2022).
        teacher_steps: samplers of the teacher that stand beside the student in the report, by name.
        student_steps: further samplers of the student; the report has all of them beside what they take.
        pixels: samples to RGB in [0, 1], (N, 3, H, W); by default from [-1, 1].
        decoder: where samples are latents, the network that makes pictures in [-1, 1] of them; `pixels` gets these.
        prompts: where conditions are texts, what makes rows of them; goes into the pipeline's folder.
    """

    higher_is_better = False
    batch_size = 64

    def __init__(
        self,
        train: Stored,
        real: Tensor,
        *,
        preconditioning: Preconditioning,
        sampler: SamplerTable,
        features: Features,
        teacher_preconditioning: Preconditioning | None = None,
        teacher_sampler: SamplerTable | None = None,
        conditions: Tensor | None = None,
        asked: Tensor | None = None,
        drop: float = 0.1,
        classifier: Classifier | None = None,
        class_of: Callable[[Tensor], Tensor] = lambda rows: rows.argmax(1),
        seen_in: Callable[[Tensor], Tensor] | None = None,
        count: int = 1_000,
        batch_size: int = 64,
        level_mean: float = -1.2,
        level_std: float = 1.2,
        teacher_steps: Mapping[str, SamplerTable] | None = None,
        student_steps: Mapping[str, SamplerTable] | None = None,
        pixels: Callable[[Tensor], Tensor] | None = None,
        real_pictures: Tensor | None = None,
        decoder: nn.Module | None = None,
        prompts: Prompts | None = None,
    ) -> None:
        if len(real) < 4:
            raise DataError(f"{len(real)} real samples are too few to judge others by")
        if conditions is not None and len(conditions) != len(train):
            raise DataError(f"{len(train)} training samples have {len(conditions)} conditions")
        self.clean, self.conditions = train, conditions
        middle = len(real) // 2
        self.real: dict[Split, Tensor] = {"validation": real[:middle], "test": real[middle:]}
        self.real_pictures: dict[Split, Tensor] = {}
        if real_pictures is not None:
            if len(real_pictures) != len(real):
                raise DataError(f"{len(real)} real samples have {len(real_pictures)} pictures")
            self.real_pictures = {"validation": real_pictures[:middle], "test": real_pictures[middle:]}
        self.preconditioning, self.sampler, self.features = preconditioning, sampler, features
        self.teacher_preconditioning = teacher_preconditioning or preconditioning
        self.teacher_sampler = teacher_sampler or sampler
        self.asked = torch.unique(conditions, dim=0) if asked is None and conditions is not None else asked
        self.drop, self.classifier, self.class_of = drop, classifier, class_of
        self.seen_in = seen_in
        self.count, self.batch_size = count, batch_size
        self.level_mean, self.level_std = level_mean, level_std
        self.teacher_steps, self.student_steps = dict(teacher_steps or {}), dict(student_steps or {})
        self.decoder, self.prompts = decoder.eval() if decoder is not None else None, prompts
        shown = pixels or _rgb
        self.pixels = shown if decoder is None else lambda samples: shown(self.pictures(samples))
        self.quality_name = figure_name("Fréchet distance", features)
        self.takes_until = any(row.until is not None for row in sampler.rows)
        self._teacher: Predict | None = None
        self._real_rows: dict[Split, Tensor] = {}
        self._made: dict[tuple[Split, int], tuple[Predict, Tensor]] = {}

    # What is trained on

    @property
    def shape(self) -> tuple[int, ...]:
        """The shape of one sample."""
        return tuple(self.real["test"].shape[1:])

    @property
    def labelled(self) -> bool:
        """Always: the clean sample is what a noised one should become."""
        return True

    def example_inputs(self) -> tuple[Tensor, ...]:
        """The network's inputs for one sample."""
        return next(iter(self.batches("validation", 1))).inputs

    def train_size(self) -> int:
        """How many training samples there are."""
        return len(self.clean)

    def train_batch(self, indices: Tensor, generator: torch.Generator) -> Batch:
        """Training samples with noise of random levels; the target has all that is behind them."""
        clean = take(self.clean, indices)
        level = torch.exp(self.level_mean + self.level_std * torch.randn(len(clean), generator=generator))
        noise = torch.randn(clean.shape, generator=generator)
        condition = self.conditions[indices] if self.conditions is not None else None
        if condition is not None and self.drop:
            kept = torch.rand(len(clean), generator=generator) >= self.drop
            condition = condition * kept[:, None]
        return self._batch(Noised(clean, noise, level, condition))

    def batches(self, split: Split, size: int | None = None) -> Iterator[Batch]:
        """Real samples of a split with noise at the levels of the student's sampler, one level after the other."""
        count, size = len(self.real[split]), size or self.batch_size
        levels = cycle(self.sampler.levels)
        for start in range(0, count, size):
            clean = self.real[split][start : start + size]
            generator = generator_of("noised", split, start)
            level = torch.tensor([next(levels) for _ in clean], dtype=clean.dtype)
            noise = torch.randn(clean.shape, generator=generator)
            yield self._batch(Noised(clean, noise, level, self.conditions_of(len(clean), start)))

    def loss(self, output: Tensor, target: Noised) -> Tensor:
        """The mean squared error of the raw output: Karras et al.'s weighting, where that is the preconditioning."""
        wanted = self.preconditioning.output_of(target.clean, target.x, target.level)
        return (output.float() - wanted).square().mean()

    def _batch(self, noised: Noised) -> Batch:
        factors = self.preconditioning(noised.level)
        x = per_sample(factors.scale, noised.clean) * noised.x
        times = (factors.time, factors.time) if self.takes_until else (factors.time,)
        return Batch((x, *times, *(() if noised.condition is None else (noised.condition,))), noised)

    def conditions_of(self, count: int, start: int = 0) -> Tensor | None:
        """Those of samples by number: each is asked for in turn."""
        if self.asked is None:
            return None
        return self.asked[torch.arange(start, start + count) % len(self.asked)]

    # What is judged

    def with_teacher(self, teacher: Predict) -> Diffusion:
        """The same task, knowing whose sampler is the teacher's."""
        self._teacher = teacher
        self.forget_samples()
        return self

    def forget_samples(self) -> None:
        """What was made before no longer counts: a sampler is another now."""
        self._made = {}

    def sampler_of(self, predict: Predict) -> SamplerTable:
        """How samples are made of a model."""
        if isinstance(predict, Sampling):
            return predict.sampler
        return self.teacher_sampler if predict is self._teacher else self.sampler

    @torch.no_grad()
    def make(self, predict: Predict, split: Split = "test", count: int | None = None, start: int = 0) -> Tensor:
        """Samples (count, C, H, W) that a model makes; sample i is always of the same noise."""
        sampler = self.sampler_of(predict)
        count = self.count if count is None else count
        noises = self.noises(split, count, 1 + sampler.fresh_noises, start)
        return self.make_of(predict, noises, self.conditions_of(count, start), sampler)

    def make_of(self, predict: Predict, noises: Tensor, conditions: Tensor | None, sampler: SamplerTable) -> Tensor:
        """Samples of given noises (N, C, H, W) or, with those drawn on the way, (N, 1 + fresh, C, H, W)."""
        network, made = self.with_until(predict) if sampler.rows[0].until is None else predict, []
        if noises.dim() == len(self.shape) + 1:
            noises = noises[:, None]
        for start in range(0, len(noises), self.batch_size):
            drawn = noises[start : start + self.batch_size].unbind(1)
            condition = () if conditions is None else (conditions[start : start + self.batch_size],)
            made.append(sampler.run(network, drawn[0], *condition, fresh=drawn[1:].__getitem__))
        return torch.cat(made)

    def noises(self, split: Split, count: int, each: int = 0, start: int = 0) -> Tensor:
        """The noises of samples by number: (count, each, C, H, W), or the first of each, (count, C, H, W)."""
        drawn = [
            torch.randn((max(1, each), *self.shape), generator=generator_of("sample", split, number))
            for number in range(start, start + count)
        ]
        return torch.stack(drawn) if each else torch.stack(drawn)[:, 0]

    def with_until(self, network: Predict) -> Predict:
        """The network as one that takes a single time: where all take two, it is told that twice."""
        if not self.takes_until:
            return network
        return lambda x, time, *condition: network(x, time, time, *condition)

    def calibration(self, predict: Predict, count: int) -> list[Batch]:
        """The inputs of every evaluation of a model's own sampling, about as many from each."""
        found: list[Batch] = []

        def listening(*inputs: Tensor) -> Tensor:
            found.append(Batch(inputs))
            return predict(*inputs)

        listener = Sampling(listening, self.sampler_of(predict))
        for number in range(-(-count // listener.sampler.evaluations)):
            self.make(listener, "validation", self.batch_size, start=self.count + number * self.batch_size)
        order = torch.randperm(len(found), generator=generator_of("calibration"))[:count]
        return [found[int(i)] for i in order]

    def manifest(self) -> dict[str, Any]:
        """The sampler's constants, the shape of a sample and the conditions that can be asked for."""
        return {
            "kind": "diffusion",
            "sampler": self.sampler.to_dict(),
            "preconditioning": self.preconditioning.name,
            "sample_shape": list(self.shape),
            "conditions": None if self.asked is None else self.asked.tolist(),
        } | ({} if self.prompts is None else {"text": self.prompts.manifest()})

    def golden(self, predict: Predict) -> dict[str, Tensor]:
        """The first test samples, with the noises and conditions that they were made of, and their pictures."""
        noises = self.noises("test", GOLDEN, 1 + self.sampler.fresh_noises)
        condition = self.conditions_of(GOLDEN)
        made = self.make(predict, "test", GOLDEN)
        found = {"first": noises[:, 0], "fresh": noises[:, 1:], "samples": made}
        if condition is not None:
            found["condition"] = condition
        return found | ({} if self.decoder is None else {"pictures": self.pictures(made)})

    def companions(self) -> Sequence[Companion]:
        """The text encoder and the decoder, where there are any."""
        found = [] if self.prompts is None else [self.prompts.companion()]
        if self.decoder is not None:
            found.append(Companion("decoder", self.decoder, [(x[None],) for x in self.real["validation"][:DECODED]]))
        return found

    @torch.no_grad()
    def pictures(self, samples: Tensor) -> Tensor:
        """What the decoder makes of samples; without one they are pictures themselves."""
        if self.decoder is None:
            return samples
        return torch.cat([self.decoder(part) for part in samples.split(self.batch_size)])

    def quality(self, predict: Predict, split: Split = "test", limit: int | None = None) -> Number:
        """The Fréchet distance of `count` (or `limit`) samples to the split's real ones."""
        made = rows_of(self.features, self._pictures(predict, split, min(limit or self.count, self.count)))
        real = self._rows(split)
        source = f"{self.quality_name}, {split} split, to {len(real)} real samples, {self.sampler_of(predict).name}"
        if not bool(made.isfinite().all()):
            return Number(float("inf"), "", "measured", n=len(made), source=f"{source}: made samples are not finite")
        interval = half_sample_interval(frechet_distance, real, made, resamples=20)
        return Number(frechet_distance(real, made), "", "measured", n=len(made), interval=interval, source=source)

    def more_qualities(self, predict: Predict) -> dict[str, Number]:
        """Precision, recall, density and coverage among real samples, and how often the class asked for is seen."""
        pictures = list(self._pictures(predict, "test", self.count))
        rows = rows_of(self.features, pictures)
        evaluations = float(self.sampler_of(predict).evaluations)
        found = {"network evaluations per sample": Number(evaluations, "", "counted", source="the sampler's table")}
        found |= neighbours(
            self.features, rows, self._rows("test"), f"test split, among {len(self._rows('test'))} real"
        )
        if self.classifier is not None and self.asked is not None:
            seen = torch.cat([self.classifier(batch).argmax(1) for batch in pictures])
            conditions = self.conditions_of(len(seen))
            assert conditions is not None
            right = (seen == self.class_of(conditions)).double()
            found["samples of the class asked for"] = mean_of(right, "fraction", "test split, by the classifier given")
        return found

    def references(self) -> Mapping[str, Reference]:
        """The teacher with other samplers: what fewer steps alone would give."""
        teacher = self._teacher
        if teacher is None:
            return {}
        return {name: Reference(Sampling(teacher, table)) for name, table in self.teacher_steps.items()}

    @property
    def evaluations(self) -> int:
        """Network evaluations for a sample."""
        return self.sampler.evaluations

    def uses(self, predict: Predict) -> Mapping[str, Use]:
        """A model with its own sampler, and with each of the further ones."""
        own = self.sampler_of(predict)
        others = self.teacher_steps if predict is self._teacher else self.student_steps
        further = {name: Use(Sampling(predict, table), table.evaluations) for name, table in others.items()}
        return {own.name: Use(predict, own.evaluations)} | further

    def samples(self, models: Mapping[str, Predict], count: int = 12) -> list[Sample]:
        """What each model makes of the same noises."""
        made = {name: self.pixels(self.make(predict, "test", count)).clamp(0, 1) for name, predict in models.items()}
        first = next(iter(made.values()))
        return [Sample(first[i], outputs={name: images[i] for name, images in made.items()}) for i in range(count)]

    def _pictures(self, predict: Predict, split: Split, count: int) -> Iterator[Tensor]:
        """RGB pictures in [0, 1], batch by batch; the last model's are kept, which is asked for several figures."""
        key = (split, count)
        held = self._made.get(key)
        if held is None or held[0] is not predict:
            self._made[key] = held = (predict, self.make(predict, split, count))
        for batch in held[1].split(self.batch_size):
            yield self.pixels(batch).clamp(0, 1)

    def _rows(self, split: Split) -> Tensor:
        if split not in self._real_rows:
            if split in self.real_pictures:
                shown = iter(self.real_pictures[split].split(self.batch_size))
            else:
                shown = (self.pixels(batch).clamp(0, 1) for batch in self.real[split].split(self.batch_size))
            self._real_rows[split] = rows_of(self.features, shown)
        return self._real_rows[split]


def _rgb(samples: Tensor) -> Tensor:
    pictures = (samples + 1) / 2
    return pictures.expand(-1, 3, -1, -1) if pictures.shape[1] == 1 else pictures
