"""Flower is an engine: a federation of Flower's clients gives crfl's own run. Skipped without flwr."""

import time
from dataclasses import replace

import numpy as np
import pytest
import torch

pytest.importorskip("flwr", exc_type=ImportError)

from flwr.app import Array, ArrayRecord, ConfigRecord, Context, Error, Message, Metadata, RecordDict
from flwr.serverapp import Grid
from torch import nn

import crfl
from crfl.errors import CertificateError, DataError, InvalidUpdateWarning, SettingsError, TrainingError
from crfl.flower import CRFL, DeclaredData, client_app


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
    push_messages = pull_messages = set_run

    def create_message(self, content, message_type, dst_node_id, group_id, ttl=None):
        number = f"m{len(self.sent)}"
        metadata = Metadata(1, number, 1, dst_node_id, "", group_id, time.time(), 60.0, message_type)
        return Message(metadata=metadata, content=content)

    def get_node_ids(self):
        return list(self.numbers)

    def send_and_receive(self, messages, *, timeout=None):
        replies = [reply for message in messages for reply in self.answer(message)]
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
        assert [a.update_norm for a in ours.attackers] == pytest.approx([a.update_norm for a in theirs.attackers], 1e-5)
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
        {"attack.update": "sign_flip"},
        {"attack.round": None},
    ],
    ids=str,
)
def test_flower_gives_the_run_of_crfl(changes):
    if "attack.update" in changes:
        from crfl.attack.malicious import MALICIOUS

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
