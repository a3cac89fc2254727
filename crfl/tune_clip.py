"""The tightest schedule of update clips that honest clients never reach: a rehearsal measures, this fits."""

from __future__ import annotations

from itertools import product

import numpy as np

from crfl.certification._checks import FloatArray
from crfl.certification.coupling.local import LocalTraining
from crfl.config import UpdateClip
from crfl.errors import CertificateError
from crfl.record import TrainingRecord

GRID = 20
"""Values of each parameter that are tried at a time."""
PASSES = 3
"""Times that the grid is drawn closer around the best schedule."""
SLACK = 1e-4
"""Share of S_t that is kept for the rounding of norms."""


def fit_update_clip(record: TrainingRecord, client_rounds: int = 1, every_round: bool = False) -> UpdateClip:
    """The schedule S_t = s_t tau eta_t that leaves malicious clients least, of those that certify anything.

    It satisfies, in every round t and for every client i with its norm on record (theory, section 11),

        ||u_{i,t}|| + 2 alpha_i Delta_{t-1} <= S_t,        Delta_t = Lambda_t Delta_{t-1} + 2 p S_t * (malicious),

    Lambda_t = 1 - kappa_t while sum_i p_i alpha_i + kappa_t <= 1; where so many client-rounds may be malicious, whichever they are; and of all such schedules (on a grid that is drawn
    closer three times) its Delta_T is the smallest. Attackers on record count as one more client-round each, since the
    rehearsal need not have seen their updates.

    Args:
        record: Of a rehearsal with server.update_clip so large that nothing was clipped, and without an attack.
        client_rounds: k, how many updates the schedule is to withstand.
        every_round: k clients may be malicious in every round instead.

    Returns:
        The schedule.

    Raises:
        CertificateError: no schedule does; or the record lacks the norms of updates.

    Example:
        >>> import crfl
        >>> local = {"local.batch_size": 200, "local.keep_last_batch": True, "local.schedule": "inverse"}
        >>> exp = crfl.Experiment().override({**local, "server.decay": 0.1, "server.update_clip": 1e6})
        >>> exp = exp.override({"attack.round": None, "server.noise": 0.0, "server.clip.start": float("inf")})
        >>> clip = fit_update_clip(crfl.train(exp, crfl.load_data(exp)).record)
        >>> clip.end < clip.start
        True
    """
    rounds = _Rehearsal(record)
    start, end = float(rounds.norms[0].max() / rounds.unit[0]), float((rounds.norms[-1] / rounds.unit[-1]).max())
    axes = [
        np.geomspace(0.7 * start, 8 * start, GRID),
        np.geomspace(0.5 * end, 8 * max(end, 1e-3 * start), GRID),
        np.geomspace(1.0, max(2.0, len(rounds.unit)), GRID),
    ]
    found = np.zeros(0)
    for _ in range(PASSES):
        candidates = np.array([c for c in product(*axes) if c[0] >= c[1]])
        final = rounds.final_distance(candidates, client_rounds, every_round)
        if np.isfinite(final).any():
            found = candidates[int(np.argmin(final))]
        elif not len(found):
            raise CertificateError(
                f"no schedule of update clips withstands {client_rounds} client-rounds: honest updates differ too much "
                "between two runs; expected fewer client-rounds, a larger server.decay, or larger batches"
            )
        axes = [_closer(axis, value) for axis, value in zip(axes, found, strict=True)]
    chosen = [float(f"{value:.4g}") for value in found * [1 + SLACK, 1 + SLACK, 1]]
    return UpdateClip(start=chosen[0], end=chosen[1], decay_rounds=chosen[2])


class _Rehearsal:
    """What the fit needs of every round."""

    def __init__(self, record: TrainingRecord) -> None:
        if not record.rounds or any(r.update_norms is None for r in record.rounds):
            raise CertificateError("the record lacks the norms of updates; set server.update_clip, e.g. to 1e6")
        local = LocalTraining(record)
        self.steps = float(local.steps.max())
        rates = [local.rates(r) for r in record.rounds]
        self.unit = np.array([self.steps * rate.max() for rate in rates])
        """tau eta_t, (T,)."""
        self.norms = [np.array(r.update_norms) for r in record.rounds]
        """||u_{i,t}||, (N,) each."""
        self.lipschitz = [2 * local.averaging(rate) for rate in rates]
        """2 alpha_i, (N,) each."""
        self.weight = [float(max(r.weights)) for r in record.rounds]
        averaged = [
            float(np.array(r.weights) @ local.averaging(rate)) for r, rate in zip(record.rounds, rates, strict=True)
        ]
        self.kept = [abs(1 - r.decay - a) + a for r, a in zip(record.rounds, averaged, strict=True)]
        """Lambda_t: 1 - kappa_t, or more where steps are too long for it."""
        self.attackers = len(record.attackers)

    def final_distance(self, candidates: FloatArray, count: int, every_round: bool) -> FloatArray:
        """Delta_T of schedules (n, 3); infinite where the condition fails in a round."""
        start, end, decay_rounds = candidates.T
        distance, feasible = np.zeros(len(candidates)), np.ones(len(candidates), dtype=bool)
        for t, unit in enumerate(self.unit):
            clip = (end + (start - end) / (1 + (t + 1) / decay_rounds) ** 2) * unit * (1 - SLACK)
            needed = (self.norms[t] + self.lipschitz[t] * distance[:, None]).max(axis=1)
            feasible &= needed <= clip
            kept, added = self.kept[t] * distance, 2 * self.weight[t] * clip
            extra = count + self.attackers
            distance = kept + count * added if every_round else np.maximum(kept, extra * added)
        return np.where(feasible, distance, np.inf)


def _closer(axis: FloatArray, value: float) -> FloatArray:
    """A grid around a value, over the two steps beside it."""
    ratio = (axis[1] / axis[0]) ** 1.5
    return np.geomspace(value / ratio, value * ratio, GRID)
