"""Distillation of diffusion models: one method, one file, on the slots of `base`, `score` and `trajectory`."""

from compress.distill.diffusion.adversarial import Add, Apt, Ladd
from compress.distill.diffusion.base import DiffusionMethod, DiffusionOptions
from compress.distill.diffusion.boot import Boot
from compress.distill.diffusion.consistency import Consistency
from compress.distill.diffusion.diff_ratio import DiffRatio
from compress.distill.diffusion.disback import DisBack
from compress.distill.diffusion.dmd import Dmd
from compress.distill.diffusion.em import Em
from compress.distill.diffusion.flow_map import FlowMap
from compress.distill.diffusion.progressive import Progressive
from compress.distill.diffusion.scm import Scm
from compress.distill.diffusion.score_matching import ScoreMatching
from compress.distill.diffusion.sfd_traj import SfdTraj
from compress.distill.diffusion.sid import Sid
from compress.distill.diffusion.unlearn import Unlearn
from compress.distill.diffusion.vsd import Vsd

METHODS: dict[str, type[DiffusionMethod]] = {
    "score_matching": ScoreMatching,
    "sid": Sid,
    "dmd": Dmd,
    "vsd": Vsd,
    "em": Em,
    "disback": DisBack,
    "diff_ratio": DiffRatio,
    "unlearn": Unlearn,
    "ladd": Ladd,
    "add": Add,
    "apt": Apt,
    "progressive": Progressive,
    "consistency": Consistency,
    "boot": Boot,
    "sfd_traj": SfdTraj,
    "flow_map": FlowMap,
    "scm": Scm,
}

__all__ = ["METHODS", "DiffusionMethod", "DiffusionOptions"]
