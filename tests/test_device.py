"""Training and certificates on another device, as far as that can be told without one."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn

import crfl
from crfl import matmul
from crfl.aggregation import AGGREGATORS
from crfl.attack.malicious import MALICIOUS
from crfl.errors import SettingsError
from crfl.run_batch import RunBatch
from crfl.state import TrainingState
from tests.pretended import DEVICE, Accelerator

EXP = crfl.Experiment().override({"server.rounds": 6, "attack.round": [2, 4], "attack.clients": 2})


@pytest.fixture(scope="module")
def data():
    return crfl.load_data(EXP)


def test_the_pretended_device_refuses_what_a_real_one_would():
    with Accelerator() as device:
        x = torch.arange(6.0).view(2, 3).to(DEVICE)
        with pytest.raises(RuntimeError, match="on the CPU"):
            x + torch.ones(3)
        assert x.device.type == DEVICE
        assert (x @ torch.ones(3, device=DEVICE) * torch.tensor(2.0)).cpu().tolist() == [6.0, 24.0]
        assert not device.waits  # this is not the library's code


@pytest.mark.parametrize("name", ["gpu", "cuda:999", "meta"])
def test_a_device_that_is_not_there_is_named(data, name):
    with pytest.raises(SettingsError, match=f"device: got '{name}', expected cpu"):
        crfl.train(EXP, data, device=name)


@pytest.mark.filterwarnings("ignore::crfl.errors.InvalidUpdateWarning")
@pytest.mark.parametrize(
    "changes",
    [
        *({"server.aggregation": rule} for rule in AGGREGATORS),
        {"server.update_clip": 0.1},
        {"server.participation": 0.5},
        {"local.epochs": 2, "local.weight_decay": 0.01, "local.keep_last_batch": True},
        {"local.precision": "float32"},
        {"server.decay": 0.1, "local.schedule": "inverse", "server.update_clip": {"start": 0.5, "end": 0.1}},
        {"model.bias": False, "attack.trigger": "full_image"},
        *({"attack.update": update} for update in MALICIOUS),
    ],
    ids=lambda changes: "-".join(f"{key}={value}" for key, value in changes.items()),
)
def test_trains_as_on_the_cpu(data, changes):
    exp = EXP.override(changes)
    expected = crfl.train(exp, data)
    with Accelerator():
        run = crfl.train(exp, data, device=DEVICE)
    assert run.params.device.type == "cpu"
    atol = 1e-6 if exp.local.precision == "float32" else 1e-12
    torch.testing.assert_close(run.params, expected.params, rtol=0, atol=atol)
    assert run.history["accuracy"].to_numpy() == pytest.approx(expected.history["accuracy"].to_numpy(), abs=1e-6)


@pytest.mark.filterwarnings("ignore::crfl.errors.InvalidUpdateWarning")
@pytest.mark.parametrize("engine", ["reference", "vectorised"])
def test_both_engines_train_there(data, engine):
    exp = EXP.override({"server.rounds": 3, "attack.round": 2, "attack.update": "nan"})
    with Accelerator():
        run = crfl.train(exp, data, device=DEVICE, engine=engine)
    torch.testing.assert_close(run.params, crfl.train(exp, data).params, rtol=0, atol=1e-12)


def test_nothing_is_convolved_on_a_device(monkeypatch):
    """There, convolutions would be no faster and by default less exact."""
    for constant in ("WIDE", "WIDE_BATCHES"):
        monkeypatch.setattr(matmul, constant, True)
    with Accelerator() as device:
        a, b = torch.ones(600, 300).to(DEVICE), torch.ones(1200, 300).to(DEVICE)
        assert (matmul.inner(a, b) == 300).all()
        c, d = torch.ones(3, 101, 700).to(DEVICE), torch.ones(3, 101, 700).to(DEVICE)
        matmul.add_batched(c, matmul.batched_affine(c, d, d[:, :, :1], 1.0), d, 1.0)
        assert (c == 1 + 101 * 701).all()
    assert any("mm" in name for name in device.operations)
    assert not any("conv" in name for name in device.operations)


def test_tiny_clients_train_as_on_the_cpu(data):
    rows = torch.cat(data.shards)[:1200]
    tiny = replace(data, shards=rows.split(2), client_names=())
    exp = EXP.override({"data.clients": 600, "local.batch_size": 2, "local.learning_rate": 0.1, "attack.scale": 30.0})
    expected = crfl.train(exp, tiny)
    with Accelerator():
        run = crfl.train(exp, tiny, device=DEVICE)
    torch.testing.assert_close(run.params, expected.params, rtol=0, atol=1e-12)


def test_goes_on_on_the_device(data):
    """From what was done there, and from what was done elsewhere."""
    batch = RunBatch.of([EXP], data, checkpoints=[2, 5])
    whole = crfl.train(EXP, data)
    done = {"cpu": [*batch.rounds(batch.start())][2]}
    with Accelerator():
        done[DEVICE] = [*batch.rounds(batch.start(), DEVICE)][2]
        saved = {where: state.to_tensors() for where, state in done.items()}
        for tensors in saved.values():
            assert {tensor.device.type for tensor in tensors.values()} == {"cpu"}
            *_, last = batch.rounds(TrainingState.from_tensors([tensors]), DEVICE)
            (run,) = batch.finish(last)
            torch.testing.assert_close(run.params, whole.params, rtol=0, atol=1e-12)
            assert run.checkpoints.keys() == {2, 5}


def test_modules_and_several_runs_train_as_on_the_cpu(data):
    net = nn.Sequential(nn.Linear(data.num_features, 8), nn.BatchNorm1d(8, affine=False), nn.ReLU(), nn.Linear(8, 10))
    exp = EXP.override({"server.rounds": 2, "attack.round": 1})
    for model in (net, None):
        expected = crfl.train_pair(exp, data, model=model)
        with Accelerator():
            pair = crfl.train_pair(exp, data, model=model, device=DEVICE)
        for run, other in zip(pair, expected, strict=True):
            torch.testing.assert_close(run.params, other.params, rtol=0, atol=1e-12)


def test_groups_train_as_on_the_cpu(data):
    batch = RunBatch.of([EXP] * 2, data, groups=[np.arange(4), np.arange(4, 10)])
    *_, expected = batch.rounds(batch.start())
    with Accelerator():
        *_, found = batch.rounds(batch.start(), DEVICE)
        runs = batch.finish(found)
    for run, other in zip(runs, batch.finish(expected), strict=True):
        torch.testing.assert_close(run.params, other.params, rtol=0, atol=1e-12)


@pytest.mark.filterwarnings("ignore::crfl.errors.CertificateWarning")
@pytest.mark.parametrize(
    "options",
    [
        {},
        {"attack_round": "any"},
        {"kind": "smoothing"},
        {"kind": "published"},
        {"kind": "published", "bounds": "clopper_pearson"},
        {"kind": "published", "bounds": "exact"},
    ],
    ids=str,
)
def test_certifies_as_on_the_cpu(data, options):
    run = crfl.train(EXP.override({"attack.round": 2}), data)
    expected = crfl.certify(run, data.test, **options)
    with Accelerator():
        found = crfl.certify(replace(run, params=run.params.to(DEVICE)), data.test, **options)
    assert (found.prediction == expected.prediction).all()
    assert found.radius == pytest.approx(expected.radius, rel=1e-6)


def waits(exp, data):
    """How often training waits for the device in a round, on average over four."""
    counts = []
    for rounds in (2, 6):
        with Accelerator() as device:
            crfl.train(exp.override({"server.rounds": rounds}), data, device=DEVICE)
        counts.append(sum(device.waits.values()))
    return (counts[1] - counts[0]) / 4


QUIET = EXP.override({"attack.round": 1})


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"local.epochs": 3, "local.batch_size": 15, "local.keep_last_batch": True},
        {"server.participation": 0.5, "server.aggregation": "weighted_mean"},
        {"server.decay": 0.1, "local.schedule": "inverse"},
    ],
    ids=lambda changes: "-".join(changes) or "plain",
)
def test_a_round_waits_three_times(data, changes):
    """At its end: for whether updates and model are finite, and for eigenvalues; never for a step of a client."""
    assert waits(QUIET.override(changes), data) <= 3


def test_a_round_of_many_clients_waits_no_more(data):
    many = replace(data, shards=torch.cat(data.shards).split(20)[:60], client_names=())
    assert waits(QUIET.override({"data.clients": 60}), many) <= 3


def test_an_attacker_waits_four_times_and_not_for_its_poison(data):
    attacking = EXP.override({"attack.round": 1, "attack.every": 1, "attack.clients": 2})
    assert waits(attacking, data) <= 3 + 2 * 4
    assert waits(attacking.override({"local.epochs": 2, "attack.trigger": "full_image"}), data) <= 3 + 2 * 4
