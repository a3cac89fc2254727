"""LendingClub's CSV: the features are right, and bad files are named, row and column."""

import os
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from crfl.data.loan.schema import CATEGORICAL, CLIENT, FEATURES, LABEL, LABELS, NUMERIC, STATES
from crfl.data.loan.table import read_table
from crfl.errors import DataError
from tests.data import loan_files


@pytest.fixture
def file(tmp_path):
    return tmp_path / "loan.csv"


@pytest.fixture
def records(file):
    return loan_files.write(file)


def refused(file, records, message, **options):
    file.write_bytes(records if isinstance(records, bytes) else loan_files.to_bytes(records))
    with pytest.raises(DataError, match=message) as error:
        read_table(file, **options)
    assert str(error.value).startswith(str(file))


def cell(records, row, name, value):
    """The records with one cell changed; rows are numbered as in a spreadsheet, the header being row 1."""
    changed = [list(r) for r in records]
    changed[row - 1][records[0].index(name)] = value
    return changed


def plain_lines(records):
    """The lines of the file if no word needs quotes."""
    return loan_files.to_bytes([[re.sub('[\n",]', " ", word) for word in row] for row in records]).split(b"\n")


def test_the_schema():
    assert len(FEATURES) == len(set(FEATURES)) == 90
    assert len(NUMERIC) == 78
    assert set(FEATURES) >= CATEGORICAL
    assert len(LABELS) == 9
    assert len(set(STATES)) == 51
    assert len(loan_files.synthetic_loan.HEADER) == 145


@pytest.mark.parametrize("six_more", [False, True])
def test_features_equal_the_reference(file, records, six_more):
    content = loan_files.to_bytes(loan_files.with_six_more(records) if six_more else records)
    file.write_bytes(content)
    table = read_table(file)
    x, labels, states = loan_files.reference(content)
    np.testing.assert_array_equal(table.x, x)
    assert table.y.tolist() == labels
    assert table.state.tolist() == states
    assert table.x.dtype == np.float32
    assert (table.x.min(), table.x.max()) == (0.0, 1.0)
    assert table.footers == 0


def test_many_blocks_are_read_as_one(file):
    loan_files.write(file, rows=400)
    whole = read_table(file)
    parts = read_table(file, block_bytes=20_000)
    np.testing.assert_array_equal(parts.x, whole.x)
    np.testing.assert_array_equal(parts.y, whole.y)
    np.testing.assert_array_equal(parts.state, whole.state)


def test_words_are_numbered_from_0_in_order_of_appearance_and_nothing_is_a_word(file, records):
    records = records[:6]
    for row, word in zip(range(2, 7), ["RENT", "", "OWN", "RENT", ""], strict=True):
        records = cell(records, row, "home_ownership", word)
    records = cell(records, 2, "term", "36 months")  # without the space that the other copy has
    records = [
        cell(records, row, "term", " 36 months")[row - 1] if row > 2 else records[row - 1] for row in range(1, 7)
    ]
    file.write_bytes(loan_files.to_bytes(records))
    x = read_table(file).x
    np.testing.assert_array_equal(x[:, FEATURES.index("home_ownership")], np.float32([0, 1 / 3, 2 / 3, 0, 1 / 3]))
    assert not x[:, FEATURES.index("term")].any()


def test_missing_numbers_are_0_before_scaling_and_constants_become_0(file, records):
    records = records[:5]
    for row, word in zip(range(2, 6), ["-5", "", "15", "nan"], strict=True):
        records = cell(records, row, "dti", word)
    for row in range(2, 6):
        records = cell(records, row, "tax_liens", "7")
    file.write_bytes(loan_files.to_bytes(records))
    x = read_table(file).x
    np.testing.assert_array_equal(x[:, FEATURES.index("dti")], np.float32([0, 0.25, 1, 0.25]))
    assert not x[:, FEATURES.index("tax_liens")].any()


@pytest.mark.parametrize("padded", [True, False])
def test_footers_are_skipped_and_counted(file, records, padded):
    table = (file.write_bytes(loan_files.to_bytes(records)), read_table(file))[1]
    footers = [
        "Total amount funded in policy code 1: 460296150",
        "Total amount funded in policy code 2: 0",
        "Loans that do not meet the credit policy",
    ]
    lines = [[text] + [""] * (len(records[0]) - 1 if padded else 0) for text in footers]
    file.write_bytes(loan_files.to_bytes([*records[:20], *lines[:2], *records[20:], lines[2]]))
    with_footers = read_table(file)
    assert with_footers.footers == 3
    np.testing.assert_array_equal(with_footers.x, table.x)
    np.testing.assert_array_equal(with_footers.y, table.y)
    bad = [*records[:20], *lines[:2], *cell(records, 30, "dti", "much")[20:], lines[2]]
    refused(file, bad, "row 32, column dti: got invalid value 'much'")
    bad = [*records[:20], *lines[:2], *cell(records, 30, LABEL, "Paid")[20:], lines[2]]
    refused(file, bad, "row 32, column loan_status: got 'Paid'")


