"""load_data: digits, and images from folders that are there, missing or broken."""

import gzip
import os
import subprocess
import sys
import threading
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import pytest
import torch

from crfl.config import Experiment
from crfl.data import images, load_data
from crfl.errors import DataError

CONFIGS = Path(__file__).parents[2] / "configs"


def idx(array):
    """An array of bytes as an IDX file."""
    return bytes([0, 0, 8, array.ndim]) + b"".join(n.to_bytes(4, "big") for n in array.shape) + array.tobytes()


def write_images(root, name, classes, train=60, test=20):
    random = np.random.default_rng(0)
    raw = root / name.upper() / "raw"
    raw.mkdir(parents=True)
    arrays = {}
    parts = {"mnist": ("train", "t10k"), "emnist": ("emnist-bymerge-train", "emnist-bymerge-test")}[name]
    for part, count in zip(parts, (train, test), strict=True):
        arrays[f"{part}-images-idx3"] = random.integers(0, 256, (count, 28, 28), dtype=np.uint8)
        arrays[f"{part}-labels-idx1"] = random.integers(0, classes, count, dtype=np.uint8)
    for file, array in arrays.items():
        (raw / f"{file}-ubyte").write_bytes(idx(array))
    return list(arrays.values())


def settings(root, name="mnist", **changes):
    return Experiment().override({"data.name": name, "data.root": root and str(root), "local.batch_size": 5, **changes})


def test_the_default_config_is_the_default():
    assert Experiment.from_yaml(CONFIGS / "digits.yaml") == Experiment()


