"""LOAN as federated data: its states, its split and its cache."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import contextmanager
from pathlib import Path

import numpy as np
import pytest
import torch

import crfl
from crfl.config import Experiment
from crfl.data import load_data
from crfl.data.loan import choose_states, load_loans, split, states_of
from crfl.data.loan.cache import load_table
from crfl.data.loan.schema import FEATURES, LABELS, STATES
from crfl.data.loan.table import LoanTable
from crfl.errors import DataError
from tests.data import loan_files

CONFIGS = Path(__file__).parents[2] / "configs"
COUNTS = {"CA": 50, "TX": 40, "MO": 12, "NY": 30, "CT": 11, "OH": 30, "IA": 1}


def table_of(counts):
    state = np.repeat([STATES.index(s) for s in counts], list(counts.values())).astype(np.uint8)
    state = np.random.default_rng(0).permutation(state)
    x = np.zeros((len(state), 90), dtype=np.float32)
    return LoanTable(x, np.zeros(len(state), dtype=np.uint8), state, 0)


@pytest.fixture
def folder(tmp_path):
    loan_files.write(tmp_path / "loan.csv", rows=2000)
    return tmp_path


def settings(folder, **changes):
    exp = Experiment.from_yaml(CONFIGS / "loan-sample.yaml")
    return exp.override({"data.root": str(folder), "local.batch_size": 5, "data.clients": 6, **changes})


def same(a, b):
    return all(np.array_equal(getattr(a, n), getattr(b, n)) for n in ("x", "y", "state")) and a.footers == b.footers


def cached(table):
    """Whether a table was read from the cache: its features are then mapped into memory."""
    return isinstance(table.x, np.memmap)


def test_the_attackers_states_come_first_then_the_largest():
    table = table_of(COUNTS)
    assert choose_states(table, 5) == ["CT", "MO", "CA", "TX", "NY"]  # TN has no loans; NY before OH by name
    assert choose_states(table, 1) == ["CT"]
    assert choose_states(table, 7) == ["CT", "MO", "CA", "TX", "NY", "OH", "IA"]
    assert choose_states(table, ("TX", "IA")) == ["TX", "IA"]
    with pytest.raises(DataError, match=r"data.clients: got 8, expected 1 to 7"):
        choose_states(table, 8)
    with pytest.raises(DataError, match=r"data.clients: got TN, XX, expected .* CA, CT, IA"):
        choose_states(table, ("TN", "CA", "XX"))
    with pytest.raises(DataError, match=r"data.clients: got a state twice"):
        choose_states(table, ("CA", "CA"))


def test_each_state_is_split_80_to_20_whoever_else_takes_part():
    table = table_of(COUNTS)
    training, test = split(table, ["CA", "IA", "MO"], seed=0)
    assert [len(rows) for rows in training] == [40, 0, 9]
    everyone = torch.cat([*training, test]).sort().values.tolist()
    wanted = np.isin(table.state, [STATES.index(s) for s in ("CA", "IA", "MO")])
    assert everyone == np.flatnonzero(wanted).tolist()
    assert torch.equal(test, test.sort().values)
    alone, _ = split(table, ["MO"], seed=0)
    assert torch.equal(alone[0], training[2])
    assert not torch.equal(split(table, ["MO"], seed=1)[0][0], alone[0])


def test_load_data(folder):
    data = load_data(settings(folder))
    assert data.client_names[:4] == ("CT", "MO", "TN", "CA")
    assert data.feature_names == FEATURES
    assert data.class_names == LABELS
    assert data.domain == (0.0, 1.0)
    table = load_loans(folder)
    for name, client in zip(data.client_names, data.clients, strict=True):
        rows = table.state == STATES.index(name)
        assert len(client) == rows.sum() * 4 // 5
        assert {tuple(row) for row in client.x.tolist()} <= {tuple(row) for row in table.x[rows].tolist()}
    assert len(data.test) == sum(
        s - s * 4 // 5 for s in np.bincount(table.state)[[STATES.index(n) for n in data.client_names]]
    )
    counts = data.label_counts()
    assert counts.index.tolist() == list(data.client_names)
    assert counts.loc["CA"].sum() == data.sizes[3]
    named = load_data(settings(folder, **{"data.clients": ["NY", "CT"]}))
    assert named.client_names == ("NY", "CT")
    assert torch.equal(named.shards[1], data.shards[0])


def test_all_states_pooled_and_dealt_out(folder):
    table = load_loans(folder)
    data = load_data(settings(folder, **{"data.partition": "iid", "data.clients": 10}))
    assert len(set(data.sizes)) == 1
    training, test = split(table, states_of(table), 0)
    rows = torch.cat(data.shards)
    assert len(rows.unique()) == len(rows) == len(torch.cat(training)) // 10 * 10
    assert not set(rows.tolist()) & set(test.tolist())
    assert len(data.test) == len(test)
    with pytest.raises(DataError, match=r"data.clients: got \['CT'\], expected.*a number"):
        load_data(settings(folder, **{"data.partition": "iid", "data.clients": ["CT"]}))


def test_footers_are_noted_and_small_states_named(tmp_path):
    records = loan_files.write(tmp_path / "a.csv", rows=500)
    footer = ["Total amount funded in policy code 1: 460296150"]
    (tmp_path / "a.csv").rename(tmp_path / "accepted_2007_to_2018Q4.csv")
    content = loan_files.to_bytes([*loan_files.with_six_more(records), footer, footer])
    (tmp_path / "accepted_2007_to_2018Q4.csv").write_bytes(content)
    for _ in range(2):  # parsed, then from the cache
        assert load_data(settings(tmp_path, **{"local.batch_size": 1})).notes == ("2 footer rows skipped",)
    with pytest.raises(
        DataError, match=r"CT has \d+ training samples.* expected at least one batch of 200.*data.clients"
    ):
        load_data(settings(tmp_path, **{"local.batch_size": 200}))


def test_a_missing_file_says_what_to_do(tmp_path):
    with pytest.raises(DataError, match=r"has no loan.csv or accepted.*Kaggle.*data.root.*CRFL_DATA_DIR"):
        load_data(settings(tmp_path))


def test_the_cache_is_read_instead_of_the_csv(folder):
    first, second = load_table(folder / "loan.csv"), load_table(folder / "loan.csv")
    assert same(second, first)
    assert (cached(first), cached(second)) == (False, True)
    assert sorted(p.name for p in folder.iterdir()) == ["loan.csv", "loan.csv.cache.safetensors"]


def test_a_changed_csv_is_never_served_from_a_stale_cache(folder):
    path = folder / "loan.csv"
    before = load_table(path)
    stat = path.stat()
    content = path.read_bytes()
    path.write_bytes(content.replace(b"MORTGAGE", b"MORTGAGF", 1).replace(b',"CA",', b',"NV",', 1))
    os.utime(path, ns=(stat.st_atime_ns, stat.st_mtime_ns))
    assert path.stat().st_size == stat.st_size  # neither size nor time tells
    after = load_table(path)
    assert not same(before, after)
    path.write_bytes(content)
    assert same(load_table(path), before)


def test_other_code_makes_the_cache_anew(folder, tmp_path_factory):
    load_table(folder / "loan.csv")
    other = tmp_path_factory.mktemp("other")
    shutil.copytree(Path(crfl.__file__).parent, other / "crfl")
    with (other / "crfl" / "data" / "loan" / "table.py").open("a") as code:
        code.write("# changed\n")
    code = f"""
