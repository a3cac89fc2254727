"""Sweeps: the runs by hand, each trained once."""

import dataclasses

import numpy as np
import pytest
import torch

import crfl
from crfl import sweeps
from crfl.attack.triggers import TRIGGERS
from crfl.errors import SettingsError, TrainingError
from crfl.runs.certificates import load_votes
from crfl.sweeps import Cache, prefix
from tests.interrupted import interrupting

EXP = crfl.Experiment().override(
    {"server.rounds": 5, "attack.round": 2, "smoothing.samples": 120, "smoothing.test_samples": 40}
)


@pytest.fixture
def cache(tmp_path):
    return Cache(tmp_path)


@pytest.mark.filterwarnings("ignore::crfl.errors.CertificateWarning")
def test_a_sweep_is_the_runs_by_hand(cache):
    data = crfl.load_data(EXP)
    found = sweeps.sweep(cache, EXP, "attack.scale", [5.0, 10.0], seeds=[0, 1], kind="published")
    radii = np.linspace(0, 0.3, 7)
    assert found.certified_accuracy(radii).shape == (2, 2, 7)
    for i, scale in enumerate((5.0, 10.0)):
        run = crfl.train(EXP.override({"attack.scale": scale}), data)
        certificate = crfl.certify(run, data.test, kind="published")
        assert torch.equal(found.runs[i][0].params, run.params)
        assert np.array_equal(found.certificates[i][0].radius, certificate.radius)
        assert np.array_equal(found.certified_rate(radii)[i, 0], certificate.certified_rate(radii))
        assert np.array_equal(found.certified_accuracy(radii)[i, 0], certificate.certified_accuracy(data.test.y, radii))
    assert found.critical[0] == pytest.approx(2 * found.critical[1])


def test_nothing_is_done_twice(cache):
    first = sweeps.sweep(cache, EXP, "smoothing.alpha", [0.01, 0.001], kind="smoothing")
    assert len(list((cache.root / "runs").iterdir())) == 1  # alpha matters to no run
    assert len(list((cache.root / "votes").iterdir())) == 1
    (votes,) = (cache.root / "votes").iterdir()
    written = votes.stat().st_mtime_ns
    with interrupting(0):
        again = sweeps.sweep(cache, EXP, "smoothing.alpha", [0.01, 0.001], kind="smoothing")
    assert votes.stat().st_mtime_ns == written
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
    short = prefix(run, 3)
    alone = crfl.train(EXP.override({"server.rounds": 3}), crfl.load_data(EXP))
    assert torch.equal(short.params, alone.params)
    assert short.record == alone.record
    assert short.history.equals(alone.history)
    with pytest.raises(SettingsError, match=r"rounds: got 4, expected .*\(3, 5\)"):
        prefix(run, 4)
    assert short.experiment == alone.experiment
    with pytest.raises(SettingsError, match=r"attack\.round"):
        prefix(run, 1)


def test_processes_train_side_by_side_to_the_same_bits(tmp_path):
    grid = [EXP.override({"attack.scale": s}) for s in (5.0, 6.0)]
    apart = Cache(tmp_path / "a", jobs=2).train(grid)
    threads = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        together = Cache(tmp_path / "b").train(grid)
    finally:
        torch.set_num_threads(threads)
    for one, two in zip(apart, together, strict=True):
        assert torch.equal(one.params, two.params)
        assert one.record == two.record


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


def test_a_pair_is_trained_once(cache):
    run, benign = cache.pair(EXP)
    again, _ = crfl.train_pair(EXP, crfl.load_data(EXP))
    assert run.history["distance"].tolist() == again.history["distance"].tolist()
    assert benign.record.benign
    with interrupting(0):
        assert torch.equal(cache.pair(EXP)[0].params, run.params)


def test_what_is_no_sweep(tmp_path):
    with pytest.raises(SettingsError, match="jobs: got 0"):
        Cache(tmp_path, jobs=0)
    cache = Cache(str(tmp_path))
    for values, seeds in (([], [0]), ([5.0], []), ([5.0], 0)):
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
    (folder / "run" / "manifest.json").unlink()
    (folder / "benign" / "record.json").write_text("other bits")
    again, other = cache.pair(EXP)
    assert torch.equal(again.params, run.params)
    assert other.record == benign.record


