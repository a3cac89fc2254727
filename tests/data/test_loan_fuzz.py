"""Fuzzed CSVs: whatever is done to the file, it is refused by the library's own error or read right."""

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from crfl.data.loan.schema import CATEGORICAL, CLIENT, FEATURES, LABEL, WORDS
from crfl.data.loan.table import read_table
from crfl.errors import DataError
from tests.data import loan_files

NEEDED = {LABEL, CLIENT, *FEATURES}
pytestmark = pytest.mark.filterwarnings("error")
fuzz = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


@pytest.fixture(scope="module")
def file(tmp_path_factory):
    return tmp_path_factory.mktemp("fuzz") / "loan.csv"


@pytest.fixture(scope="module")
def records(file):
    return loan_files.write(file, rows=30)


def read(file, content):
    """The table of the content, or None if it is refused; anything but DataError is a failure."""
    file.write_bytes(content)
    try:
        return read_table(file)
    except DataError:
        return None


def assert_right(table, content):
    x, labels, states = loan_files.reference(content)
    np.testing.assert_array_equal(table.x, x)
    assert table.y.tolist() == labels
    assert table.state.tolist() == states


@fuzz
@given(st.data())
def test_dropped_renamed_and_duplicated_columns(file, records, data):
    header = records[0]
    column = data.draw(st.integers(0, len(header) - 1))
    how = data.draw(st.sampled_from(["drop", "rename", "duplicate"]))
    if how == "drop":
        changed = [row[:column] + row[column + 1 :] for row in records]
    elif how == "rename":
        new = data.draw(st.text(max_size=12))
        changed = [[new if i == column else name for i, name in enumerate(header)], *records[1:]]
    else:
        to = data.draw(st.integers(0, len(header)))
        changed = [[*row[:to], row[column], *row[to:]] for row in records]
    content = loan_files.to_bytes(changed)
    table = read(file, content)
    needed = header[column] in NEEDED or (how == "rename" and new in NEEDED)
    if needed and not (how == "rename" and new == header[column]):
        assert table is None
    if table is not None:
        assert_right(table, loan_files.to_bytes(records))


@fuzz
@given(st.randoms(use_true_random=False))
def test_reordered_columns_give_the_same_features(file, records, random):
    order = list(range(len(records[0])))
    random.shuffle(order)
    table = read(file, loan_files.to_bytes([[row[i] for i in order] for row in records]))
    assert table is not None
    assert_right(table, loan_files.to_bytes(records))


@fuzz
@given(st.floats(0, 1))
def test_a_file_cut_off_anywhere(file, records, share):
    content = loan_files.to_bytes(records)
    cut = content[: int(share * len(content))]
    table = read(file, cut)
    if table is not None:
        assert_right(table, cut)


@fuzz
@given(st.data())
def test_inserted_replaced_and_deleted_bytes(file, records, data):
    content = bytearray(loan_files.to_bytes(records))
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(content) - 1))
        piece = data.draw(
            st.sampled_from([b'"', b",", b"\n", b"\r", b"", b"\x00", b"\xff", b"'", b'""', b'",', b"7", b"x"])
        )
        content[place : place + data.draw(st.integers(0, 1))] = piece
    table = read(file, bytes(content))
    if table is not None:
        assert_right(table, bytes(content))


ODD = "|n/a|NaN|36 months|1,234|12%|$5|1e3|-0|TRUE|Jan-2015|inf| 7 |B4|B|OWN".split("|")
WORD = st.one_of(st.sampled_from(ODD), st.floats().map(str), st.text(st.characters(codec="utf-8"), max_size=8))


@fuzz
@given(row=st.integers(1, 30), name=st.sampled_from(sorted(NEEDED)), word=WORD)
def test_any_cell_may_hold_anything(file, records, row, name, word):
    changed = [list(r) for r in records]
    changed[row][records[0].index(name)] = word
    content = loan_files.to_bytes(changed)
    table = read(file, content)
    if table is None:
        return
    missing = word in ("n/a", "NaN", "nan", "NA", "null", "NULL", "None")
    changed[row][records[0].index(name)] = "" if missing else word
    assert_right(table, loan_files.to_bytes(changed))
    assert name not in CATEGORICAL or missing or not any(c.isdigit() for c in word) or name in WORDS


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-le", "utf-32", "cp500"])
def test_other_encodings_are_refused(file, records, encoding):
    assert read(file, loan_files.to_bytes(records).decode().encode(encoding)) is None


def test_latin_1_matters_only_in_columns_that_are_read(file, records):
    def with_word(name):
        changed = [list(row) for row in records]
        changed[7][records[0].index(name)] = "Café"
        return loan_files.to_bytes(changed).decode().encode("latin-1")

    table = read(file, with_word("emp_title"))
    assert_right(table, loan_files.to_bytes(records))
    file.write_bytes(with_word("purpose"))
    with pytest.raises(DataError, match=r"row 8, column purpose: got 'Caf\?', expected words"):
        read_table(file)
