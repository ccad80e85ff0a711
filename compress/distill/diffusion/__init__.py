"""Distillation of diffusion models: one method, one file, on the slots of `base`, `score` and `trajectory`."""

from compress.distill.diffusion.adversarial import Add, Apt, Ladd
from compress.distill.diffusion.adversarial_score import Asd
from compress.distill.diffusion.base import DiffusionMethod, DiffusionOptions
from compress.distill.diffusion.boot import Boot
from compress.distill.diffusion.conditional import Codi
from compress.distill.diffusion.consistency import Consistency
from compress.distill.diffusion.diff_ratio import DiffRatio
from compress.distill.diffusion.disback import DisBack
from compress.distill.diffusion.dmd import Dmd
from compress.distill.diffusion.em import Em
from compress.distill.diffusion.flow_map import FlowMap
from compress.distill.diffusion.guide import Guide
from compress.distill.diffusion.idempotent import Idempotent
from compress.distill.diffusion.imagine_flash import ImagineFlash
from compress.distill.diffusion.invertible import Invertible
from compress.distill.diffusion.lightning import Lightning
from compress.distill.diffusion.noise_consistency import NoiseConsistency
from compress.distill.diffusion.offline_pairs import OfflinePairs
from compress.distill.diffusion.pairs_gan import PairsGan
from compress.distill.diffusion.phased_dmd import PhasedDmd
from compress.distill.diffusion.progressive import Progressive
from compress.distill.diffusion.scm import Scm
from compress.distill.diffusion.score_matching import ScoreMatching
from compress.distill.diffusion.sdxs import Sdxs
from compress.distill.diffusion.self_corrected import SelfCorrected
from compress.distill.diffusion.sfd_traj import SfdTraj
from compress.distill.diffusion.sid import Sid
from compress.distill.diffusion.snapfusion import Snapfusion
from compress.distill.diffusion.target_driven import TargetDriven
from compress.distill.diffusion.unlearn import Unlearn
from compress.distill.diffusion.vsd import Vsd

METHODS: dict[str, type[DiffusionMethod]] = {
    "score_matching": ScoreMatching,
    "sid": Sid,
    "dmd": Dmd,
    "vsd": Vsd,
    "sdxs": Sdxs,
    "em": Em,
    "disback": DisBack,
    "diff_ratio": DiffRatio,
    "unlearn": Unlearn,
    "ladd": Ladd,
    "add": Add,
    "apt": Apt,
    "progressive": Progressive,
    "snapfusion": Snapfusion,
    "consistency": Consistency,
    "boot": Boot,
    "sfd_traj": SfdTraj,
    "flow_map": FlowMap,
    "scm": Scm,
    "target_driven": TargetDriven,
    "invertible": Invertible,
    "self_corrected": SelfCorrected,
    "imagine_flash": ImagineFlash,
    "idempotent": Idempotent,
    "asd": Asd,
    "phased_dmd": PhasedDmd,
    "lightning": Lightning,
    "pairs_gan": PairsGan,
    "codi": Codi,
    "noise_consistency": NoiseConsistency,
    "guide": Guide,
    "offline_pairs": OfflinePairs,
}

__all__ = ["METHODS", "DiffusionMethod", "DiffusionOptions"]