def test_several_settings_and_seeds(cache):
    grid = {"attack.scale": [5.0, 10.0], "server.noise": [0.01, 0.02]}
    found = sweeps.sweep(cache, EXP, grid, seeds=2, kind="margin")
    assert found.values == ((5.0, 0.01), (5.0, 0.02), (10.0, 0.01), (10.0, 0.02))
    frame = found.to_frame(radii=[0.0, 0.1])
    assert len(frame) == 4 * 2 * 2
    row = frame[(frame["attack.scale"] == 10) & (frame["server.noise"] == 0.02) & (frame["seed"] == 1)].iloc[1]
    exp = EXP.override({"attack.scale": 10.0, "server.noise": 0.02, "seed": 1})
    data = crfl.load_data(exp)
    run = crfl.train(exp, data)
    certificate = crfl.certify(run, data.test, kind="margin")
    assert row["certified_accuracy"] == certificate.certified_accuracy(data.test.y, 0.1)
    assert row["certified_rate"] == certificate.certified_rate(0.1)
    assert row["critical_radius"] == certificate.critical_radius
    assert row["attack_success_rate"] == run.history["attack_success_rate"].iloc[-1]
    for name in ("certified_accuracy", "certified_rate"):
        curves = found.curves([0.0, 0.1], name).query("`attack.scale` == 10 and `server.noise` == 0.02")
        both = frame[(frame["attack.scale"] == 10) & (frame["server.noise"] == 0.02)].groupby("radius")[name]
        for column, expected in (("mean", both.mean()), ("low", both.min()), ("high", both.max())):
            assert curves[column].tolist() == pytest.approx(expected.tolist(), rel=1e-12)
    assert len(repr(found).splitlines()) <= 10


def test_a_sweep_over_seeds(cache):
    found = sweeps.sweep(cache, EXP, "seed", [3, 4], kind="margin")
    assert [run.experiment.seed for (run,) in found.runs] == [3, 4]
    assert found.to_frame().columns.tolist().count("seed") == 1
    base = sweeps.sweep(cache, EXP.override({"seed": 4}), "attack.scale", [EXP.attack.scale], kind="margin")
    assert base.runs[0][0].record == found.runs[1][0].record


@pytest.mark.filterwarnings("ignore::crfl.errors.CertificateWarning")
@pytest.mark.parametrize("kind", ["published", "smoothing"])
def test_votes_are_kept_whatever_the_bounds(cache, kind):
    data = crfl.load_data(EXP)
    (run,) = cache.train([EXP])
    first = cache.certify(run, data.test, kind=kind, bounds="clopper_pearson")
    (path,) = (cache.root / "votes").iterdir()
    again = cache.certify(run, data.test, kind=kind, bounds="clopper_pearson")
    alone = crfl.certify(run, data.test, kind=kind, bounds="clopper_pearson")
    assert (load_votes(path).counts == alone.votes.counts).all()
    assert first.radius.tolist() == again.radius.tolist() == alone.radius.tolist()


@pytest.mark.filterwarnings("ignore:.*trained again")
def test_what_is_damaged_in_the_cache_is_made_again(cache):
    data = crfl.load_data(EXP)
    (run,) = cache.train([EXP])
    votes = cache.votes(run, data.test)
    for path in ((cache.folder(EXP) / "params.safetensors"), *(cache.root / "votes").iterdir()):
        path.write_bytes(path.read_bytes()[:-3])
    (again,) = cache.train([EXP])
    assert torch.equal(again.params, run.params)
    assert (cache.votes(again, data.test).counts == votes.counts).all()


def test_the_runs_that_do_not_fail_are_kept(cache):
    never = {"attack.clients": 10, "attack.round": 1, "attack.update": "nan"}
    with pytest.raises(TrainingError):
        cache.train([EXP.override(never), EXP])
    with interrupting(0):
        assert cache.train([EXP])[0].params.any()