@pytest.mark.parametrize("path", sorted(CONFIGS.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_config_is_valid(path):
    exp = Experiment.from_yaml(path)
    assert exp.data.name in path.stem
    assert exp.server.noise == exp.smoothing.noise == 0.01


def test_the_papers_clip_norms_in_the_attack_round():
    norms = {name: Experiment.from_yaml(CONFIGS / f"{name}.yaml") for name in ("mnist", "emnist", "loan")}
    assert {n: round(e.server.clip.norm(e.attack.round), 9) for n, e in norms.items()} == {
        "mnist": 3.0,
        "emnist": 6.5,
        "loan": 2.15,
    }


def test_digits():
    data = load_data(Experiment())
    assert data.x.shape == (1400, 64)
    assert data.sizes == (140,) * 10
    assert len(data.test) == 397
    assert data.input_shape == (8, 8)
    assert float(data.test.x.max()) == 1.0
    assert torch.equal(data.features(torch.tensor([0])) * 16, data.x[:1].float())
    other = load_data(Experiment(seed=1))
    assert torch.equal(other.test.x, data.test.x)  # one test set for all seeds
    assert not torch.equal(other.shards[0], data.shards[0])
    rows = {tuple(row) for row in data.x.tolist()} & {tuple(row) for row in (data.test.x * 16).int().tolist()}
    assert not rows  # no image is in both


def test_mnist_from_a_folder(tmp_path, monkeypatch):
    x, y, test_x, test_y = write_images(tmp_path, "mnist", 10)
    data = load_data(settings(tmp_path), download=False)
    np.testing.assert_array_equal(data.x, x.reshape(60, 784))
    np.testing.assert_array_equal(data.y, y)
    np.testing.assert_allclose(data.test.x, test_x.reshape(20, 784) / 255, rtol=1e-6)
    np.testing.assert_array_equal(data.test.y, test_y)
    assert data.sizes == (6,) * 10
    monkeypatch.setenv("CRFL_DATA_DIR", str(tmp_path))
    assert torch.equal(load_data(settings(None), download=False).x, data.x)


def test_emnist_is_upright(tmp_path):
    x, *_ = write_images(tmp_path, "emnist", 47)
    data = load_data(settings(tmp_path, "emnist"), download=False)
    np.testing.assert_array_equal(data.x.view(60, 28, 28), x.transpose(0, 2, 1))
    assert data.num_classes == len(data.class_names) == 47


def test_dirichlet_partition_by_settings(tmp_path):
    write_images(tmp_path, "mnist", 10)
    exp = settings(tmp_path, **{"data.partition": "dirichlet", "data.dirichlet_alpha": 50.0, "local.batch_size": 1})
    assert sum(load_data(exp).sizes) == 60


def spoiled(content):
    """Ways to spoil the IDX file of 60 images, and what is said of each."""
    size = 16 + 60 * 28 * 28
    return {
        "cut": (content[:5000], f"train-images-idx3-ubyte has 5000 bytes, expected {size} by its header"),
        "cut in the header": (content[:13], "train-images-idx3-ubyte has 13 bytes, expected 16 by its header"),
        "trailing byte": (content + b"\0", f"train-images-idx3-ubyte has {size + 1} bytes, expected {size} by"),
        "empty": (b"", "train-images-idx3-ubyte begins with nothing, expected 00 00 08 03"),
        "text": (b"<html>not found</html>", "train-images-idx3-ubyte begins with 3c 68 74 6d, expected 00 00 08 03"),
        "compressed": (gzip.compress(content), "train-images-idx3-ubyte begins with 1f 8b 08 00"),
        "signed bytes": (b"\0\0\x09\3" + content[4:], "begins with 00 00 09 03, expected 00 00 08 03"),
        "floats": (b"\0\0\x0d\3" + content[4:], "begins with 00 00 0d 03, expected 00 00 08 03"),
        "labels": (idx(np.zeros(60, dtype=np.uint8)), "begins with 00 00 08 01, expected 00 00 08 03"),
        "little-endian": (
            content[:4] + np.array([60, 28, 28], dtype="<u4").tobytes() + content[16:],
            "bytes, expected",
        ),
        "huge": (content[:4] + b"\xff" * 12 + content[16:], f"bytes, expected {16 + (2**32 - 1) ** 3} by its header"),
        "other size": (idx(np.zeros((60, 28, 27), dtype=np.uint8)), r"shape \(60, 28, 27\) and 60 labels"),
        "no images": (idx(np.zeros((0, 28, 28), dtype=np.uint8)), r"shape \(0, 28, 28\) and 60 labels"),
    }


@pytest.mark.parametrize("damage", spoiled(b""))
def test_broken_images_are_named(tmp_path, damage):
    write_images(tmp_path, "mnist", 10)
    file = tmp_path / "MNIST" / "raw" / "train-images-idx3-ubyte"
    content, said = spoiled(file.read_bytes())[damage]
    file.write_bytes(content)
    with pytest.raises(DataError, match=rf"mnist: the training part in .*raw .*{said}.*Delete that.*CRFL_DATA_DIR"):
        load_data(settings(tmp_path), download=False)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        (np.zeros(19), r"images of shape \(20, 28, 28\) and 19 labels, expected .* one label an image"),
        (np.full(20, 10), "labels 10 to 10, expected 0 to 9"),
        (np.zeros((20, 1)), "t10k-labels-idx1-ubyte begins with 00 00 08 02, expected 00 00 08 01"),
    ],
)
def test_broken_labels_are_named(tmp_path, labels, said):
    write_images(tmp_path, "mnist", 10)
    (tmp_path / "MNIST" / "raw" / "t10k-labels-idx1-ubyte").write_bytes(idx(labels.astype(np.uint8)))
    with pytest.raises(DataError, match=rf"mnist: the test part in .*raw .*{said}.*Delete that.*CRFL_DATA_DIR"):
        load_data(settings(tmp_path), download=False)


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    """A folder from which torchvision downloads MNIST, through a server on this machine."""
    from torchvision import datasets

    folder = tmp_path / "mirror"
    write_images(tmp_path / "source", "mnist", 10)
    folder.mkdir()
    for file in sorted((tmp_path / "source" / "MNIST" / "raw").iterdir()):
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(file.read_bytes()))

    class Files(SimpleHTTPRequestHandler):
        def __init__(self, *args):
            super().__init__(*args, directory=folder)

        def log_message(self, *args):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Files) as server:
        threading.Thread(target=server.serve_forever).start()
        monkeypatch.setenv("no_proxy", "*")
        monkeypatch.setattr(datasets.MNIST, "mirrors", [f"http://127.0.0.1:{server.server_port}/"])
        monkeypatch.setattr(datasets.MNIST, "resources", [(file.name, None) for file in sorted(folder.iterdir())])
        yield folder
        server.shutdown()