from pathlib import Path
from crfl.data.loan.cache import load_table
for _ in range(2):
    print(type(load_table(Path({str(folder / "loan.csv")!r})).x).__name__)
"""
    environment = os.environ | {"PYTHONPATH": str(other)}
    found = subprocess.run([sys.executable, "-c", code], env=environment, cwd=other, check=True, capture_output=True)
    assert found.stdout.decode().split() == ["ndarray", "memmap"]


@pytest.mark.parametrize(
    "damage",
    [
        lambda b: b[: len(b) // 2],
        lambda b: b[:4],
        lambda b: b"",
        lambda b: b"\xff" * 99,
        lambda b: b[:-5] + b"\xc8" + b[-4:],  # a label or state
        lambda b: b[:9000] + bytes(400) + b[9400:],  # features
        lambda b: b.replace(b"[2000,90]", b"[1000,90]"),
    ],
)
def test_a_damaged_cache_is_made_anew(folder, damage):
    path, cache = folder / "loan.csv", folder / "loan.csv.cache.safetensors"
    first = load_table(path)
    cache.write_bytes(damage(cache.read_bytes()))
    second, third = load_table(path), load_table(path)
    assert same(second, first)
    assert same(third, first)
    assert (cached(second), cached(third)) == (False, True)


@contextmanager
def files_of_at_most(size):
    """As on a full disk: a file that grows beyond the size is cut off there, and writing to it fails."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_cache_that_cannot_be_written_is_done_without(folder):
    with files_of_at_most(100_000), pytest.warns(UserWarning, match="cannot be written .*File too large"):
        table = load_table(folder / "loan.csv")
    assert len(table.x) == 2000
    assert sorted(p.name for p in folder.iterdir()) == ["loan.csv"]


