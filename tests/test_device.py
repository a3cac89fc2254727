"""Training and certificates on another device, as far as that can be told without one."""

from dataclasses import replace

import pytest
import torch
from torch import nn

import crfl
from crfl import matmul as products
from crfl.aggregation import AGGREGATORS
from crfl.attack.malicious import MALICIOUS
from crfl.errors import SettingsError
from crfl.training import train_pair
from tests.interrupted import interrupted
from tests.pretended import DEVICE, Accelerator

EXP = crfl.Experiment().override({"server.rounds": 6, "attack.round": [2, 4], "attack.clients": 2})
ONCE_A_ROUND = {("server.py", "add"), ("stack.py", "_round"), ("models.py", "spectral_norm")}
"""Where training waits for the device: whether updates are finite, whether the model is, eigenvalues."""


@pytest.fixture(scope="module")
def data():
    return crfl.load_data(EXP)


@pytest.fixture(autouse=True)
def same_products(monkeypatch):
    monkeypatch.setattr(products, "WIDE", False)  # as on a device


def test_the_pretended_device_refuses_what_a_real_one_would():
    with Accelerator() as device:
        x = torch.arange(6.0).view(2, 3).to(DEVICE)
        with pytest.raises(RuntimeError, match="on the CPU"):
            x + torch.ones(3)
        assert x.device.type == DEVICE
        assert (x @ torch.ones(3, device=DEVICE) * torch.tensor(2.0)).cpu().tolist() == [6.0, 24.0]
        assert not device.waits  # this is not the library's code


@pytest.mark.parametrize("name", ["gpu", "cuda:999"])
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
    torch.testing.assert_close(run.params, expected.params, rtol=0, atol=1e-6)
    assert run.history["accuracy"].to_numpy() == pytest.approx(expected.history["accuracy"].to_numpy(), abs=1e-6)


def test_nothing_is_convolved_on_a_device(data, monkeypatch):
    """There, convolutions would be no faster and by default less exact."""
    monkeypatch.setattr(products, "WIDE", True)
    for name in ("conv1d", "conv2d"):
        monkeypatch.setattr(products.functional, name, None)
    with Accelerator():
        a, b = torch.ones(600, 300).to(DEVICE), torch.ones(1200, 300).to(DEVICE)
        assert (products.inner(a, b) == 300).all()
        c, d = torch.ones(3, 101, 700).to(DEVICE), torch.ones(3, 101, 700).to(DEVICE)
        products.add_batched(c, products.batched_affine(c, d, d[:, :, :1], 1.0), d, 1.0)
        assert (c == 1 + 101 * 701).all()


def test_tiny_clients_train_as_on_the_cpu(data):
    rows = torch.cat(data.shards)[:1200]
    tiny = replace(data, shards=rows.split(2), client_names=tuple(map(str, range(600))))
    exp = EXP.override({"data.clients": 600, "local.batch_size": 2, "local.learning_rate": 0.1, "attack.scale": 30.0})
    expected = crfl.train(exp, tiny)
    with Accelerator():
        run = crfl.train(exp, tiny, device=DEVICE)
    torch.testing.assert_close(run.params, expected.params, rtol=0, atol=1e-6)


def test_resumes_on_the_device(data, tmp_path):
    with Accelerator():
        with interrupted(3):
            crfl.train(EXP, data, device=DEVICE, checkpoints=[2, 5], resume_dir=tmp_path)
        run = crfl.train(EXP, data, device=DEVICE, checkpoints=[2, 5], resume_dir=tmp_path)
    torch.testing.assert_close(run.params, crfl.train(EXP, data).params, rtol=0, atol=1e-6)


def test_modules_and_stacks_train_as_on_the_cpu(data):
    net = nn.Sequential(nn.Linear(data.num_features, 8), nn.BatchNorm1d(8, affine=False), nn.ReLU(), nn.Linear(8, 10))
    for model in (net, None):
        expected = train_pair(EXP, data, model=model)
        with Accelerator():
            pair = train_pair(EXP, data, model=model, device=DEVICE)
        for run, other in zip(pair, expected, strict=True):
            torch.testing.assert_close(run.params, other.params, rtol=0, atol=1e-6)


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"bounds": "clopper_pearson"},
        {"bounds": "exact"},
        {"kind": "smoothing"},
        {"kind": "margin"},
        {"kind": "margin", "attack_round": "any"},
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


def test_waits_at_the_end_of_a_round_only(data):
    exp = EXP.override({"attack.round": 2, "attack.clients": 1})
    waits = []
    for rounds in (6, 16):
        with Accelerator() as device:
            crfl.train(exp.override({"server.rounds": rounds}), data, device=DEVICE)
        waits.append(device.waits)
    assert {
        place: count - waits[0][place] for place, count in waits[1].items() if count > waits[0][place]
    } == dict.fromkeys(ONCE_A_ROUND, 10)


def test_poisoning_waits_for_nothing(data):
    exp = EXP.override({"attack.round": 1, "attack.every": 1})
    with Accelerator() as device:
        crfl.train(exp, data, device=DEVICE)
    assert device.waits.get(("triggers.py", "__call__"), 0) == 0
