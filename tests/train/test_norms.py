"""Fresh batch statistics equal the plain average over the batches, and nothing else of the model moves."""

from __future__ import annotations

import torch
from torch import nn

from compress.tasks import Batch
from compress.train.norms import recalibrate_norms


def test_statistics_become_the_average_over_the_batches_and_weights_stay() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(1, 4, 1), nn.BatchNorm2d(4, momentum=0.01), nn.Dropout(0.5))
    model[1].running_mean.fill_(99.0)
    batches = [Batch((torch.randn(8, 1, 3, 3) + i,)) for i in range(3)]
    weights = {k: v.clone() for k, v in model.named_parameters()}
    recalibrate_norms(model, batches)
    seen = [model[0](batch.inputs[0]) for batch in batches]
    mean = torch.stack([x.mean((0, 2, 3)) for x in seen]).mean(0)
    variance = torch.stack([x.transpose(0, 1).flatten(1).var(1) for x in seen]).mean(0)
    assert torch.allclose(model[1].running_mean, mean, atol=1e-5)
    assert torch.allclose(model[1].running_var, variance, atol=1e-5)
    assert all(torch.equal(v, weights[k]) for k, v in model.named_parameters())
    assert model[1].momentum == 0.01 and not model.training
