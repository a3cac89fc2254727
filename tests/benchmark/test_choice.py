"""Settings are chosen on training samples that are held out, and every choice is one of those that were tried."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from crfl.benchmark.choice import Choice, held_out, score, scores
from crfl.benchmark.entry import THREATS, Outcome
from crfl.benchmark.federations import DATA_SETS, load_task, part_of
from crfl.benchmark.harness import code_digest
from crfl.benchmark.methods import load_entries
from crfl.errors import DataError
from tests.benchmark.tasks import small_task

CHOICES = [(f"{e.threat}: {e.name}", e) for e in load_entries() if isinstance(e.run, Choice)]


def test_nobody_trains_on_what_is_held_out():
    task = small_task()
    found = held_out(task).data
    assert len(found.test) == 600 // 5
    kept = {tuple(row) for row in found.x[torch.cat(found.shards)].tolist()}
    asked = {tuple(row) for row in found.test.x.tolist()}
    all_rows = {tuple(row) for row in task.data.features(torch.cat(task.data.shards)).tolist()}
    assert not kept & asked
    assert kept | asked == all_rows
    assert not asked & {tuple(row) for row in task.data.test.x.tolist()}


def test_what_is_held_out_passes_the_same_feature_map():
    task = load_task("digits", "clients", 0)
    data = held_out(task).data
    np.testing.assert_allclose(data.map_inputs(data.test_inputs[:50]), data.test.x[:50], atol=1e-5)


def test_the_score_is_the_mean_of_a_tables_columns():
    """Four samples: right for ever, right up to 5, wrong, abstained; strengths 1, 5, 20, 50 and the accuracy."""
    outcome = Outcome(np.array([0, 1, 2, 3]), np.array([np.inf, 5.0, 9.0, -1.0]), 1)
    assert score(outcome, np.array([0, 1, 0, 3]), "clients") == pytest.approx(np.mean([0.5, 0.5, 0.5, 0.25, 0.25]))


def test_the_best_is_chosen_and_a_refusal_is_not():
    def run(task, strength):
        if strength > 50:
            raise DataError("too much")
        return Outcome(task.data.test.y.numpy(), np.full(len(task.data.test), float(strength)), 1)

    told = []
    table = scores([(Choice(run, (0, 20, 99, 5), {}, 0), "clients")], [small_task()], told.append)
    assert table.chosen.tolist() == [False, True, False, False]
    assert table.score.tolist()[:2] == [0.2, 0.8]
    assert np.isnan(table.score[2])
    assert "too much" in " ".join(told)


@pytest.mark.parametrize(("name", "entry"), CHOICES, ids=[name for name, _ in CHOICES])
def test_what_stands_in_the_methods_was_tried(name, entry):
    choice = entry.run
    assert set(choice.chosen) <= set(DATA_SETS)
    assert all(settings in choice.grid for settings in choice.chosen.values()), name


def test_groups_have_a_row_on_every_data_set():
    for threat in THREATS:
        rows = [e for e in load_entries() if e.threat == threat and e.name.startswith("FLCert-D")]
        assert {name for e in rows for name in e.data} == set(DATA_SETS)


def test_a_part_of_a_federation():
    data = small_task().data
    part = part_of(data, 100, 20)
    assert part.sizes == (25,) * 4
    assert all(set(some.tolist()) <= set(all_.tolist()) for some, all_ in zip(part.shards, data.shards, strict=True))
    assert len(part.test) == 20
    assert part_of(data, None, None).test is data.test


@pytest.mark.data
@pytest.mark.slow
@pytest.mark.skipif(not os.environ.get("CRFL_DATA_DIR"), reason="needs EMNIST and CIFAR-10")
@pytest.mark.parametrize(("name", "threat"), [("emnist", "clients"), ("cifar10", "trigger")])
def test_federations_of_large_data(name, threat):
    data = load_task(name, threat, 0).data
    assert sum(data.sizes) <= 20_000
    assert len(data.test) <= 4000
    np.testing.assert_allclose(data.map_inputs(data.test_inputs[:8]), data.test.x[:8], atol=1e-4)


def test_code_that_changed_has_another_name(tmp_path):
    package = Path(__file__).parents[2] / "crfl" / "certification"
    for name in ("a", "b", "c", "d"):
        shutil.copytree(package, tmp_path / name)
    (tmp_path / "b" / "margin.py").write_text("# changed")
    (tmp_path / "c" / "margin.py").rename(tmp_path / "c" / "margins.py")
    names = [code_digest(tmp_path / name) for name in ("a", "b", "c", "d")]
    assert names[0] == names[3]
    assert len(set(names)) == 3
