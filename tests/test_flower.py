"""Flower is an engine: a federation of Flower's clients gives crfl's own run. Skipped without flwr."""

import os
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", exc_type=ImportError)

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, Metadata, RecordDict
from flwr.serverapp import Grid
from flwr.supercore.task_identity import TaskIdentity
from torch import nn

import crfl
from crfl.attack.malicious import MALICIOUS
from crfl.cli import main
from crfl.errors import CertificateError, DataError, InvalidUpdateWarning, SettingsError, TrainingError
from crfl.flower import CRFL, DeclaredData, client_app


@pytest.fixture(autouse=True)
def _identity(monkeypatch):
    """The server's, which Flower's launcher sets."""
    for name in ("_task_id", "_run_id", "_node_id"):
        monkeypatch.setattr(TaskIdentity, name, 1)


class MemoryGrid(Grid):
    """Clients in this process. `alter` may change what a client replies in a round, or withhold it (None)."""

    def __init__(self, app, clients, alter=lambda client, round_, reply: reply):
        self.app, self.alter = app, alter
        numbers = np.random.default_rng(0).permutation(clients).tolist()
        self.numbers = {1000 + 7 * i: number for i, number in enumerate(numbers)}
        self.sent = []

    def set_run(self, run):
        raise NotImplementedError

    run = None
    create_message = push_messages = pull_messages = set_run

    def get_node_ids(self):
        return list(self.numbers)

    def send_and_receive(self, messages, *, timeout=None):
        replies = []
        for number, message in enumerate(messages):
            told = message.metadata
            metadata = Metadata(1, f"m{number}", 1, told.dst_node_id, "", "", told.created_at, 60.0, told.message_type)
            replies += self.answer(Message(metadata=metadata, content=message.content))
        return replies[::-1]

    def answer(self, message):
        node, kind = message.metadata.dst_node_id, message.metadata.message_type
        client = self.numbers[node]
        context = Context(1, node, {"partition-id": client}, RecordDict(), {})
        try:
            reply = self.app(message, context)
        except Exception as error:
            reply = Message(Error(1, str(error)), reply_to=message)
        if kind == "train":
            self.sent.append(message)
            round_ = message.content["config"]["server-round"]
            reply = self.alter(client, round_, reply)
        return [] if reply is None else reply if isinstance(reply, list) else [reply]


def settings(**changes):
    base = {"server.rounds": 5, "attack.round": 3, "attack.clients": 2}
    return crfl.Experiment().override({**base, **changes})


def federated(exp, data, model=None, alter=lambda client, round_, reply: reply):
    """The run of a federation of Flower's clients, who all load the same data."""
    strategy = CRFL(exp, data, model=model)
    strategy.start(MemoryGrid(client_app(exp, lambda number: data, model=model), len(data.shards), alter))
    return strategy.run


def assert_equal(run, own):
    torch.testing.assert_close(run.params, own.params, rtol=1e-5, atol=1e-5 * float(own.params.abs().max()))
    assert run.record.client_reported
    assert not own.record.client_reported
    for ours, theirs in zip(run.record.rounds, own.record.rounds, strict=True):
        assert ours.start_norm == pytest.approx(theirs.start_norm, rel=1e-5)
        assert ours.pre_clip_norm == pytest.approx(theirs.pre_clip_norm, rel=1e-5)
        assert ours.weights == pytest.approx(theirs.weights, rel=1e-5, abs=1e-12)
        assert [a.client for a in ours.attackers] == [a.client for a in theirs.attackers]
        for mine, other in zip(ours.attackers, theirs.attackers, strict=True):
            assert (mine.update_norm or 0) == pytest.approx(other.update_norm or 0, rel=1e-5)
        if theirs.update_norms is not None:
            assert ours.update_norms == pytest.approx(theirs.update_norms, rel=1e-5)
        assert (ours.clip_norm, ours.noise_std) == (theirs.clip_norm, theirs.noise_std)
        assert (ours.decay, ours.update_clip) == (theirs.decay, theirs.update_clip)
    told = replace(run.record, client_reported=False, rounds=own.record.rounds)
    assert told == own.record


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"attack.scale": "replace", "server.participation": 0.5, "attack.force_participation": True},
        {"server.participation": 0.4, "server.aggregation": "weighted_mean", "data.partition": "dirichlet"},
        {"server.update_clip": 0.1, "server.decay": 0.01, "local.precision": "float64"},
        {"local.schedule": "inverse", "local.weight_decay": 0.05, "local.epochs": 2},
        {"server.aggregation": "median", "attack.magnitude": 1.0},
        {"attack.update": "MALICIOUS"},
        {"attack.round": None},
    ],
    ids=str,
)
def test_flower_gives_the_run_of_crfl(changes):
    if "attack.update" in changes:
        changes = {"attack.update": next(iter(MALICIOUS))}
    if changes.get("data.partition"):
        changes = {**changes, "local.batch_size": 5, "data.dirichlet_alpha": 5.0}
    exp = settings(**changes)
    data = crfl.load_data(exp)
    assert_equal(federated(exp, data), crfl.train(exp, data))


