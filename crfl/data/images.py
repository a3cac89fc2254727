"""MNIST, EMNIST (ByMerge) and CIFAR-10: read from a folder, downloaded through torchvision if they are not there."""

from __future__ import annotations

import math
import os
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from crfl.data.splits import Split
from crfl.errors import DataError

SCALE = 1 / 255
"""Pixels are 0 .. 255; features are pixel / 255."""
IMAGE_SHAPE = (28, 28)
EMNIST_CLASSES = tuple("0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabdefghnqrt")
"""ByMerge's 47 classes in label order: letters whose cases look alike share the capital's class."""

_FILES = {
    "mnist": ("train-images-idx3", "train-labels-idx1", "t10k-images-idx3", "t10k-labels-idx1"),
    "emnist": tuple(
        f"emnist-bymerge-{part}"
        for part in ("train-images-idx3", "train-labels-idx1", "test-images-idx3", "test-labels-idx1")
    ),
}


def load_mnist(root: Path, download: bool = True) -> tuple[Tensor, Tensor, Split]:
    """MNIST as pixels. Reads `root`/MNIST/raw.

    Args:
        root: Folder of the data.
        download: Whether to download what is missing.

    Returns:
        Training pixels (60000, 784) uint8, labels (60000,) int64, and the test split of 10,000 in [0, 1].

    Raises:
        DataError: If files are missing and cannot be downloaded, or are not what they should be; says what to do.

    Example:
        >>> load_mnist(Path("nowhere"), download=False)
        Traceback (most recent call last):
        crfl.errors.DataError: mnist: nowhere/MNIST/raw/train-images-idx3-ubyte is missing. ...
    """
    return _load("mnist", root, download, classes=10)


def load_emnist(root: Path, download: bool = True) -> tuple[Tensor, Tensor, Split]:
    """EMNIST ByMerge as pixels. Reads `root`/EMNIST/raw.

    The official files hold every image transposed; here rows and columns are exchanged back, so that the images are
    upright.

    Args:
        root: Folder of the data.
        download: Whether to download what is missing.

    Returns:
        Training pixels (697932, 784) uint8, labels int64, and the test split of 116,323 in [0, 1].

    Raises:
        DataError: If files are missing and cannot be downloaded, or are not what they should be; says what to do.

    Example:
        >>> load_emnist(Path("nowhere"), download=False)
        Traceback (most recent call last):
        crfl.errors.DataError: emnist: nowhere/EMNIST/raw/emnist-bymerge-train-images-idx3-ubyte is missing. ...
    """
    return _load("emnist", root, download, classes=len(EMNIST_CLASSES))


def _load(name: str, root: Path, download: bool, classes: int) -> tuple[Tensor, Tensor, Split]:
    raw = root / name.upper() / "raw"
    missing = [file for file in _paths(name, raw) if not file.is_file()]
    if missing and not download:
        raise DataError(f"{name}: {missing[0]} is missing. {_advice(name)}")
    if missing:
        _download(name, raw)
    stamps = tuple(t for file in _paths(name, raw) for t in (file.stat().st_mtime_ns, file.stat().st_ctime_ns))
    return _parts(name, raw, classes, stamps)


@lru_cache(maxsize=1)
def _parts(name: str, raw: Path, classes: int, stamps: tuple[int, ...]) -> tuple[Tensor, Tensor, Split]:
    """Both parts, kept for the next partition of the same files (told by their times): sweeps share one copy."""
    x, y = _read(name, raw, classes, train=True)
    test_x, test_y = _read(name, raw, classes, train=False)
    return x, y, Split(test_x.float().mul_(SCALE), test_y)


def _read(name: str, raw: Path, classes: int, train: bool) -> tuple[Tensor, Tensor]:
    """Pixels (n, 784) uint8 and labels (n,) int64 of one part."""
    files = _paths(name, raw)[:2] if train else _paths(name, raw)[2:]
    try:
        images, labels = (torch.from_numpy(_idx(file, ndim)) for file, ndim in zip(files, (3, 1), strict=True))
    except (OSError, ValueError) as error:
        problem = f"cannot be read ({error})"
    else:
        if images.shape[1:] != IMAGE_SHAPE or len(images) != len(labels) or not len(labels):
            problem = (
                f"holds images of shape {tuple(images.shape)} and {len(labels)} labels, expected images of 28 x 28 "
                "pixels, one label an image"
            )
        elif int(labels.max()) >= classes:
            problem = f"holds labels {int(labels.min())} to {int(labels.max())}, expected 0 to {classes - 1}"
        else:
            if name == "emnist":
                for block in images.split(4096):  # turned in place: a second copy would be 550 MB
                    block.copy_(block.mT.clone())
            return images.flatten(1), labels.long()
    part = "training" if train else "test"
    raise DataError(f"{name}: the {part} part in {raw} {problem}. Delete that folder. {_advice(name)}")


def _idx(file: Path, ndim: int) -> npt.NDArray[np.uint8]:
    """The bytes of an IDX file of `ndim` dimensions, shaped. ValueError if it is anything else, shorter or longer.

    torchvision reads such files too, but importing it takes two seconds and 160 MB.
    """
    size, start = file.stat().st_size, 4 + 4 * ndim
    with file.open("rb") as content:
        header = content.read(start)
    magic = bytes([0, 0, 8, ndim])  # 8: unsigned bytes
    if header[:4] != magic:
        raise ValueError(f"{file.name} begins with {header[:4].hex(' ') or 'nothing'}, expected {magic.hex(' ')}")
    shape = [int.from_bytes(header[i : i + 4], "big") for i in range(4, start, 4)]
    if size != start + math.prod(shape):
        raise ValueError(f"{file.name} has {size} bytes, expected {start + math.prod(shape)} by its header")
    return np.fromfile(file, dtype=np.uint8, offset=start).reshape(shape)


def _download(name: str, raw: Path) -> None:
    """Download into a folder beside the target and move the finished files, so that no half-written file is read."""
    try:
        root = raw.parent.parent
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as partial:
            _fetch(name, Path(partial))
            raw.mkdir(parents=True, exist_ok=True)
            for file in _paths(name, Path(partial) / name.upper() / "raw"):
                os.replace(file, raw / file.name)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise DataError(
            f"{name}: {raw} lacks the data set and downloading failed ({error}). {_advice(name)}"
        ) from error


def _fetch(name: str, root: Path) -> None:
    from torchvision import datasets  # here, because it is slow to import

    if name == "mnist":
        datasets.MNIST(root, download=True)
    else:
        datasets.EMNIST(root, split="bymerge", download=True)


def _paths(name: str, raw: Path) -> list[Path]:
    return [raw / f"{file}-ubyte" for file in _FILES[name]]


def _advice(name: str) -> str:
    where = {
        "mnist": "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "emnist": "https://www.nist.gov/itl/products-and-services/emnist-dataset",
    }
    files = ", ".join(file.name for file in _paths(name, Path()))
    return (
        f"Without a network, put the unpacked files of {where[name]} ({files}) into FOLDER/{name.upper()}/raw "
        "and name FOLDER by the setting data.root or the environment variable CRFL_DATA_DIR (default ./data)."
    )
