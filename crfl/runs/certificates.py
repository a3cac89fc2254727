"""Certificates and votes on disk, listed in the manifest of their run."""

from __future__ import annotations

import io
import json
import math
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from crfl.certification.smoothing import VoteCounts
from crfl.config import Experiment
from crfl.errors import DamagedFileError, StoreError
from crfl.files import pack_tensors, parse_json, read_tensors, unpack_tensors, write_atomic
from crfl.runs.folder import WAIT, open_run
from crfl.runs.lock import folder_lock
from crfl.runs.manifest import add_files
from crfl.runs.one_model import versions

if TYPE_CHECKING:
    import pandas as pd

    from crfl.certification.certificate import Certificate

PLACE = "certificates"


def save_certificate(
    folder: str | Path, name: str, certificate: Certificate, labels: Tensor, exp: Experiment | None = None
) -> None:
    """Write certificates/<name>.csv (a row a certified sample, with its label), .json (assumptions) and the votes.

    Args:
        folder: Of a finished run.
        name: Of the certificate: letters, digits, "-", "_" and ".". One of the same name is replaced.
        certificate: What to write.
        labels: Of the whole test set, (m,).
        exp: The settings under which it was issued, for the JSON file.

    Raises:
        StoreError: if the folder holds no finished run, or the name is none for a file.

    Example:
        >>> import crfl, tempfile
        >>> exp = crfl.Experiment().override({"server.rounds": 3, "attack.round": 2, "smoothing.samples": 50})
        >>> run = crfl.train(exp, data := crfl.load_data(exp))
        >>> cert = crfl.certify(run, data.test, kind="distance")
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     crfl.save_run(folder, run)
        ...     save_certificate(folder, "mine", cert, data.test.y, exp)
        ...     frame, about = load_certificates(folder)["mine"]
        ...     votes = load_certificate_votes(folder, "mine")
        >>> len(frame), about["kind"], votes.samples
        (397, 'distance', 50)
    """
    folder = Path(folder)
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}", name):
        raise StoreError(f"certificate: got the name {name!r}, expected letters, digits, '-', '_' and '.'")
    frame = certificate.to_frame()
    frame.insert(1, "label", labels.numpy()[certificate.indices])
    bounds, votes = getattr(certificate, "bounds", None), getattr(certificate, "votes", None)
    about = {
        "kind": certificate.kind,
        "label": certificate.label,
        "strength": certificate.strength_name,
        "strength_label": certificate.strength_label,
        "statement": certificate.guarantee.statement,
        "bounds": bounds and bounds.method,
        "critical": certificate.critical if math.isfinite(certificate.critical) else "inf",
        "assumptions": list(certificate.assumptions),
        "warnings": list(certificate.warnings),
        "seed": exp and exp.seed,
        "smoothing": exp and exp.smoothing.to_dict(),
        "crfl": versions()["crfl"],
    }
    files: dict[str, str | bytes] = {
        f"{PLACE}/{name}.csv": frame.to_csv(index=False),
        f"{PLACE}/{name}.json": json.dumps(about, indent=2, allow_nan=False) + "\n",
    }
    if votes is not None:
        files[f"{PLACE}/{name}.votes.safetensors"] = pack_votes(votes)
    open_run(folder)  # before a folder is made
    with folder_lock(folder, wait=WAIT):
        add_files(folder, files)


def load_certificates(folder: str | Path) -> dict[str, tuple[pd.DataFrame, dict[str, Any]]]:
    """The certificates saved with a run. `save_certificate` has an example.

    Args:
        folder: Of a finished run.

    Returns:
        By name, the rows of the certified samples and what the certificate rests on.

    Raises:
        DamagedFileError: if one of them is not what was written. Files that the manifest does not list are left out.
    """
    import pandas as pd

    files = open_run(Path(folder))
    found = {}
    for path in files.under(PLACE):
        if path.endswith(".csv"):
            name = path.removeprefix(f"{PLACE}/").removesuffix(".csv")
            about = f"{PLACE}/{name}.json"
            frame = pd.read_csv(io.BytesIO(files.read(path)))
            found[name] = frame, parse_json(files.read(about), files.folder / about)
    return found


def load_certificate_votes(folder: str | Path, name: str) -> VoteCounts:
    """The votes behind a certificate saved with a run. `save_certificate` has an example.

    Args:
        folder: Of a finished run.
        name: Of the certificate.

    Returns:
        The votes, the same that were counted.

    Raises:
        DamagedFileError: they are not what was written, or there are none.
    """
    files, path = open_run(Path(folder)), f"{PLACE}/{name}.votes.safetensors"
    return _votes(*unpack_tensors(files.read(path), files.folder / path), files.folder / path)


def pack_votes(votes: VoteCounts) -> bytes:
    """Votes as the bytes of a safetensors file: the counts (m, C) with the number of models and the noise.

    Args:
        votes: Of `smooth`.

    Returns:
        What `load_votes` reads.
    """
    return pack_tensors({"counts": torch.from_numpy(votes.counts)}, samples=votes.samples, noise=votes.noise)


def save_votes(path: Path, votes: VoteCounts) -> None:
    """Write votes into a file of their own, whole or not at all.

    Args:
        path: Of the file.
        votes: Of `smooth`.

    Example:
        >>> import tempfile
        >>> import numpy as np
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     save_votes(Path(folder) / "votes", VoteCounts(np.array([[90, 10]]), samples=100, noise=0.01))
        ...     load_votes(Path(folder) / "votes").counts
        array([[90, 10]])
    """
    write_atomic(path, pack_votes(votes))


def load_votes(path: Path) -> VoteCounts:
    """The votes that `save_votes` wrote; it has an example.

    Args:
        path: Of the file.

    Returns:
        The votes.

    Raises:
        DamagedFileError: The file is not what was written, or not there.
    """
    return _votes(*read_tensors(path), path)


def _votes(tensors: dict[str, Tensor], about: dict[str, Any], path: Path) -> VoteCounts:
    if about.keys() != {"samples", "noise"} or tensors.keys() != {"counts"}:
        raise DamagedFileError(
            f"{path}: got {sorted({*tensors, *about})}, expected the votes of a run: counts, samples and noise"
        )
    return VoteCounts(tensors["counts"].numpy(), int(about["samples"]), float(about["noise"]))