def test_reference_engine_gives_the_same_bits():
    exp = settings()
    data = crfl.load_data(exp)
    assert torch.equal(federated(exp, data).params, crfl.train(exp, data, engine="reference").params)


@pytest.mark.data
@pytest.mark.skipif("CRFL_DATA_DIR" not in os.environ, reason="CRFL_DATA_DIR is not set")
def test_flower_gives_the_run_of_crfl_on_mnist():
    exp = crfl.Experiment.named("mnist").override({"data.clients": 8, "server.rounds": 3, "attack.round": 2})
    data = crfl.load_data(exp)
    assert_equal(federated(exp, data), crfl.train(exp, data))


def test_any_module_trains_on_flower():
    exp = settings(**{"server.rounds": 3, "attack.round": 2})
    data = crfl.load_data(exp)
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(64, 12), nn.Tanh(), nn.Linear(12, 10))
    assert_equal(federated(exp, data, model=module), crfl.train(exp, data, model=module))


def test_clients_need_no_samples_but_their_own():
    exp = settings(**{"server.participation": 0.7})
    data = crfl.load_data(exp)

    def alone(number):
        rows = data.shards[number]
        shards = [torch.arange(len(rows))]
        x, y = data.x[rows], data.y[rows]
        about = {"scale": data.scale, "domain": data.domain, "input_shape": data.input_shape, "num_classes": 10}
        return crfl.FederatedData.from_arrays(x, y, x[:1], y[:1], shards=shards, name="digits", **about)

    strategy = CRFL(exp, declared(data))
    strategy.start(MemoryGrid(client_app(exp, alone), 10))
    own = crfl.train(exp, data)
    torch.testing.assert_close(strategy.run.params, own.params, rtol=1e-5, atol=1e-6)
    assert strategy.run.record.max_feature_norm == 5.0
    assert strategy.run.record.client_sizes == own.record.client_sizes


def declared(data):
    about = {"domain": data.domain, "input_shape": data.input_shape, "name": data.name}
    return DeclaredData.of(data.test, data.sizes, max_feature_norm=5.0, num_classes=10, **about)


def test_noise_is_drawn_between_rounds_only():
    exp = settings(**{"server.noise": 100.0, "server.rounds": 3, "attack.round": None, "server.clip.start": 1.0})
    data = crfl.load_data(exp)
    strategy = CRFL(exp, data)
    grid = MemoryGrid(client_app(exp, lambda number: data), 10)
    strategy.start(grid)
    sent = [m.content["arrays"]["weight"].numpy() for m in grid.sent[::10]]
    norms = [float(np.linalg.norm(weight)) for weight in sent]
    assert norms[0] < 10
    assert norms[1] > 1000
    assert norms[2] > 1000
    assert float(strategy.run.params.norm()) <= exp.server.clip.norm(3) * (1 + 1e-6)


def poison(value):
    def change(reply):
        update = {name: Array(np.full(a.shape, value, dtype=a.dtype)) for name, a in reply.content["update"].items()}
        reply.content["update"] = ArrayRecord(update)
        return reply

    return change


def wrongly_shaped(reply):
    reply.content["update"] = ArrayRecord({"weight": Array(np.zeros((3, 3))), "bias": Array(np.zeros(10))})
    return reply


def garbage(reply):
    reply.content["update"]["weight"] = Array("float32", (10, 64), "numpy.ndarray", b"nonsense")
    return reply


def without(reply):
    del reply.content["update"]
    return reply


def stale(reply):
    reply.content["client"] = ConfigRecord({"partition-id": 4, "server-round": 1})
    return reply


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (poison(np.nan), "not finite"),
        (poison(np.inf), "not finite"),
        (wrongly_shaped, "of the wrong shape"),
        (garbage, "of the wrong shape"),
        (without, "of the wrong shape"),
        (lambda reply: None, "without a reply in time"),
        (lambda reply: Message(Error(0, "broken"), reply_to=reply), "of a client that failed"),
        (lambda reply: [reply, reply], "sent more than once"),
        (stale, "of another round"),
    ],
    ids="nan inf shape garbage missing late failed twice stale".split(),
)
def test_what_the_server_cannot_use_is_dropped_and_voids_the_certificate(change, reason):
    exp = settings()
    data = crfl.load_data(exp)

    def alter(client, round_, reply):
        if (client, round_) != (4, 2):
            return reply
        found = change(reply)
        if isinstance(found, Message) and found.has_error():  # the grid's address of the client, not the server's
            found = Message(metadata=reply.metadata, error=found.error)
        return found

    with pytest.warns(InvalidUpdateWarning, match=reason):
        run = federated(exp, data, alter=alter)
    dropped = run.record.rounds[1].dropped
    assert [(d.client, d.reason) for d in dropped] == [(4, reason)]
    assert run.record.rounds[1].weights == pytest.approx([1 / 9] * 4 + [0] + [1 / 9] * 5)
    assert not run.record.rounds[2].dropped
    with pytest.raises(CertificateError, match="dropped updates in round 2"):
        crfl.certify(run, data.test)