def test_missing_files(tmp_path):
    with pytest.raises(DataError, match=r"mnist: .*train-images-idx3-ubyte is missing.*data\.root"):
        load_data(settings(tmp_path), download=False)


def test_a_broken_download_leaves_nothing_and_a_whole_one_is_read(tmp_path, mirror):
    first, _, third, _ = sorted(mirror.iterdir())
    target, whole = tmp_path / "target", third.read_bytes()
    third.write_bytes(whole[:100])
    with pytest.raises(DataError, match=r"downloading failed .*ended before"):
        load_data(settings(target))
    assert not list(target.iterdir())
    third.unlink()
    with pytest.raises(DataError, match=r"(?s)downloading failed .*File not found.*data\.root.*CRFL_DATA_DIR"):
        load_data(settings(target))
    third.write_bytes(whole)
    assert load_data(settings(target)).x.shape == (60, 784)
    assert sorted(p.name for p in target.iterdir()) == ["MNIST"]
    first.unlink()
    load_data(settings(target))  # nothing is downloaded again


def test_settings_that_do_not_suit_the_data(tmp_path):
    with pytest.raises(DataError, match=r"data.partition: got 'natural', expected for digits"):
        load_data(Experiment().override({"data.partition": "natural"}))
    with pytest.raises(DataError, match=r"data.clients: got \['CT'\], expected for digits: a number"):
        load_data(Experiment().override({"data.clients": ["CT"]}))
    with pytest.raises(DataError, match=r"client 0 has 14 training samples"):
        load_data(Experiment().override({"data.clients": 100}))
    with pytest.raises(DataError, match=r"data.name: got 'custom'.*from_arrays"):
        load_data(Experiment().override({"data.name": "custom"}))