def test_rows_are_numbered_right_across_blocks(file):
    records = loan_files.write(file, rows=400)
    footer = ["Total amount funded in policy code 1: 460296150"]
    for name, value in ((LABEL, "Paid"), (CLIENT, "XX"), ("dti", "inf"), ("dti", "?"), ("grade", "B4")):
        bad = [*records[:100], footer, *cell(records, 390, name, value)[100:200], footer]
        bad += cell(records, 390, name, value)[200:]
        refused(file, bad, f"row 392, column {name}: got ", block_bytes=20_000)
    short = [*records[:100], footer, *records[100:300], records[300][:-1], *records[301:]]
    refused(file, short, "row 302: got 144 fields, expected 145", block_bytes=20_000)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        (LABEL, "Paid off", "row 5, column loan_status: got 'Paid off', expected one of Current, Fully Paid"),
        (LABEL, "", "row 5, column loan_status: got nothing"),
        (CLIENT, "Texas", "row 5, column addr_state: got 'Texas', expected one of the 50 states"),
        (CLIENT, "", "row 5, column addr_state: got nothing"),
        ("dti", "12%", "row 5, column dti: got invalid value '12%', expected a number or nothing"),
        ("annual_inc", "1,200", "row 5, column annual_inc: got invalid value '1,200'"),
        ("loan_amnt", " 36 months", "row 5, column loan_amnt"),
        ("revol_bal", "inf", "row 5, column revol_bal: got inf, expected a finite number"),
        ("revol_bal", "1e999", "row 5, column revol_bal: got inf"),
        ("purpose", "12.5", "row 5, column purpose: got '12.5', expected words like"),
        ("grade", "B4", r"row 5, column grade: got 'B4', expected words like .*are the columns named rightly"),
        ("grade", "\x00", "row 5, column grade"),
    ],
)
def test_bad_cells_are_named(file, records, name, value, message):
    refused(file, cell(records, 5, name, value), message)


