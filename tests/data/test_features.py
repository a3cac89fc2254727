"""Data seen through a feature map: what triggers, training and the cache make of it."""

import os
import pickle
import sys
from dataclasses import replace

import numpy as np
import pytest
import torch

import crfl
from crfl.config import Experiment, Features
from crfl.data import FederatedData, check_fits, load_data
from crfl.errors import DataError, SettingsError
from crfl.features import FEATURE_MAPS
from tests.data import loan_files

MAPPED = Experiment().override(
    {
        "features": {"map": "scattering", "public": 200, "whiten": 20, "norm": 1.0},
        "model.bias": False,
        "server.rounds": 3,
        "attack.round": 2,
        "attack.scale": 2.0,
    }
)
RANDOM = np.random.default_rng(0)
PIXELS = RANDOM.integers(0, 256, (60, 9, 8, 3), dtype=np.uint8)
LABELS = np.arange(60) % 3


@pytest.fixture(scope="module")
def digits():
    return load_data(MAPPED)


def test_features_and_images_side_by_side(digits):
    assert (digits.num_features, digits.num_inputs, digits.public_samples) == (20, 64, 200)
    assert digits.inputs.dtype == torch.uint8
    assert digits.input_shape == (8, 8)
    assert (digits.norm_bound, digits.domain) == (1.0, (0.0, 1.0))
    rows = digits.shards[3][:7]
    torch.testing.assert_close(digits.input_features(rows), digits.inputs[rows].float() / 16)
    torch.testing.assert_close(digits.map_inputs(digits.input_features(rows)), digits.features(rows), rtol=0, atol=1e-6)
    torch.testing.assert_close(digits.map_inputs(digits.test_inputs), digits.test.x, rtol=0, atol=1e-6)
    assert "20 features (scattering of 64 inputs)" in repr(digits)
    assert len(repr(digits).splitlines()) == 1


def test_without_a_map_the_inputs_are_the_features():
    data = load_data(Experiment())
    assert data.inputs is data.x
    assert data.test_inputs is data.test.x
    assert (data.input_scale, data.norm_bound, data.feature_map, data.public_samples) == (data.scale, None, None, 0)
    x = data.test.x[:3]
    assert data.map_inputs(x) is x
    assert torch.equal(data.input_features(data.shards[0]), data.features(data.shards[0]))


def test_a_trigger_is_planted_in_the_image(digits):
    images = digits.test_inputs.clone().view(-1, 8, 8)
    for row, column in MAPPED.attack.trigger:
        images[:, row, column] += MAPPED.attack.magnitude / 2
    expected = digits.map_inputs(images.clamp(0, 1).flatten(1))
    found = crfl.backdoored(MAPPED, digits)
    torch.testing.assert_close(found.x, expected, rtol=0, atol=1e-6)
    assert torch.equal(found.y, digits.test.y)
    assert float((found.x - digits.test.x).norm(dim=1).min()) > 0


def test_public_samples_are_the_servers_alone(digits):
    """They are in no shard, and whatever they turn into afterwards, training is the same to the bit."""
    public = set(digits.public_rows.tolist())
    assert len(public) == 200
    assert not public & set(torch.cat(digits.shards).tolist())
    assert digits.sizes == (120,) * 10
    x, y = digits.x.clone(), digits.y.clone()
    x[digits.public_rows], y[digits.public_rows] = 0.3 / 20**0.5, 0
    spoiled = replace(digits, x=x, y=y)
    assert torch.equal(crfl.train(MAPPED, digits).params, crfl.train(MAPPED, spoiled).params)


def test_public_samples_come_from_the_seed(digits):
    same, other = load_data(MAPPED), load_data(MAPPED.override({"seed": 1}))
    assert torch.equal(same.public_rows, digits.public_rows)
    assert same.digest == digits.digest
    assert not torch.equal(other.public_rows, digits.public_rows)
    uneven = load_data(
        MAPPED.override(
            {
                "data.partition": "dirichlet",
                "local.batch_size": 1,
                "local.keep_last_batch": True,
                "data.dirichlet_alpha": 5.0,
            }
        )
    )
    assert torch.equal(uneven.public_rows, digits.public_rows)
    assert sum(uneven.sizes) == 1200
    with pytest.raises(DataError, match=r"features.public: got 1400, expected fewer than the 1400 training samples"):
        load_data(MAPPED.override({"features.public": 1400}))


def test_copies_and_devices(digits):
    for same in (pickle.loads(pickle.dumps(digits)), digits.to("cpu")):
        assert same.digest == digits.digest
        x = same.test_inputs[:9]
        torch.testing.assert_close(same.map_inputs(x), digits.map_inputs(x), rtol=0, atol=0)


