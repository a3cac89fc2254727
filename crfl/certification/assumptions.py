"""What a certificate rests on, in sentences, and which of it a run breaks."""

from __future__ import annotations

from collections.abc import Iterator

from crfl.certification.bounds import ProbabilityBounds, min_samples
from crfl.training.record import RoundRecord, TrainingRecord

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
    if record.max_feature_norm > 1:
        found.append(
            f"Training inputs reach norm {record.max_feature_norm:.4g}, Lemma 1 assumes at most 1: this certificate is "
            "no guarantee here; kind='margin' or 'smoothing' gives one."
        )
    if attack.start_norm > clip_norm:
        found.append(
            f"The model sent out in the attack round has norm {attack.start_norm:.4g} (clipped, then perturbed), Lemma "
            f"1 assumes at most {clip_norm:.4g}."
        )
    if any(a.label_flip and any(a.poison_ratios) for a in attack.attackers):
        found.append("The attackers change labels too; Lemma 1 covers changes of the inputs only.")
    return tuple(found)


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
            f"bounds has probability at most {bounds.alpha:g} over the noisy models, for that sample alone."
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
