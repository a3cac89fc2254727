"""Sweeps: trained once, certified from cached votes, equal to what a user would do by hand."""

import dataclasses

import numpy as np
import pytest
import torch

import crfl
from crfl.attack.triggers import TRIGGERS
from crfl.errors import SettingsError
from crfl.runs import store, sweeps
from crfl.runs.sweeps import Cache

EXP = crfl.Experiment().override(
    {"server.rounds": 5, "attack.round": 2, "smoothing.samples": 120, "smoothing.test_samples": 40}
)


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path)


def test_a_sweep_is_the_runs_by_hand(cache):
    data = crfl.load_data(EXP)
    found = sweeps.sweep(cache, EXP, "attack.scale", [5.0, 10.0], seeds=[0, 1])
    radii = np.linspace(0, 0.3, 7)
    assert found.certified_accuracy(radii).shape == (2, 2, 7)
    for i, scale in enumerate((5.0, 10.0)):
        run = crfl.train(EXP.override({"attack.scale": scale}), data)
        certificate = crfl.certify(run, data.test)
        assert torch.equal(found.runs[i][0].params, run.params)
        assert np.array_equal(found.certificates[i][0].radius, certificate.radius)
        assert np.array_equal(found.certified_rate(radii)[i, 0], certificate.certified_rate(radii))
        assert np.array_equal(found.certified_accuracy(radii)[i, 0], certificate.certified_accuracy(data.test.y, radii))
    assert found.critical[0] == pytest.approx(2 * found.critical[1])


def test_nothing_is_done_twice(cache, monkeypatch):
    first = sweeps.sweep(cache, EXP, "smoothing.alpha", [0.01, 0.001])
    assert len(list((cache.root / "runs").iterdir())) == 1  # alpha matters to no run
    assert len(list((cache.root / "votes").iterdir())) == 1
    monkeypatch.setattr(store, "RunBatch", None)
    monkeypatch.setattr(sweeps, "smooth", None)
    again = sweeps.sweep(cache, EXP, "smoothing.alpha", [0.01, 0.001])
    assert np.array_equal(first.critical, again.critical)


def test_what_matters_makes_another_run(cache):
    keys = [
        cache.folder(EXP),
        cache.folder(EXP, benign=True),
        cache.folder(EXP, checkpoints=[3]),
        *(
            cache.folder(EXP.override({k: v}))
            for k, v in (
                ("seed", 1),
                ("local.learning_rate", 0.01),
                ("server.noise", 0.02),
                ("attack.target", 3),
                ("data.clients", 5),
            )
        ),
    ]
    assert len(set(keys)) == len(keys)
    for key, value in (("smoothing.samples", 7), ("smoothing.noise", 0.5), ("smoothing.test_samples", 9)):
        assert cache.folder(EXP.override({key: value})) == keys[0]


def test_votes_depend_on_what_they_are_of(cache):
    data = crfl.load_data(EXP)
    run, other = cache.train([EXP, EXP.override({"attack.scale": 50.0})])
    names = set()
    for r, split in ((run, data.test), (other, data.test), (run, crfl.backdoored(EXP, data))):
        cache.votes(r, split)
        names = {p.name for p in (cache.root / "votes").iterdir()}
    assert len(names) == 3


def test_a_prefix_is_the_shorter_run(cache):
    (run,) = cache.train([EXP], checkpoints=[3, 5])
    short = sweeps.prefix(run, 3)
    alone = crfl.train(EXP.override({"server.rounds": 3}), crfl.load_data(EXP))
    assert torch.equal(short.params, alone.params)
    assert short.record == alone.record
    assert short.history.equals(alone.history)
    with pytest.raises(SettingsError, match=r"rounds: got 4, expected .*\(3, 5\)"):
        sweeps.prefix(run, 4)
    assert short.experiment == alone.experiment
    with pytest.raises(SettingsError, match=r"attack\.round"):
        sweeps.prefix(run, 1)


def test_processes_train_side_by_side(tmp_path):
    grid = [EXP.override({"attack.scale": s}) for s in (5.0, 6.0)]
    apart = Cache(tmp_path / "a", jobs=2).train(grid)
    together = Cache(tmp_path / "b").train(grid)
    for one, two in zip(apart, together, strict=True):
        torch.testing.assert_close(one.params, two.params, rtol=0, atol=1e-5)


