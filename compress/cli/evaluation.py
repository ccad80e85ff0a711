"""What `compress profile evaluate` prints: tables of the fits, of ratios to float, of devices left out, of ranking."""

from __future__ import annotations

from typing import TYPE_CHECKING

from compress.terminal import print_table

if TYPE_CHECKING:
    from compress.profile.evaluate import Evaluation, Judged
    from compress.profile.ranking import Ranked
    from compress.profile.ratios import JudgedRatio
    from compress.profile.transfer import Transfer

_NOTHING = "–"


def print_evaluation(evaluation: Evaluation) -> None:
    """Print the tables of an evaluation; those that have no rows are left out."""
    fits = evaluation.fits
    if fits:
        headers = ["TARGET", "UNIT", "RUNTIME", "SCHEME", "N", "FAMILIES", "MAPE", "WITHIN 10 %", "WITHIN 20 %",
                   "SPEARMAN", "IN 90 %", "NOT COVERED", "MAPE, REST",
                   *(f"MAPE, {name.upper()}" for name in fits[0].baselines), "REPEATS WITHIN 10 %"]  # fmt: skip
        print_table(headers, [_fit_row(each) for each in fits])
    if evaluation.ratios:
        print("\nover float32: |log(predicted / measured)| of the ratio; with the median of the other families instead")
        headers = ["TARGET", "UNIT", "RUNTIME", "SCHEME", "N", "MEAN", "MEDIAN", "SLOWER", "FLAGGED", "FALSE ALARMS",
                   "MEAN, MEDIAN OF OTHERS"]  # fmt: skip
        print_table(headers, [_ratio_row(each) for each in evaluation.ratios])
    if evaluation.transfers:
        count = evaluation.transfers[0].measurements
        print(f"\nleft out of the fit: another device's costs, adapted to {count} measurements; beside the own fit")
        headers = ["TARGET", "UNIT", "RUNTIME", "SCHEME", "N", "MAPE", "MAPE, OWN FIT", "RATIO"]
        print_table(headers, [_transfer_row(each) for each in evaluation.transfers])
    for name in evaluation.without_peers:
        print(f"not judged: {name} (no other device has a fit that does not start from it)")
    if evaluation.ranking:
        count = evaluation.ranking[0].points
        print(f"\nranking all other networks of one search space by {count} measurements, from what is known elsewhere")
        headers = ["PHONE", "N", "SPEARMAN, CALIBRATED", "FROM PROFILES", "FROM DEVICES", "CEILING"]
        print_table(headers, [_ranking_row(each) for each in evaluation.ranking])


def _fit_row(judged: Judged) -> list[str]:
    """The row of one fit."""
    from compress.profile.evaluate import ranked

    model, rest, same = judged.model, judged.known_ops, judged.ceiling.same_versions
    rank = ranked(model)
    return [
        judged.target, judged.unit, judged.runtime, judged.scheme, str(model.n), str(model.families),
        f"{model.mape:.1%}", f"{model.within_10_percent:.0%}", f"{model.within_20_percent or 0:.0%}",
        f"{rank:.3f}" if rank is not None else _NOTHING, f"{model.coverage or 0:.0%}",
        str(judged.not_covered), f"{rest.mape:.1%}" if rest else _NOTHING,
        *(f"{errors.mape:.0%}" if errors else _NOTHING for errors in judged.baselines.values()),
        f"{same.within_10_percent:.0%}" if same else _NOTHING,
    ]  # fmt: skip


def _ratio_row(judged: JudgedRatio) -> list[str]:
    """The row of one scheme over float."""
    model, other = judged.model, judged.median_of_others
    return [
        judged.target, judged.unit, judged.runtime, judged.scheme, str(judged.n), f"{model.mean_abs_log:.2f}",
        f"{model.median_abs_log:.2f}", str(judged.slower), str(model.flagged), str(model.false_alarms),
        f"{other.mean_abs_log:.2f}" if other else _NOTHING,
    ]  # fmt: skip


def _transfer_row(transfer: Transfer) -> list[str]:
    """The row of one device left out."""
    return [
        transfer.target, transfer.unit, transfer.runtime, transfer.scheme, str(transfer.n), f"{transfer.mape:.1%}",
        f"{transfer.own_mape:.1%}", f"{transfer.ratio:.2f}",
    ]  # fmt: skip


def _ranking_row(ranked: Ranked) -> list[str]:
    """The row of one phone of the ranking."""
    return [
        ranked.title, str(ranked.n), f"{ranked.calibrated.spearman:.3f}", f"{ranked.from_profiles.spearman:.3f}",
        f"{ranked.from_devices.spearman:.3f}", f"{ranked.ceiling:.3f}",
    ]  # fmt: skip
