"""What a certificate says in one sentence, what it rests on, and which of that a run breaks."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from crfl.certification._checks import FloatArray
from crfl.certification.bounds.votes import ProbabilityBounds, min_samples
from crfl.certification.certificate import Guarantee, Rounding
from crfl.certification.coupling.refusals import steps_too_long
from crfl.record import RoundRecord, TrainingRecord
from crfl.wording import amount

COUNTERPART = (
    "The run is compared with its benign counterpart: same seeds, batches, aggregation weights and noise; attackers "
    "scale their updates there too, but their data is clean. Nothing is said of what scaling itself does."
)
NOBODY = "Nobody attacked in this run: there is nothing to certify against, and every radius is infinite."


def published(
    record: TrainingRecord, attack: RoundRecord | None, clip_norm: float, bounds: ProbabilityBounds
) -> Guarantee:
    """The paper's certificate of a run attacked in the round `attack`; Lemma 1 taken at `clip_norm`."""
    statement = NOBODY
    if attack is not None:
        statement = (
            f"as printed in Corollary 1, no triggers of norm up to the radius on what {_people(attack)} poisoned in "
            f"round {attack.round} change a certified vote"
        )
    return Guarantee(
        statement,
        assumptions=(
            COUNTERPART,
            "Lemma 1: every training input, clean or poisoned, has norm at most 1.",
            "Lemma 1: the parameters stay in the ball of the attack round's clip norm during that round's local steps.",
            "Lemma 1: poisoned samples keep their labels.",
            "Theorem 1: local steps drive two models no further apart.",
            "Theorem 2 bounds the law of the models over the training noise; the class probabilities are those of the "
            "one model that was trained. The theorem is read as if both were the same.",
            *_probabilities(bounds),
            *_told(record),
            *([] if record.attack_rounds else [NOBODY]),
        ),
        broken=() if attack is None else tuple(_published_broken(record, attack, clip_norm)),
        alpha=_alpha(bounds),
    )


def _published_broken(record: TrainingRecord, attack: RoundRecord, clip_norm: float) -> Iterator[str]:
    """What a run breaks of the paper's assumptions."""
    reach = record.max_feature_norm + max((a.magnitude for a in attack.attackers), default=0.0)
    if reach > 1:
        yield (
            f"Training inputs may reach norm {reach:.4g}, Lemma 1 assumes at most 1: this certificate is no guarantee "
            "here; kind='margin' or 'smoothing' gives one."
        )
    if attack.start_norm > clip_norm:
        yield (
            f"The model sent out in the attack round has norm {attack.start_norm:.4g} (clipped, then perturbed), Lemma "
            f"1 assumes at most {clip_norm:.4g}."
        )
    yield from (f"Theorem 1: {reason}." for reason in steps_too_long(record))
    if not record.data_independent_weights:
        yield (
            f"The weights of server.aggregation {record.aggregation!r} depend on the updates, so they differ in the "
            "benign counterpart; Theorem 2 takes them as given."
        )
    if any(a.label_flip and any(a.poison_ratios) for a in attack.attackers):
        yield "The attackers change labels too; Lemma 1 covers changes of the inputs only."


def coupled(
    record: TrainingRecord, *, any_round: bool, slack: float, bounds: ProbabilityBounds | None = None
) -> Guarantee:
    """A coupling certificate, of the margin or, with `bounds`, of the smoothed vote; `slack` is Delta's for rounding."""
    rounding = rounding_of(record)
    return Guarantee(
        _coupled_statement(record, any_round, "smoothed model" if bounds else "model"),
        assumptions=(
            COUNTERPART,
            _attack(record, any_round) if record.attack_rounds else NOBODY,
            f"Clean training inputs have norm at most {record.max_feature_norm:.6g} "
            f"({'as agreed with the clients' if record.client_reported else 'measured'}), {_inside(record)}.",
            "The loss is convex, local training plain SGD, aggregation weights independent of the updates, and the "
            "learning rate small enough for a step not to drive two runs apart (checked on the record).",
            *_map(record),
            *_told(record),
            ROUNDING_IN_DELTA[rounding].format(slack),
            *(_probabilities(bounds) if bounds else ()),
        ),
        rounding=rounding,
        alpha=_alpha(bounds) if bounds else 0.0,
    )


