"""What a method made of a federation: numbers, and the file that keeps them."""

import dataclasses

import numpy as np
import pytest

from crfl.benchmark.result import Result, read_result, result_path, write_result
from crfl.errors import DamagedFileError


def result(**changes):
    """Five samples: right and certified, right, wrong but certified, abstained, right whatever happens."""
    found = Result(
        threat="clients",
        method="A method, 5 groups",
        data_name="digits",
        seed=3,
        labels=np.array([0, 1, 2, 3, 4]),
        prediction=np.array([0, 1, 0, 3, 4]),
        strength=np.array([5.0, 0.0, 9.0, -1.0, np.inf]),
        attacked={},
        models_trained=2,
        trusted_samples=300,
        cpu_seconds=1.5,
        num_clients=20,
    )
    return dataclasses.replace(found, **changes)


def test_an_abstention_is_an_error():
    assert result().accuracy == 3 / 5
    assert result().abstain_rate == 1 / 5


def test_certified_accuracy_counts_what_is_right_and_stands():
    assert result().certified_accuracy([0, 5, 5.1, np.inf]).tolist() == [3 / 5, 2 / 5, 1 / 5, 1 / 5]


@pytest.mark.parametrize("size", [1, 2, 5, 8])
def test_the_median_is_the_largest_strength_at_which_half_are_certified(size):
    rng = np.random.default_rng(size)
    for _ in range(20):
        labels = rng.integers(0, 2, size)
        strength = rng.choice([-1.0, 0.0, 1.0, 2.0, 3.0, np.inf], size)
        found = result(labels=labels, prediction=rng.integers(0, 2, size), strength=strength)
        certified = [s for s in (0.0, 1.0, 2.0, 3.0, np.inf) if found.certified_accuracy(s) >= 0.5]
        assert found.median_strength == max(certified, default=-1.0)


def test_each_sample_is_taken_under_the_attack_that_hurts_it_most():
    attacked = {1.0: np.array([[9, 1, 0, 3, 4], [0, 9, 0, 3, 4]]), 5.0: np.array([[0, 1, 0, 3, 4]])}
    found = result(attacked=attacked)
    assert found.attacked_accuracy(1.0) == 1 / 5
    assert found.attacked_accuracy(5.0) == 1 / 5  # what a weaker attack does, a stronger one can do
    assert found.attacked_accuracy(2.0) is None


def test_a_changed_prediction_contradicts_only_what_was_certified():
    changed = np.array([[9, 9, 0, 9, 4]])
    assert result(attacked={5.0: changed}).contradicted().tolist() == [True, False, False, False, False]
    assert not result(attacked={6.0: changed}).contradicted().any()
    assert result(attacked={1e9: np.array([[0, 1, 0, 3, 0]])}).contradicted().tolist() == [False] * 4 + [True]


def test_a_file_holds_all_of_it(tmp_path):
    path, found = tmp_path / "a.safetensors", result(attacked={0.1: np.array([[0, 1, 2, 3, 4]])})
    write_result(path, found, "key")
    again = read_result(path, "key")
    for field in dataclasses.fields(Result):
        np.testing.assert_equal(getattr(again, field.name), getattr(found, field.name))


def test_another_key_is_another_result(tmp_path):
    path = tmp_path / "a.safetensors"
    assert read_result(path, "key") is None
    write_result(path, result(), "key")
    assert read_result(path, "other") is None


def test_a_damaged_file_is_noticed(tmp_path):
    path = tmp_path / "a.safetensors"
    write_result(path, result(), "key")
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    with pytest.raises(DamagedFileError):
        read_result(path, "key")


def test_each_result_has_a_place_of_its_own(tmp_path):
    asked = [(t, m, s) for t in ("label flips", "clients") for m in ("A (5)", "A, 6") for s in (0, 1)]
    assert len({result_path(tmp_path, t, m, "digits", s) for t, m, s in asked}) == len(asked)