def test_loading_images_and_training_on_them_imports_nothing_heavy(tmp_path):
    write_images(tmp_path, "mnist", 10)
    code = f"""
import sys, warnings, crfl
from crfl.errors import SanityWarning
warnings.simplefilter("ignore", SanityWarning)  # nothing can be learnt from random images
exp = crfl.Experiment().override({{"data.name": "mnist", "data.root": {str(tmp_path)!r}, "local.batch_size": 5}})
crfl.train(exp.override({{"attack.poisoned_per_batch": 1}}), crfl.load_data(exp, download=False))
print([m for m in ("sklearn", "torchvision", "pandas", "pyarrow") if m in sys.modules])
"""
    done = subprocess.run([sys.executable, "-W", "error", "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.data
@pytest.mark.skipif("CRFL_DATA_DIR" not in os.environ, reason="CRFL_DATA_DIR is not set")
@pytest.mark.parametrize("name", ["mnist", "emnist"])
def test_real_images(name):
    exp = Experiment.from_yaml(CONFIGS / f"{name}.yaml")
    data = load_data(exp, download=False)
    assert data.x.dtype == torch.uint8
    assert len(set(data.sizes)) == 1
    assert len(data.shards) == exp.data.clients
    assert set(data.y.unique().tolist()) == set(range(data.num_classes))
    if name == "mnist":
        assert data.sizes == (3000,) * 20
        assert data.max_feature_norm == pytest.approx(17.179045827)
    else:  # upright digits: a one is taller than wide
        ones = data.x[data.y == 1].view(-1, 28, 28).float()
        rows, columns = ones.sum(2).std(1).mean(), ones.sum(1).std(1).mean()
        assert columns > rows


@pytest.mark.data
@pytest.mark.skipif("CRFL_DATA_DIR" not in os.environ, reason="CRFL_DATA_DIR is not set")
@pytest.mark.parametrize("name", ["mnist", "emnist"])
def test_real_images_are_those_that_torchvision_reads(name):
    from torchvision import datasets

    root = Path(os.environ["CRFL_DATA_DIR"])
    load = {"mnist": images.load_mnist, "emnist": images.load_emnist}[name]
    x, y, test = load(root, download=False)
    for train in (True, False):
        split = {"split": "bymerge"} if name == "emnist" else {}
        theirs = getattr(datasets, name.upper())(root, train=train, **split)
        pixels = theirs.data.mT if name == "emnist" else theirs.data
        if train:
            assert torch.equal(x, pixels.flatten(1))
            assert torch.equal(y, theirs.targets)
        else:
            assert torch.equal(test.x, pixels.flatten(1).float() * images.SCALE)
            assert torch.equal(test.y, theirs.targets)


def write_cifar(root, records=(7, 5), test=6):
    """CIFAR-10 files of random pictures; returns the pictures (n, 3, 32, 32) and labels, file by file."""
    random = np.random.default_rng(0)
    folder = root / "cifar-10-batches-bin"
    folder.mkdir(parents=True)
    found = []
    for name, count in [(f"data_batch_{i + 1}.bin", n) for i, n in enumerate(records)] + [("test_batch.bin", test)]:
        pictures = random.integers(0, 256, (count, 3, 32, 32), dtype=np.uint8)
        labels = np.arange(count, dtype=np.uint8) % 10
        (folder / name).write_bytes(np.hstack([labels[:, None], pictures.reshape(count, -1)]).tobytes())
        found.append((pictures, labels))
    return found


def test_cifar10_from_a_folder(tmp_path):
    (first, y_first), (second, y_second), (held_out, y_test) = write_cifar(tmp_path)
    data = load_data(settings(tmp_path, "cifar10", **{"data.clients": 2}), download=False)
    pictures = np.concatenate([first, second]).transpose(0, 2, 3, 1)
    np.testing.assert_array_equal(data.x.view(12, 32, 32, 3), pictures)
    np.testing.assert_array_equal(data.y, np.concatenate([y_first, y_second]))
    np.testing.assert_allclose(data.test.x.view(6, 32, 32, 3), held_out.transpose(0, 2, 3, 1) / 255, rtol=1e-6)
    np.testing.assert_array_equal(data.test.y, y_test)
    assert data.input_shape == (32, 32, 3)
    assert (data.num_classes, data.class_names[:2], data.domain) == (10, ("airplane", "automobile"), (0.0, 1.0))


@pytest.mark.parametrize(
    ("name", "content", "said"),
    [
        ("data_batch_2.bin", bytes(3073 * 2 - 1), "data_batch_2.bin has 6145 bytes, expected a multiple of 3073"),
        ("test_batch.bin", b"", "test_batch.bin has 0 bytes"),
        ("data_batch_1.bin", b"\x0a" + bytes(3072), "data_batch_1.bin holds label 10, expected 0 to 9"),
        ("test_batch.bin", None, "lacks data_batch_1.bin or test_batch.bin"),
    ],
)
def test_broken_cifar10_is_named(tmp_path, name, content, said):
    write_cifar(tmp_path)
    file = tmp_path / "cifar-10-batches-bin" / name
    file.unlink() if content is None else file.write_bytes(content)
    with pytest.raises(DataError, match=f"cifar10: .*{said}.*CRFL_DATA_DIR"):
        load_data(settings(tmp_path, "cifar10", **{"data.clients": 2}), download=False)


@pytest.mark.data
@pytest.mark.skipif("CRFL_DATA_DIR" not in os.environ, reason="CRFL_DATA_DIR is not set")
def test_real_cifar10():
    exp = Experiment().override({"data.name": "cifar10", "data.clients": 20})
    data = load_data(exp, download=False)
    assert data.x.dtype == torch.uint8
    assert data.num_inputs == 3072
    assert set(data.y.unique().tolist()) == set(range(10))
    pictures = data.x.view(-1, 32, 32, 3).float()
    blue = {name: float(pictures[data.y == i, :8].mean((0, 1, 2))[2]) for i, name in enumerate(data.class_names)}
    assert min(blue["airplane"], blue["ship"]) > max(blue["frog"], blue["deer"])  # the sky is above, and blue
    beside = (pictures[:, :, 1:] - pictures[:, :, :-1]).abs().mean()
    assert beside < 0.5 * (pictures - pictures.roll(7, dims=2)).abs().mean()  # rows are rows
