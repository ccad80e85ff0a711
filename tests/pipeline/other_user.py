"""Another user's ResNet: other names, shortcuts that subsample and pad (option A), a functional forward."""

import torch
import torch.nn.functional as F
from torch import nn

from compress.tasks import Classification
from tests.pipeline.tiny import images


class Unit(nn.Module):
    def __init__(self, cin: int, cout: int, stride: int = 1) -> None:
        super().__init__()
        self.a = nn.Conv2d(cin, cout, 3, stride, 1, bias=False)
        self.na = nn.BatchNorm2d(cout)
        self.b = nn.Conv2d(cout, cout, 3, 1, 1, bias=False)
        self.nb = nn.BatchNorm2d(cout)
        self.pad = (cout - cin) // 2

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        out = self.nb(self.b(F.relu(self.na(self.a(x)))))
        short = F.pad(x[:, :, ::2, ::2], (0, 0, 0, 0, self.pad, self.pad)) if self.pad else x
        out += short
        return F.relu(out)


class Net(nn.Module):
    def __init__(self, colours: int = 1, classes: int = 4) -> None:
        super().__init__()
        self.start = nn.Sequential(nn.Conv2d(colours, 16, 3, 1, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU(True))
        self.units = nn.ModuleList(
            [Unit(16, 16), Unit(16, 16), Unit(16, 32, 2), Unit(32, 32), Unit(32, 64, 2), Unit(64, 64)]
        )
        self.classify = nn.Linear(64, classes)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        x = self.start(x)
        for unit in self.units:
            x = unit(x)
        return self.classify(F.avg_pool2d(x, x.size()[3]).view(x.size(0), -1))


def model() -> Net:
    return Net()


def task() -> Classification:
    return Classification(images(256, 0), images(64, 1), images(96, 2), batch_size=32)