def test_the_digest_tells_maps_apart(digits):
    others = [{"features.whiten": 19}, {"features.norm": 0.5}, {"features.public": 199}, {"features.map": "none"}]
    others += [{"features.scattering_scales": 1}, {"features.scattering_angles": 8}]
    assert len({digits.digest, *(load_data(MAPPED.override(change)).digest for change in others)}) == 7


@pytest.mark.parametrize("broken", ["x", "test", "bound", "origin", "public"])
def test_what_does_not_fit_together_is_refused(digits, broken):
    changes = {
        "x": {"x": digits.x[:-1], "y": digits.y[:-1]},
        "test": {"test": crfl.Split(digits.test.x[:-1], digits.test.y[:-1])},
        "bound": {"x": digits.x * 1.001},
        "origin": {"origin": None},
        "public": {"public_rows": digits.shards[0][:3]},
    }
    with pytest.raises(DataError):
        replace(digits, **changes[broken])


SPENT = "CRFL_TEST_MAP_IS_SPENT"
FACTOR = 2


def doubled(x):
    """A map that cannot be made once it is spent. That stands in the environment, which is no part of the map."""
    if SPENT in os.environ:
        raise AssertionError("made again")
    return FACTOR * x.flatten(1)


def own(folder, **changes):
    arguments = {"clients": 3, "features": doubled, "public": 6, "norm": 40.0, "cache": folder, **changes}
    return FederatedData.from_arrays(arguments.pop("x", PIXELS), LABELS, PIXELS[:20], LABELS[:20], **arguments)


@pytest.fixture
def kept(tmp_path, monkeypatch):
    data = own(tmp_path)
    monkeypatch.setenv(SPENT, "1")
    return data, tmp_path


def test_features_are_made_once(kept):
    data, folder = kept
    again = own(folder)
    assert again.digest == data.digest
    torch.testing.assert_close(again.feature_map.mean, data.feature_map.mean, rtol=0, atol=0)
    assert [path.suffix for path in folder.iterdir()] == [".safetensors"]


@pytest.mark.parametrize(
    "changes",
    [
        {"x": 255 - PIXELS},
        {"seed": 1},
        {"norm": 39.0},
        {"whiten": 2},
        {"features": lambda x: doubled(x)},
        {"scale": 1 / 256},
    ],
)
def test_features_of_anything_else_are_made_anew(kept, changes):
    _, folder = kept
    with pytest.raises(AssertionError, match="made again"):
        own(folder, **changes)


def test_a_map_is_made_anew_if_a_global_that_it_reads_changed(kept, monkeypatch):
    _, folder = kept
    monkeypatch.setattr(sys.modules[__name__], "FACTOR", 3)
    with pytest.raises(AssertionError, match="made again"):
        own(folder)


def test_features_of_a_map_whose_content_cannot_be_seen_are_not_kept(tmp_path):
    scripted = torch.jit.script(torch.nn.Flatten())
    assert own(tmp_path, features=lambda x: scripted(x)).num_features == 216
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("damage", ["cut", "flip", "empty", "text"])
def test_a_damaged_cache_is_made_anew(kept, damage, monkeypatch):
    data, folder = kept
    (path,) = folder.iterdir()
    content = bytearray(path.read_bytes())
    content[-20] ^= 64
    path.write_bytes({"cut": content[:-9], "flip": content, "empty": b"", "text": b"nothing"}[damage])
    monkeypatch.delenv(SPENT)
    assert own(folder).digest == data.digest
    monkeypatch.setenv(SPENT, "1")
    assert own(folder).digest == data.digest  # the file is whole again


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_takes_no_files(tmp_path):
    tmp_path.chmod(0o500)
    with pytest.warns(UserWarning, match="cannot be written"):
        own(tmp_path / "features")


def test_a_folder_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.warns(UserWarning, match="cannot be written"):
        assert own(tmp_path / "file").num_features == 216


def test_settings_find_their_features_in_the_datas_folder(tmp_path):
    exp = MAPPED.override({"data.root": str(tmp_path)})
    data = load_data(exp)
    assert load_data(exp).digest == data.digest
    assert [path.name[:17] for path in (tmp_path / "features").iterdir()] == ["digits-scattering"]
    load_data(exp.override({"features.scattering_angles": 8}))
    assert len(list((tmp_path / "features").iterdir())) == 2
    load_data(exp.override({"data.root": str(tmp_path / "missing")}))
    assert not (tmp_path / "missing").exists()


def test_colours_of_any_layout():
    last = FederatedData.from_arrays(PIXELS, LABELS, PIXELS, LABELS, clients=3, features="scattering")
    first = FederatedData.from_arrays(
        PIXELS.transpose(0, 3, 1, 2), LABELS, PIXELS.transpose(0, 3, 1, 2), LABELS, clients=3, features="scattering"
    )
    assert last.input_shape == first.input_shape == (9, 8, 3)
    assert first.digest == last.digest
    assert last.num_features == 3 * 49 * 2 * 2
    gray = FederatedData.from_arrays(PIXELS[..., :1], LABELS, PIXELS[..., :1], LABELS, clients=3)
    assert gray.input_shape == (9, 8)