def distance(num_params: int, noise: float, bounds: ProbabilityBounds) -> Guarantee:
    """How far the parameters of a model may move."""
    return Guarantee(
        f"each certified vote is that of every model within its l2 distance of the trained one, in all {num_params:,} "
        "parameters. How far an attack moves a model that is not linear is not bounded: an ensemble (crfl.train_ensemble) "
        "is certified against malicious clients, whatever the model",
        assumptions=(
            f"The vote is that of models with noise of standard deviation {noise:g} on every trained parameter.",
            *_probabilities(bounds),
        ),
        alpha=_alpha(bounds),
    )


def clients(record: TrainingRecord, *, slack: float, failed: int = 0) -> Guarantee:
    """The certificate against clients that are malicious in every round; `failed` of them were dropped at times."""
    rounding = rounding_of(record)
    beside = f", beside the {amount(failed, 'client')} whose updates were dropped" if failed else ""
    return Guarantee(
        f"each certified prediction stays whatever so many of the {len(record.client_sizes)} clients send, in every "
        f"round{beside}",
        assumptions=(
            "Two runs with the same seeds, batches, aggregation weights and noise are compared; the malicious clients, "
            "whichever they are, send in each whatever they like, and all others train as told and reply in time"
            + ("; those whose updates were dropped count as malicious." if failed else "."),
            "The server clips every update to a norm fixed before training, and clips no honest one: every client's "
            "norm before the clip is on record, and leaves room for what a change of the global model can add "
            "(checked; one without that room counts for as much as its clipped update can change).",
            "The loss is convex, honest local training plain SGD, aggregation weights independent of the updates "
            "(checked on the record). No client can pose as several.",
            *_map(record),
            *_told_by_honest_clients(record),
            ROUNDING_IN_DELTA[rounding].format(slack),
        ),
        rounding=rounding,
    )


ROUNDING_IN_DELTA: dict[Rounding, str] = {
    "modelled": "Training rounds in float32: Delta includes {:.2g} for it, by a model of rounding and by measurement, "
    "not by proof.",
    "proved": "Training and certification round in float64: Delta includes {:.2g} for it, a bound that is proved for "
    "any order of summation.",
}


def rounding_of(record: TrainingRecord) -> Rounding:
    """Float64 has a worst-case bound with proof; float32 a model of rounding."""
    return "proved" if record.precision == "float64" else "modelled"


def nothing_certified(
    bounds: ProbabilityBounds | None, noise: float, budget: FloatArray, least: float, advice: Callable[[], str]
) -> tuple[str, ...]:
    """Why a coupling certificate means little: `budget` (m,) of the samples, `least` is Delta at strength 0.

    `advice` says what would help, if nothing is certified.
    """
    found = [] if bounds is None else list(weak_votes(bounds))
    if len(budget) and not least < budget.max():
        found.append(
            f"Nothing is certified: even at magnitude 0 the models may be {least:.3g} apart, and the largest budget is "
            f"{budget.max():.3g}"
            + (". More votes or 'exact' bounds have larger budgets. " if bounds and bounds.samples else ". ")
            + advice()
        )
    if bounds is not None and noise == 0:
        found.append("smoothing.noise is 0: a model that is not smoothed has no smoothing certificate; use 'margin'.")
    return tuple(found)


def weak_votes(bounds: ProbabilityBounds) -> Iterator[str]:
    """Too few votes to certify anything."""
    if bounds.method == "exact":
        return
    needed = min_samples(bounds.method, bounds.alpha, bounds.classes)
    if bounds.samples < needed:
        yield (
            f"{bounds.samples} votes cannot certify anything at alpha = {bounds.alpha:g}, even if unanimous: "
            f"smoothing.samples must be at least {needed}."
        )