def test_bad_rows_and_files_are_named(file, records):
    content = loan_files.to_bytes(records)
    refused(file, [*records[:9], [*records[9], "x"], *records[10:]], "row 10: got 146 fields, expected 145")
    refused(file, [*records[:9], records[9][1:], *records[10:]], "row 10: got 144 fields")
    refused(file, content[: -len(content) // 100], r"row 61: got \d+ fields.*cut off")
    refused(file, b"", "first line is empty")
    refused(file, b"\n\n", "first line is empty")
    refused(file, records[:1], "holds no loans")
    refused(file, b"a,b\n1,2\n", "column missing: loan_status, addr_state, loan_amnt")
    refused(file, content.decode().encode("utf-16"), "not a CSV file in UTF-8")
    refused(file, b"PK\x03\x04" + bytes(range(255, -1, -1)), "not a CSV file in UTF-8")
    file.unlink()
    with pytest.raises(DataError, match="cannot be read"):
        read_table(file)


def test_bad_headers_are_named(file, records):
    header = records[0]

    def renamed(old, new):
        return [[new if name == old else name for name in header], *records[1:]]

    refused(file, renamed("dti", "DTI "), "column missing: dti; found 145 columns")
    refused(file, renamed("annual_inc", "annual_income"), r"column missing: annual_inc \(is it 'annual_income'\?\)")
    refused(file, renamed("url", "dti"), "column given more than once: dti")
    refused(file, renamed(LABEL, "status"), "column missing: loan_status")
    file.write_bytes(loan_files.to_bytes(renamed("url", "desc")))  # neither is read
    assert len(read_table(file).x) == 60


def test_too_many_different_words_are_refused(file, records):
    many = [records[0]]
    for number, record in enumerate(records[1:] * 2):
        word = chr(65 + number % 26) + chr(65 + number // 26)
        many.append(cell([records[0], record], 2, "purpose", word)[1])
    refused(file, many, r"row 66, column purpose: got .*at most 64 different words; are the columns named rightly\?")


def test_quotes(file, records):
    told = cell(records, 4, "desc", 'said "yes",\nand left')
    file.write_bytes(loan_files.to_bytes(told))
    x, *_ = loan_files.reference(loan_files.to_bytes(told))
    np.testing.assert_array_equal(read_table(file).x, x)
    lines = plain_lines(records)
    opened = [*lines[:50], lines[50] + b'"', *lines[51:]]  # the last field of row 51 opens a quote
    refused(file, b"\n".join(opened), "row 51, column settlement_term: a quote swallows")
    both = [*lines[:20], b'"' + lines[20], *lines[21:30], lines[30].replace(b",", b'",', 1), *lines[31:]]
    refused(file, b"\n".join(both), "row 21, column id: a quote swallows")


@pytest.mark.parametrize("end", [b"\n", b"\r\n", b"\r", None])
@pytest.mark.parametrize("last", [True, False])
def test_a_quote_that_swallows_a_row_is_found_under_any_line_ends(file, records, end, last):
    """Also without an end of the last line, with line ends of two kinds, and with one that two blocks share."""
    lines = plain_lines(records)[:-1]
    first, second, rest = lines[21].split(b",", 2)
    lines[20:22] = [lines[20].replace(b",", b',"', 1), first + b"," + second + b'",' + rest]
    ends = [end or (b"\n", b"\r")[number % 2] for number in range(len(lines))]
    content = b"".join(line + e for line, e in zip(lines, ends, strict=True))
    cut = 1 + content.index(b"\r") if end == b"\r\n" else 1 << 22
    content = content if last else content.rstrip(b"\r\n")
    refused(file, content, "row 21, column member_id: a quote swallows", block_bytes=cut)


def test_blank_lines_count_as_rows_and_not_as_loans(file, records):
    lines = plain_lines(cell(records, 10, "loan_amnt", "much"))
    refused(file, b"\n".join([*lines[:4], b"", b"", *lines[4:]]), "row 12, column loan_amnt: got .* 'much'")
    lines = plain_lines(records)
    file.write_bytes(b"\n".join([*lines[:4], b"", b"", *lines[4:], b"", b""]))
    table = read_table(file)
    assert (len(table.x), table.footers) == (len(records) - 1, 0)


def test_a_header_alone_and_a_range_too_wide(file, records):
    for content in (plain_lines(records)[0], plain_lines(records)[0] + b"\n"):
        refused(file, content, "holds no loans")
    wide = cell(cell(records, 4, "loan_amnt", "1e308"), 5, "loan_amnt", "-1e308")
    refused(file, wide, r"column loan_amnt: got -1e\+308 to 1e\+308, expected a finite range")


def test_a_quote_that_swallows_more_than_a_block(file):
    records = loan_files.write(file, rows=400)
    lines = plain_lines(records)
    refused(
        file, b"\n".join([*lines[:50], b'"' + lines[50], *lines[51:]]), "Is a quote never closed", block_bytes=20_000
    )


def test_line_ends_and_byte_order_mark(file, records):
    records = [[word.replace("\n", " ") for word in row] for row in records]
    content = loan_files.to_bytes(records)
    x, *_ = loan_files.reference(content)
    for variant in (
        content.replace(b"\n", b"\r\n"),
        b"\xef\xbb\xbf" + content,
        content.rstrip(b"\n"),
        content + b"\n\n",
    ):
        file.write_bytes(variant)
        np.testing.assert_array_equal(read_table(file).x, x)


@pytest.mark.data
@pytest.mark.skipif("CRFL_DATA_DIR" not in os.environ, reason="CRFL_DATA_DIR is not set")
def test_the_real_loans_equal_what_pandas_makes_of_them():
    path = Path(os.environ["CRFL_DATA_DIR"]) / "loan.csv"
    table, frame = read_table(path), pd.read_csv(path, low_memory=False)
    assert table.x.shape == (2000, 90)
    assert len(np.unique(table.state)) == 50
    assert [STATES[s] for s in table.state] == frame[CLIENT].tolist()
    assert [LABELS[y] for y in table.y] == frame[LABEL].tolist()
    for column, name in enumerate(FEATURES):
        values = frame[name].fillna(0)
        if name in CATEGORICAL:
            codes, words = pd.factorize(values)
            expected = codes / len(words)
        else:
            expected = (values - values.min()) / ((values.max() - values.min()) or 1)
        np.testing.assert_array_equal(table.x[:, column], np.float32(expected), err_msg=name)
