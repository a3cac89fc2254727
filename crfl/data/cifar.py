"""CIFAR-10 in its binary version: read from a folder, downloaded if it is not there. Nothing is unpickled."""

from __future__ import annotations

import os
import tempfile
from functools import lru_cache
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from crfl.data.splits import Split
from crfl.errors import DataError

SCALE = 1 / 255
"""Colours are 0 .. 255; inputs are colour / 255."""
INPUT_SHAPE = (32, 32, 3)
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
FOLDER = "cifar-10-batches-bin"
TRAINING = tuple(f"data_batch_{i}.bin" for i in range(1, 6))
TEST = "test_batch.bin"

_URL, _MD5 = "https://www.cs.toronto.edu/~kriz/cifar-10-binary.tar.gz", "c32a1d4ab5d03f1284b67883e8d87530"
_RECORD = 1 + 3072
"""Bytes of an image: its label, then the red, green and blue planes."""
_ADVICE = (
    f"Without a network, unpack {_URL} into FOLDER, so that it holds {FOLDER}/{TEST}, and name FOLDER by the setting "
    "data.root or the environment variable CRFL_DATA_DIR (default ./data)."
)


def load_cifar10(root: Path, download: bool = True) -> tuple[Tensor, Tensor, Split]:
    """CIFAR-10 as pixels. Reads `root`/cifar-10-batches-bin.

    A row is an image (32, 32, 3): pixel after pixel, row by row, red, green and blue of each. Whichever of the five
    training files are there are the training samples.

    Args:
        root: Folder of the data.
        download: Whether to download what is missing.

    Returns:
        Training pixels (50000, 3072) uint8, labels (50000,) int64, and the test split of 10,000 in [0, 1].

    Raises:
        DataError: If files are missing and cannot be downloaded, or are not what they should be; says what to do.

    Example:
        >>> load_cifar10(Path("nowhere"), download=False)
        Traceback (most recent call last):
        crfl.errors.DataError: cifar10: nowhere/cifar-10-batches-bin lacks data_batch_1.bin or test_batch.bin. ...
    """
    folder = root / FOLDER
    if not (any((folder / name).is_file() for name in TRAINING) and (folder / TEST).is_file()):
        if not download:
            raise DataError(f"cifar10: {folder} lacks {TRAINING[0]} or {TEST}. {_ADVICE}")
        _download(root)
    files = tuple(folder / name for name in (*TRAINING, TEST) if (folder / name).is_file())
    return _parts(files, tuple(t for file in files for t in (file.stat().st_mtime_ns, file.stat().st_ctime_ns)))


@lru_cache(maxsize=1)
def _parts(files: tuple[Path, ...], stamps: tuple[int, ...]) -> tuple[Tensor, Tensor, Split]:
    """Both parts, kept for the next partition of the same files (told by their times)."""
    *training, test = map(_read, files)
    x, y = torch.cat([x for x, _ in training]), torch.cat([y for _, y in training])
    return x, y, Split(test[0].float().mul_(SCALE), test[1])


def _read(file: Path) -> tuple[Tensor, Tensor]:
    """Images (n, 3072) uint8, colours last, and labels (n,) int64 of one file."""
    try:
        content = np.fromfile(file, dtype=np.uint8)
    except OSError as error:
        raise DataError(f"cifar10: {file} cannot be read ({error}). {_ADVICE}") from None
    if not len(content) or len(content) % _RECORD:
        raise DataError(
            f"cifar10: {file} has {len(content)} bytes, expected a multiple of {_RECORD}. Get the file anew. {_ADVICE}"
        )
    records = content.reshape(-1, _RECORD)
    if int(records[:, 0].max()) >= len(CLASSES):
        raise DataError(
            f"cifar10: {file} holds label {records[:, 0].max()}, expected 0 to 9. Get the file anew. {_ADVICE}"
        )
    planes = records[:, 1:].reshape(-1, 3, 32, 32)
    x = np.ascontiguousarray(planes.transpose(0, 2, 3, 1)).reshape(len(records), -1)
    return torch.from_numpy(x), torch.from_numpy(records[:, 0].astype(np.int64))


def _download(root: Path) -> None:
    """Download into a folder beside the target and move it there when it is complete."""
    from torchvision.datasets.utils import download_and_extract_archive  # here, because it is slow to import

    try:
        root.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".download-", dir=root) as partial:
            download_and_extract_archive(_URL, partial, md5=_MD5)
            (root / FOLDER).mkdir(exist_ok=True)
            for name in (*TRAINING, TEST):
                os.replace(Path(partial) / FOLDER / name, root / FOLDER / name)
    except (OSError, RuntimeError, ValueError, EOFError) as error:
        raise DataError(
            f"cifar10: {root / FOLDER} lacks the data set and downloading failed ({error}). {_ADVICE}"
        ) from error
