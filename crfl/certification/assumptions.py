"""What a certificate rests on, in sentences, and which of it a run breaks."""

from __future__ import annotations

from collections.abc import Iterator

from crfl.certification._checks import FloatArray
from crfl.certification.bounds.votes import ProbabilityBounds, min_samples
from crfl.certification.coupling.refusals import steps_too_long
from crfl.record import RoundRecord, TrainingRecord

COUNTERPART = (
    "The run is compared with its benign counterpart: same seeds, batches, aggregation weights and noise; attackers "
    "scale their updates there too, but their data is clean. Nothing is said of what scaling itself does."
)
NOBODY = "Nobody attacked in this run: there is nothing to certify against, and every radius is infinite."


def published(record: TrainingRecord, bounds: ProbabilityBounds) -> tuple[str, ...]:
    """What the paper's certificate rests on."""
    return (
        COUNTERPART,
        "Lemma 1: every training input, clean or poisoned, has norm at most 1.",
        "Lemma 1: the parameters stay in the ball of the attack round's clip norm during that round's local steps.",
        "Lemma 1: poisoned samples keep their labels.",
        "Theorem 1: local steps drive two models no further apart.",
        "Theorem 2 bounds the law of the models over the training noise; the class probabilities are those of the one "
        "model that was trained. The theorem is read as if both were the same.",
        *probabilities(bounds),
        *([] if record.attack_rounds else [NOBODY]),
    )


def published_broken(
    record: TrainingRecord, attack: RoundRecord | None, clip_norm: float, bounds: ProbabilityBounds
) -> tuple[str, ...]:
    """What the run breaks of it."""
    found = list(_weak_votes(bounds))
    if attack is None:
        return (*found, NOBODY)
    reach = record.max_feature_norm + max((a.magnitude for a in attack.attackers), default=0.0)
    if reach > 1:
        found.append(
            f"Training inputs may reach norm {reach:.4g}, Lemma 1 assumes at most 1: this certificate is no guarantee "
            "here; kind='margin' or 'smoothing' gives one."
        )
    if attack.start_norm > clip_norm:
        found.append(
            f"The model sent out in the attack round has norm {attack.start_norm:.4g} (clipped, then perturbed), Lemma "
            f"1 assumes at most {clip_norm:.4g}."
        )
    found += [f"Theorem 1: {reason}." for reason in steps_too_long(record)]
    if not record.data_independent_weights:
        found.append(
            f"The weights of server.aggregation {record.aggregation!r} depend on the updates, so they differ in the "
            "benign counterpart; Theorem 2 takes them as given."
        )
    if any(a.label_flip and any(a.poison_ratios) for a in attack.attackers):
        found.append("The attackers change labels too; Lemma 1 covers changes of the inputs only.")
    return tuple(found)


def coupled(record: TrainingRecord, *, any_round: bool, rounding: float) -> tuple[str, ...]:
    """What the coupling certificate rests on."""
    rounds = ", ".join(str(r.round) for r in record.attack_rounds)
    when = "in one round, whichever it was" if any_round else f"in round {rounds} only (attack_round='any' covers all)"
    who = sorted({a.client for r in record.attack_rounds for a in r.attackers})
    inside = (
        f"and every sample, clean or poisoned, lies in the domain {record.domain[0]:g} to {record.domain[1]:g}"
        if record.domain
        else "and no trigger moves a sample by more than the magnitude"
    )
    attack = (
        f"{len(who)} attackers with the weights, scale, steps and poison ratios on record attack {when}; they change "
        "at most their poisoned samples, by triggers up to the certified magnitude"
        + (" and by any label change." if _flips(record) else "; labels stay.")
    )
    return (
        COUNTERPART,
        attack if record.attack_rounds else NOBODY,
        f"Clean training inputs have norm at most {record.max_feature_norm:.6g} (measured), {inside}.",
        "The loss is convex, local training plain SGD, aggregation weights independent of the updates, and the "
        "learning rate small enough for a step not to drive two runs apart (checked on the record).",
        f"Training rounds in float32: Delta includes {rounding:.2g} for it, by a model of rounding and by measurement, "
        "not by proof.",
    )


def coupled_broken(bounds: ProbabilityBounds | None, noise: float, budget: FloatArray, least: float) -> tuple[str, ...]:
    """What keeps a coupling certificate from meaning much; where its assumptions fail it is refused.

    `budget` (m,) of the samples, `least`: Delta at magnitude 0.
    """
    found = [] if bounds is None else list(_weak_votes(bounds))
    if len(budget) and not least < budget.max():
        found.append(
            f"Nothing is certified: even at magnitude 0 the models may be {least:.3g} apart, and the largest budget is "
            f"{budget.max():.3g}"
            + (". More votes or 'exact' bounds have larger budgets." if bounds and bounds.samples else ".")
        )
    if bounds is not None and noise == 0:
        found.append("smoothing.noise is 0: a model that is not smoothed has no smoothing certificate; use 'margin'.")
    return tuple(found)


def _flips(record: TrainingRecord) -> bool:
    return any(a.label_flip for r in record.attack_rounds for a in r.attackers)


def probabilities(bounds: ProbabilityBounds) -> Iterator[str]:
    """In which sense the bounds on the class probabilities hold."""
    if bounds.method == "exact":
        yield "Class probabilities are exact (numerical error about 1e-14 relative); nothing is sampled."
    elif bounds.method == "hoeffding":
        yield (
            f"Class probabilities are bounded as published: two Hoeffding bounds that spend alpha = {bounds.alpha:g} "
            "each, classes chosen from the same votes. Their joint level is not proved; clopper_pearson's is."
        )
    else:
        yield (
            f"Class probabilities are bounded by Clopper-Pearson: for each test sample a certificate issued on wrong "
            f"bounds has probability at most {bounds.alpha:g} over the noisy models, "
            + (
                "which adds up to the alpha asked for over all samples."
                if bounds.simultaneous
                else "for that sample alone."
            )
        )


def _weak_votes(bounds: ProbabilityBounds) -> Iterator[str]:
    """Too few votes to certify anything."""
    if bounds.method == "exact":
        return
    needed = min_samples(bounds.method, bounds.alpha, bounds.classes)
    if bounds.samples < needed:
        yield (
            f"{bounds.samples} votes cannot certify anything at alpha = {bounds.alpha:g}, even if unanimous: "
            f"smoothing.samples must be at least {needed}."
        )
