"""What a round of clipped updates can do to the distance of two runs that nobody attacks in it (Proposition 9)."""

import numpy as np
import pytest

from crfl.certification.coupling.local import LocalTraining
from crfl.certification.coupling.rounding import Rounding
from tests.certification.records import make_record, make_round
from tests.certification.rounds import expansion
from tests.certification.simulation import World, replace, simulate


def test_honest_clients_near_the_clip_count_by_themselves():
    """1 - kappa while ||u|| + 2 alpha D <= S; beyond that 2 alpha p D more for each that may be clipped."""
    norms = (0.01, 0.02, 0.03, 0.09)
    record = make_record([make_round(1, update_clip=0.1, update_norms=norms, decay=0.1)])
    own = expansion(Rounding(LocalTraining(record)), record.rounds[0], ())
    a = 0.02 * 25 / 4
    alpha = 3 * a / (1 + 2 * a)
    edges = (0.1 - np.array(norms)) / (2 * alpha)
    for clipped, edge in enumerate(sorted(edges)):
        below, above = np.array([edge * (1 - 1e-9)]), np.array([edge * (1 + 1e-9)])
        rest = (4 - clipped) * 0.25 * alpha
        factor = abs(0.9 - rest) + rest
        assert own(below)[0] == pytest.approx(factor * edge + clipped * 0.25 * min(2 * alpha * edge, 0.2), rel=1e-8)
        assert own(above)[0] >= own(below)[0]
    points = np.append(np.linspace(0, 1, 5000), [1e3, 1e9])
    assert (np.diff(own(points)) >= -1e-12).all()


def test_the_condition_for_contraction():
    """1 - kappa where sum p alpha + kappa <= 1; what is true then where it fails (Theorem 8)."""
    a = 0.02 * 25 / 4
    alpha = 3 * a / (1 + 2 * a)
    for kappa in (0.0, 0.1, 1 - alpha, 0.9, 1.0):
        record = make_record([make_round(1, decay=kappa)])
        found = expansion(Rounding(LocalTraining(record)), record.rounds[0], ())(np.ones(1))[0]
        assert found == pytest.approx(1 - kappa if alpha + kappa <= 1 else 2 * alpha + kappa - 1, rel=1e-9)


def run_from(world, start):
    """The model after the only round, and what the certificates know of how far it can move."""
    trace = simulate(replace(world, start=start))
    return trace.after[0], expansion(Rounding(LocalTraining(trace.record)), trace.record.rounds[0], ())


def steepest_direction(world, step=1e-6):
    """The direction of the start in which the model after the round moves most, of norm 1."""
    columns = []
    for basis in np.eye(world.start.size).reshape(-1, *world.start.shape):
        ahead, behind = (run_from(world, world.start + s * step * basis)[0] for s in (1, -1))
        columns.append((ahead - behind).ravel() / (2 * step))
    return np.linalg.svd(np.stack(columns, axis=1))[2][0].reshape(world.start.shape)


@pytest.mark.parametrize("distance", [1e-6, 1e-3, 1e-2])
def test_clipping_honest_updates_can_drive_runs_apart(distance):
    """By nearly a third here, as both updates are clipped; without the clip, runs come no farther apart."""
    x, start = np.array([[-0.0825, 0.4067], [0.0363, 0.5803]]), np.array([[-0.1724, 0.0201], [0.0610, 0.0614]])
    world = World([x], [np.array([0, 1])], 2, 1, np.array([15.12]), 2, bias=False, start=start)
    length = simulate(replace(world, update_clip=np.full(1, np.inf))).record.rounds[0].update_norms[0]
    clipped = replace(world, update_clip=np.full(1, 0.916 * length))
    other = start + distance * steepest_direction(clipped)
    for tried, least, most in ((world, 0.0, 1.0), (clipped, 1.28, np.inf)):
        (one, bound), (two, _) = run_from(tried, start), run_from(tried, other)
        found = np.linalg.norm(one - two) / np.linalg.norm(start - other)
        assert least < found <= most + 1e-9
        assert found <= bound(np.array([np.linalg.norm(start - other)]))[0] / distance * (1 + 1e-9)