def test_a_trigger_on_a_pixel_changes_its_colours_alike():
    exp = Experiment().override(
        {"data.name": "custom", "data.clients": 3, "attack.trigger": [[2, 5]], "attack.magnitude": 0.3}
    )
    data = FederatedData.from_arrays(PIXELS // 2, LABELS, PIXELS // 2, LABELS, clients=3)
    change = (crfl.backdoored(exp, data).x - data.test.x).view(-1, 9, 8, 3)
    torch.testing.assert_close(change[:, 2, 5], torch.full((60, 3), 0.3 / 3**0.5))
    change[:, 2, 5] = 0
    assert not change.any()


def test_tables_are_standardised_and_whitened_too(tmp_path):
    loan_files.write(tmp_path / "loan.csv", rows=600)
    exp = Experiment().override(
        {
            "data": {"name": "loan", "partition": "natural", "clients": 5, "root": str(tmp_path)},
            "features": {"public": 60, "whiten": 8, "norm": 1.0},
            "local.batch_size": 2,
            "attack.trigger": ["num_tl_120dpd_2m"],
        }
    )
    data = load_data(exp)
    assert (data.num_features, data.num_inputs, data.public_samples) == (8, 90, 60)
    assert torch.equal(load_data(exp).test.x, data.test.x)
    torch.testing.assert_close(data.map_inputs(data.test_inputs[:5]), data.test.x[:5], rtol=0, atol=1e-6)
    owners = torch.cat([*data.shards, data.public_rows, data.test.rows])
    assert len(owners.unique()) == len(owners)
    assert not torch.equal(crfl.backdoored(exp, data).x, data.test.x)


def test_features_are_given_in_one_way():
    whole = Features(map="scattering", norm=1.0)
    data = FederatedData.from_arrays(PIXELS, LABELS, PIXELS, LABELS, clients=3, features=whole)
    assert data.feature_map.settings == whole
    with pytest.raises(SettingsError, match="the one or the other"):
        FederatedData.from_arrays(PIXELS, LABELS, PIXELS, LABELS, clients=3, features=whole, norm=2.0)
    with pytest.raises(SettingsError, match="features: got int, expected a name"):
        FederatedData.from_arrays(PIXELS, LABELS, PIXELS, LABELS, clients=3, features=7)
    with pytest.raises(
        SettingsError, match=r"features.map: got 'scatter', expected one of: none, scattering, scattering_yuv"
    ):
        FederatedData.from_arrays(PIXELS, LABELS, PIXELS, LABELS, clients=3, features="scatter")


def test_a_registered_map_by_name_in_the_settings(monkeypatch):
    monkeypatch.setitem(FEATURE_MAPS, "squares", lambda x: x.flatten(1) ** 2)
    data = load_data(Experiment().override({"features.map": "squares"}))
    torch.testing.assert_close(data.test.x, data.test_inputs**2)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features.whiten": 19}, "features.whiten: got 19, expected 20, as in the data"),
        ({"features.map": "none"}, "features.map: got 'none', expected 'scattering'"),
        ({"features": {"map": "none", "public": 0, "whiten": None, "norm": None}}, "features.map: got 'none'"),
        ({"data.clients": 5}, "data.clients: got 5, expected 10"),
        ({"data.name": "mnist"}, "data.name: got 'mnist', expected 'digits'"),
        ({"data.partition": "dirichlet"}, "data.partition: got 'dirichlet', expected 'iid'"),
        ({"data.clients": list("abcdefghij")}, r"data.clients: got \['a', .*expected \['client 0'"),
    ],
)
def test_settings_that_contradict_the_data(digits, changes, message):
    check_fits(MAPPED, digits)
    with pytest.raises(DataError, match=message):
        check_fits(MAPPED.override(changes), digits)


def test_own_data_needs_settings_that_say_so():
    data = FederatedData.from_arrays(
        PIXELS, LABELS, PIXELS, LABELS, clients=3, partition="dirichlet", dirichlet_alpha=9.0, norm=1.0
    )
    exp = Experiment().override(
        {
            "data": {"name": "custom", "clients": 3, "partition": "dirichlet", "dirichlet_alpha": 9.0},
            "local.batch_size": 2,
        }
    )
    check_fits(exp, data)
    check_fits(exp.override({"features.norm": 1.0}), data)
    for change in (
        {"data.name": "digits"},
        {"data.partition": "iid"},
        {"data.dirichlet_alpha": 1.0},
        {"features.norm": 2.0},
        {"local.learning_rate": [0.1] * 3, "data.clients": 3},
    ):
        if "local.learning_rate" in change:
            check_fits(exp.override(change), data)
        else:
            with pytest.raises(DataError, match=f"{next(iter(change))}: got"):
                check_fits(exp.override(change), data)