def test_processes_know_functions_data_and_models_of_ones_own(tmp_path, monkeypatch):
    def corner(amount):
        return lambda attack, data, generator: lambda x: x + amount

    random = np.random.default_rng(0)
    x, y = random.random((90, 6), dtype=np.float32), random.integers(0, 3, 90)
    data = crfl.FederatedData.from_arrays(x[:60], y[:60], x[60:], y[60:], shards=np.split(np.arange(60), 6))
    model = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.ReLU(), torch.nn.Linear(4, 3))
    base = {"data.name": "custom", "data.clients": 6, "local.batch_size": 5, "attack.trigger": "corner"}
    base |= {"smoothing.test_samples": None}
    monkeypatch.setitem(TRIGGERS, "corner", corner(0.25))
    exp, options = EXP.override(base), {"data": data, "model": model}
    grid = [exp.override({"attack.scale": scale}) for scale in (2.0, 3.0)]
    for run, settings in zip(Cache(tmp_path / "a", jobs=2, **options).train(grid), grid, strict=True):
        alone = crfl.train(settings, data, model=model)
        torch.testing.assert_close(run.params, alone.params, rtol=0, atol=1e-6)
        assert run.record.attack_rounds == alone.record.attack_rounds
    linear = sweeps.sweep(Cache(tmp_path, data=data), exp, "smoothing.noise", [0.1], test=lambda exp, data: data.test)
    assert linear.labels[0][0].tolist() == y[60:].tolist()

    cache = Cache(tmp_path / "b", **options)
    before = cache.folder(exp)
    monkeypatch.setitem(TRIGGERS, "corner", corner(0.5))
    other = torch.nn.Sequential(torch.nn.Linear(6, 4), torch.nn.Tanh(), torch.nn.Linear(4, 3))
    assert len({before, cache.folder(exp), Cache(tmp_path / "b", data=data, model=other).folder(exp)}) == 3
    attacked, benign = cache.pair(exp)
    assert not torch.equal(attacked.params, benign.params)


def test_votes_of_another_model_with_the_same_parameters(tmp_path):
    data = crfl.load_data(EXP)
    found = []
    for activation in (torch.nn.ReLU(), torch.nn.Tanh()):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Linear(64, 5), activation, torch.nn.Linear(5, 10))
        cache = Cache(tmp_path, model=model)
        run = crfl.train(EXP.override({"server.rounds": 2}), data, model=model)
        cache.votes(dataclasses.replace(run, params=torch.ones_like(run.params)), data.test)
        found.append(len(list((tmp_path / "votes").iterdir())))
    assert found == [1, 2]


def test_each_value_has_its_own_test_set(cache):
    """As with LOAN, whose clients bring their test samples along."""

    def first(exp, data):
        return data.test.take(range(10 * exp.data.clients))

    found = sweeps.sweep(cache, EXP.override({"smoothing.test_samples": None}), "data.clients", [4, 10], test=first)
    assert [len(group[0]) for group in found.labels] == [40, 100]
    data = crfl.load_data(EXP)
    expected = found.certificates[1][0].certified_accuracy(data.test.y[:100], 0.0)
    assert found.certified_accuracy(0.0)[1, 0] == expected


def test_a_pair_is_trained_once(cache, monkeypatch):
    run, benign = cache.pair(EXP)
    again, _ = crfl.train_pair(EXP, crfl.load_data(EXP))
    assert run.history["distance"].tolist() == again.history["distance"].tolist()
    assert benign.record.benign
    monkeypatch.setattr(sweeps, "train_pair", None)
    assert torch.equal(cache.pair(EXP)[0].params, run.params)


def test_what_is_no_sweep(tmp_path):
    with pytest.raises(SettingsError, match="jobs: got 0"):
        Cache(tmp_path, jobs=0)
    cache = Cache(str(tmp_path))
    for values, seeds in (([], [0]), ([5.0], [])):
        with pytest.raises(SettingsError, match="seeds, values: got none"):
            sweeps.sweep(cache, EXP, "attack.scale", values, seeds=seeds)


def test_votes_of_samples_that_do_not_lie_in_order(cache):
    data = crfl.load_data(EXP)
    exp = EXP.override({"smoothing.test_samples": None})
    (run,) = cache.train([exp])
    turned = crfl.Split(data.test.x.T.contiguous().T, data.test.y)
    assert (cache.votes(run, turned).counts == cache.votes(run, data.test).counts).all()
    assert len(list((cache.root / "votes").iterdir())) == 1


def test_a_trigger_that_changes_when_it_is_called(cache, monkeypatch):
    class Counts:
        def __init__(self):
            self.calls = 0

        def __call__(self, attack, data, generator):
            self.calls += 1
            return lambda x: x + 0.5

    monkeypatch.setitem(TRIGGERS, "counts", Counts())
    (run,) = cache.train([EXP.override({"attack.trigger": "counts"})])
    assert run.params.any()


def test_half_a_pair_is_trained_anew(cache):
    run, benign = cache.pair(EXP)
    folder = cache.folder(EXP).with_name(cache.folder(EXP).name + "-pair")
    (folder / "run" / "params.safetensors").unlink()
    record = folder / "benign" / "record.json"
    record.write_text(record.read_text().replace('"seed": 0', '"seed": 1'))  # as if other bits had come of it
    again, other = cache.pair(EXP)
    assert torch.equal(again.params, run.params)
    assert other.record == benign.record
