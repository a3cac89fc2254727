"""Small LendingClub files for the tests, and a reference reader that is plain Python."""

import csv
import importlib.util
import io
import math
from pathlib import Path

import numpy as np

from crfl.data.loan.schema import CATEGORICAL, CLIENT, FEATURES, LABEL, LABELS, STATES

SIX_MORE = "fico_range_low fico_range_high last_fico_range_high last_fico_range_low sec_app_fico_range_low "
SIX_MORE = (SIX_MORE + "sec_app_fico_range_high").split()
_path = Path(__file__).parents[2] / "benchmarks" / "synthetic_loan.py"
_spec = importlib.util.spec_from_file_location("synthetic_loan", _path)
synthetic_loan = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(synthetic_loan)


def write(path, rows=60, seed=0):
    """A file of 145 columns, and its records as lists of words, the header first."""
    synthetic_loan.write_loans(path, rows, seed)
    return records_of(path.read_bytes())


def records_of(content):
    return list(csv.reader(io.StringIO(content.decode("utf-8-sig", "surrogateescape"), newline="")))


def to_bytes(records):
    out = io.StringIO(newline="")
    csv.writer(out, lineterminator="\n").writerows(records)
    return out.getvalue().encode()


def with_six_more(records):
    """The same loans in the 151-column schema."""
    return [[*row, *(SIX_MORE if i == 0 else ["700"] * 6)] for i, row in enumerate(records)]


def reference(content):
    """Features, label names and states as plain Python makes them; ValueError if the file is not a clean table."""
    header, *rows = [row for row in records_of(content) if row]
    if any(len(row) != len(header) for row in rows):
        raise ValueError("field count")
    columns = {name: [row[i] for row in rows] for i, name in enumerate(header)}
    x = np.empty((len(rows), len(FEATURES)), dtype=np.float32)
    for j, name in enumerate(FEATURES):
        words = [" ".join(word.split()) for word in columns[name]]
        if name in CATEGORICAL:
            seen = list(dict.fromkeys(words))
            x[:, j] = [seen.index(word) / len(seen) for word in words]
        else:
            values = np.array([float(word or 0) for word in words])
            values[np.isnan(values)] = 0.0
            span = values.max() - values.min()
            if not math.isfinite(span):
                raise ValueError("not finite")
            x[:, j] = (values - values.min()) / (span or 1.0)
    labels = [LABELS.index(" ".join(word.split())) for word in columns[LABEL]]
    states = [STATES.index(word.strip()) for word in columns[CLIENT]]
    return x, labels, states