def test_something_else_in_the_place_of_the_cache(folder):
    (folder / "loan.csv.cache.safetensors").mkdir()
    with pytest.warns(UserWarning, match="cannot be written .*directory"):
        assert len(load_table(folder / "loan.csv").x) == 2000
    assert sorted(p.name for p in folder.iterdir()) == ["loan.csv", "loan.csv.cache.safetensors"]


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to(folder):
    folder.chmod(0o500)
    try:
        with pytest.warns(UserWarning, match="cannot be written .*Permission denied"):
            assert len(load_table(folder / "loan.csv").x) == 2000
    finally:
        folder.chmod(0o700)


def test_a_csv_that_changes_under_the_reader_is_refused(folder):
    path, done = folder / "loan.csv", threading.Event()

    def grow():
        with path.open("ab") as file:
            while not done.wait(0.001):
                file.write(b"\n")
                file.flush()

    writer = threading.Thread(target=grow)
    writer.start()
    try:
        with pytest.raises(DataError, match="changed while it was read"):
            load_table(path)
    finally:
        done.set()
        writer.join()
    assert not (folder / "loan.csv.cache.safetensors").exists()


def test_being_killed_while_writing_leaves_no_cache(folder):
    code = f"""
import resource, signal
from pathlib import Path
from crfl.data.loan.cache import load_table
signal.signal(signal.SIGXFSZ, signal.SIG_DFL)  # killed where the file grows beyond its limit
resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, 100_000))
load_table(Path({str(folder / "loan.csv")!r}))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == -signal.SIGXFSZ
    assert not (folder / "loan.csv.cache.safetensors").exists()
    assert len(load_table(folder / "loan.csv").x) == 2000


@pytest.mark.data
@pytest.mark.skipif("CRFL_DATA_DIR" not in os.environ, reason="CRFL_DATA_DIR is not set")
def test_the_real_sample(tmp_path):
    (tmp_path / "loan.csv").write_bytes((Path(os.environ["CRFL_DATA_DIR"]) / "loan.csv").read_bytes())
    exp = Experiment.from_yaml(CONFIGS / "loan-sample.yaml").override({"data.root": str(tmp_path)})
    data = load_data(exp)
    assert data.client_names[:3] == ("CT", "MO", "TN")
    assert len(data.shards) == 20
    assert min(data.sizes) >= 20
    assert data.num_features == 90
    with pytest.raises(DataError, match=r"CT has 22 training samples.*local.batch_size"):
        load_data(Experiment.from_yaml(CONFIGS / "loan.yaml").override({"data.root": str(tmp_path)}))