def _coupled_statement(record: TrainingRecord, any_round: bool, model: str) -> str:
    if not record.attack_rounds:
        return NOBODY
    senders = len({a.client for r in record.attack_rounds for a in r.attackers if a.update is not None})
    poisoners, flipping = _poisoners(record)
    when = "any one round" if any_round else f"round {_rounds(record)}"
    parts = []
    if poisoners:
        labels = ""
        if flipping:
            labels = ", and whatever labels," if flipping == poisoners else f", and of {flipping} of them labels,"
        parts.append(
            f"whatever triggers of norm up to its radius{labels} the poisoned samples of "
            f"{amount(poisoners, 'attacker')} have in {when}"
        )
    if senders:
        parts.append(
            f"although {amount(senders, 'attacker')} sent malicious updates in {when}, where the counterpart's send "
            "nothing"
        )
    return f"each certified prediction is that of the benign counterpart's {model}, {' and '.join(parts)}"


def _attack(record: TrainingRecord, any_round: bool) -> str:
    """Who attacks when, and how."""
    when = (
        "in one round, whichever it was"
        if any_round
        else f"in round {_rounds(record)} only (attack_round='any' covers all)"
    )
    who = {a.client for r in record.attack_rounds for a in r.attackers}
    poisoners, flipping = _poisoners(record)
    labels = "labels stay" if not flipping else f"{flipping} of {poisoners} may change labels in any way"
    one = len(who) == 1
    return (
        f"{amount(len(who), 'attacker')} with the weight, scale, steps and poison ratios on record "
        f"{'attacks' if one else 'attack'} {when}; {'it changes' if one else 'they change'} at most "
        f"{'its' if one else 'their'} poisoned samples, by triggers up to the certified magnitude; {labels}."
    )


def _inside(record: TrainingRecord) -> str:
    if record.norm_bound is not None:
        return f"and every sample, clean or poisoned, has norm at most {record.norm_bound:g} by construction"
    if record.domain is not None:
        return f"and every sample, clean or poisoned, lies in the domain {record.domain[0]:g} to {record.domain[1]:g}"
    return "and no trigger moves a sample by more than the magnitude"


def _map(record: TrainingRecord) -> Iterator[str]:
    """What is assumed of a feature map."""
    if record.feature_map is not None:
        public = f", set by {record.public_samples} clean samples of the server" if record.public_samples else ""
        yield (
            f"The feature map {record.feature_map} is fixed before training{public}: no client has a say in it. Norms "
            "and magnitudes are those of features."
        )


def _told(record: TrainingRecord) -> Iterator[str]:
    """What the server had to believe of the clients."""
    if record.client_reported:
        yield (
            "The clients trained out of the server's sight. Their samples' number, norm and smoothness, their local "
            "steps and learning rates, and that the attackers on record, and nobody else, attacked as recorded and no "
            "more, were agreed with them or told by them, not measured. The weights, and the norms of models and "
            "updates, are the server's own."
        )


def _told_by_honest_clients(record: TrainingRecord) -> Iterator[str]:
    """What the server had to believe of the clients that are not malicious."""
    if record.client_reported:
        yield (
            "The clients trained out of the server's sight. Nothing that a malicious client says is relied on: the "
            "server clipped its updates itself, and fixed its weight before training; a client that misstates its data "
            "or does other steps than agreed counts as malicious. Of the honest clients, their samples' number, norm "
            "and smoothness, their local steps and learning rates were agreed or told, not measured."
        )


def _probabilities(bounds: ProbabilityBounds) -> Iterator[str]:
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


def _alpha(bounds: ProbabilityBounds) -> float | None:
    return None if bounds.method == "hoeffding" else bounds.alpha


def _poisoners(record: TrainingRecord) -> tuple[int, int]:
    """How many attackers poison samples, and how many of them may change labels whenever they attack."""
    flips: dict[int, bool] = {}
    for attacker in (a for r in record.attack_rounds for a in r.attackers if a.update is None):
        flips[attacker.client] = flips.get(attacker.client, True) and attacker.label_flip
    return len(flips), sum(flips.values())


def _rounds(record: TrainingRecord) -> str:
    return ", ".join(str(r.round) for r in record.attack_rounds)


def _people(round_: RoundRecord) -> str:
    return amount(len(round_.attackers), "attacker")