def test_clients_with_other_settings_are_dropped():
    exp = settings()
    data = crfl.load_data(exp)
    other = client_app(exp.override({"local.learning_rate": 0.06}), lambda number: data)
    with pytest.raises(TrainingError, match="no update is left"):
        CRFL(exp, data).start(MemoryGrid(other, 10))


def test_missing_clients_and_doubles_stop_the_start():
    exp = settings()
    data = crfl.load_data(exp)
    app = client_app(exp, lambda number: data)
    with pytest.raises(TrainingError, match=r"2 of 10 did not connect.*\[8, 9\]"):
        CRFL(exp, data, connect_timeout=0).start(MemoryGrid(app, 8))
    double = MemoryGrid(app, 10)
    double.numbers = dict.fromkeys(double.numbers, 3)
    with pytest.raises(TrainingError, match="partition-id: got 3"):
        CRFL(exp, data).start(double)


def test_wrong_rounds_models_and_early_questions_are_errors():
    exp = settings()
    data = crfl.load_data(exp)
    grid = MemoryGrid(client_app(exp, lambda number: data), 10)
    with pytest.raises(SettingsError, match=r"num_rounds: got 3, expected server\.rounds, 5"):
        CRFL(exp, data).start(grid, num_rounds=3)
    with pytest.raises(DataError, match="initial_arrays"):
        CRFL(exp, data).start(grid, ArrayRecord({"weight": Array(np.zeros((2, 2)))}))
    with pytest.raises(TrainingError, match="got 0 rounds"):
        CRFL(exp, data).run  # noqa: B018


def test_run_folder_is_certified_and_says_what_was_told(tmp_path):
    exp = settings(**{"server.rounds": 12, "server.noise": 1e-4})
    data = crfl.load_data(exp)
    run = federated(exp, data)
    crfl.save_run(tmp_path / "run", run)
    loaded = crfl.load_run(tmp_path / "run")
    assert loaded.record == run.record
    cert = crfl.certify(loaded, data)
    own = crfl.certify(crfl.train(exp, data), data)
    np.testing.assert_allclose(cert.radius, own.radius, rtol=1e-2, atol=1e-4)
    assert any("out of the server's sight" in text for text in cert.guarantee.assumptions)
    assert not any("out of the server's sight" in text for text in own.guarantee.assumptions)
    assert not any("(measured)" in text for text in cert.guarantee.assumptions)
    assert main(["certify", str(tmp_path / "run")], standalone_mode=False) in (None, 0)


def test_without_a_named_attack_only_the_clients_certificate_is_given():
    exp = settings(**{"attack.round": None, "server.update_clip": 4.0})
    data = crfl.load_data(exp)
    run = federated(exp, data)
    for kind in ("margin", "smoothing", "published"):
        with pytest.raises(CertificateError, match="no attack is on record"):
            crfl.certify(run, data, kind=kind)
    cert = crfl.certify(run, data, kind="clients")
    own = crfl.certify(crfl.train(exp, data), data, kind="clients")
    assert (cert.malicious_clients == own.malicious_clients).mean() > 0.98
    assert any("Nothing that a malicious client says is relied on" in text for text in cert.guarantee.assumptions)


def test_clients_that_fail_count_as_malicious():
    """Two of them, late or with updates that are no numbers: a certificate about two fewer, not none."""
    many = {"data.clients": 200, "local.batch_size": 6, "server.rounds": 3, "server.clip.start": 50.0}
    exp = settings(**many, **{"attack.round": None, "server.update_clip": 0.3, "server.noise": 0.0})
    data = crfl.load_data(exp)

    def alter(client, round_, reply):
        return None if (client, round_) == (4, 2) else poison(np.nan)(reply) if client == 9 and round_ > 1 else reply

    with pytest.warns(InvalidUpdateWarning, match=r"not finite|without a reply in time"):
        run = federated(exp, data, alter=alter)
    with pytest.raises(CertificateError, match="dropped updates in round 2"):
        crfl.certify(run, data)
    assert [d.weight for r in run.record.rounds for d in r.dropped] == [1 / 200] * 3
    cert, own = crfl.certify(run, data, kind="clients"), crfl.certify(crfl.train(exp, data), data, kind="clients")
    assert "beside the 2 clients whose updates were dropped" in cert.guarantee.statement
    assert own.malicious_clients.max() > 4
    fewer = own.malicious_clients - cert.malicious_clients
    assert (fewer[own.malicious_clients > 2] >= 2).mean() > 0.95
    assert np.median(fewer[own.malicious_clients > 4]) == 2
    assert cert.abstained[own.malicious_clients < 2].mean() > 0.95


def test_declared_data_is_never_smoother_than_the_samples():
    exp = settings(**{"data.clients": 700, "local.batch_size": 2})
    data = crfl.load_data(exp)
    from crfl.flower.strategy import _Batch

    assert (_Batch.of([exp], declared(data)).smoothness >= _Batch.of([exp], data).smoothness).all()
