"""crfl's own rows: the attacks on them are attacks, and do not get through."""

from itertools import product

import numpy as np
import pytest
import torch

import crfl
from crfl.attack.search import worst_predictions
from crfl.benchmark.attacked import attacking, last_round_predictions
from crfl.benchmark.entry import Task
from crfl.benchmark.harness import compare
from crfl.benchmark.methods import crfl_margin, load_entries
from crfl.benchmark.methods.crfl_ensembles import changed_votes

OWN = ("CRFL margin", "CRFL clients", "FLCert-D, groups of 1")


@pytest.fixture(scope="module")
def found(tmp_path_factory):
    entries = [e for e in load_entries() if e.name in OWN]
    return compare(entries, ["digits"], [0], tmp_path_factory.mktemp("comparison"), smoke=True)


def test_no_attack_contradicts_them(found):
    assert not found.failures
    assert not found.contradicted
    assert all(r.attacked for r in found.results)


def test_no_certificate_is_above_an_attack(found):
    for result in found.results:
        for strength in result.attacked:
            assert result.certified_accuracy(strength) <= result.attacked_accuracy(strength) <= result.accuracy


def test_a_group_falls_with_its_client(found):
    """One client owns a group's vote, so the attack takes exactly what the certificate gives up."""
    for result in found.results:
        if result.method.startswith("FLCert-D") and result.threat in ("clients", "client-rounds"):
            for strength in result.attacked:
                assert result.attacked_accuracy(strength) == result.certified_accuracy(strength)


def test_changed_votes_are_the_worst_there_are():
    rng = np.random.default_rng(0)
    votes = rng.integers(0, 3, (40, 5))
    for count in (0, 1, 2, 3):
        changed = changed_votes(votes, 3, np.full(len(votes), count))
        for row, after in zip(votes, changed, strict=True):
            before = np.bincount(row, minlength=3).argmax()
            possible = {
                np.bincount(new, minlength=3).argmax()
                for new in map(np.array, product(range(3), repeat=5))
                if (new != row).sum() <= count
            }
            assert (after != before) == (possible != {before})
            assert after in possible


@pytest.fixture(scope="module")
def trained():
    """Four clients that take one step a round, and a server that clips updates."""
    settings = {"data.clients": 4, "local.batch_size": 1000, "local.keep_last_batch": True, "server.rounds": 12}
    defence = {"server.noise": 0.0, "server.clip.start": float("inf"), "server.update_clip": 2.0, "server.decay": 0.01}
    more = {"model.bias": False, "attack.round": None, "local.learning_rate": 0.15, "server.evaluate_every": 12}
    exp = crfl.Experiment().override({**settings, **defence, **more})
    data = crfl.load_data(exp)
    return crfl.train(exp, data, checkpoints=[11]), data


@pytest.mark.parametrize("count", [1, 2])
def test_the_worst_last_round_happens_as_computed(trained, count):
    """A sample that is said to fall falls when clients send what is worst for it; one said to stand does not."""
    run, data = trained
    x = data.test.x
    predicted = last_round_predictions(run, data, run.checkpoints[11], count, x)
    clean = run.predict(x)
    fallen = np.flatnonzero(predicted != clean)
    assert len(fallen) > 3
    for row in fallen[:3]:
        outcomes = []
        for clients in ([0, 1], [2, 3], [0, 2], [1, 3], [0, 3], [1, 2]) if count == 2 else ([0], [1], [2], [3]):
            sent = torch.zeros(run.model.num_classes, x.shape[1], dtype=torch.float64)
            sent[predicted[row]], sent[clean[row]] = x[row].double(), -x[row].double()
            update = (1e3 * sent).flatten()
            with attacking(updates={"worst": lambda own, *_, update=update: update.to(own)}):
                changes = {"attack.round": 12, "attack.clients": clients, "attack.update": "worst"}
                exp = run.experiment.override({**changes, "attack.scale": 1.0, "attack.poisoned_per_batch": 0})
                outcomes.append(crfl.train(exp, data).predict(x[row : row + 1])[0])
        assert predicted[row] in outcomes


def test_no_move_within_reach_changes_what_is_said_to_stand(trained):
    run, data = trained
    x, reach = data.test.x[:60], 0.02
    said = worst_predictions(run.model, run.params, x, reach)
    clean = run.predict(x)
    assert 0 < (said != clean).mean() < 1
    generator = torch.Generator().manual_seed(0)
    for _ in range(200):
        move = torch.randn(run.params.shape, generator=generator, dtype=torch.float64)
        moved = run.model.logits(run.params + reach * move / move.norm(), x.double()).argmax(1).numpy()
        assert (moved == clean)[said == clean].all()


def test_more_is_certified_against_less(found):
    for result in found.results:
        curve = result.certified_accuracy(np.arange(20.0))
        assert (np.diff(curve) <= 0).all()


def test_the_margin_row_is_the_certificate_of_a_run_without_an_attack():
    """`client_rounds` says what `crfl.certify` says of the same settings."""
    from crfl.benchmark.federations import load_task

    task: Task = load_task("digits", "client-rounds", 0, smoke=True)
    factor = crfl_margin.CHOSEN.get("digits", 1.0)
    outcome = crfl_margin.client_rounds(task, factor)
    exp = crfl_margin.trained(task, factor).quiet.experiment
    cert = crfl.certify(crfl.train(exp, task.data), task.data, attack_round="any")
    assert (outcome.prediction == cert.prediction).all()
    assert (outcome.strength == np.where(cert.abstained, -1, cert.max_malicious())).all()
