"""Write a synthetic LendingClub CSV with the real schema (145 columns), streamed.

Run: python benchmarks/synthetic_loan.py FILE [--rows N]. The names, the order and the kinds of the columns, the states,
the labels and the share of missing values are like those of the real file; the numbers are random, tied to the label
where a model should have something to learn.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pyarrow as pa
from pyarrow import csv

ROWS = 2_260_668
"""Rows of the real file."""

HEADER = """
id member_id loan_amnt funded_amnt funded_amnt_inv term int_rate installment grade sub_grade emp_title emp_length
home_ownership annual_inc verification_status issue_d loan_status pymnt_plan url desc purpose title zip_code addr_state
dti delinq_2yrs earliest_cr_line inq_last_6mths mths_since_last_delinq mths_since_last_record open_acc pub_rec revol_bal
revol_util total_acc initial_list_status out_prncp out_prncp_inv total_pymnt total_pymnt_inv total_rec_prncp
total_rec_int total_rec_late_fee recoveries collection_recovery_fee last_pymnt_d last_pymnt_amnt next_pymnt_d
last_credit_pull_d collections_12_mths_ex_med mths_since_last_major_derog policy_code application_type annual_inc_joint
dti_joint verification_status_joint acc_now_delinq tot_coll_amt tot_cur_bal open_acc_6m open_act_il open_il_12m
open_il_24m mths_since_rcnt_il total_bal_il il_util open_rv_12m open_rv_24m max_bal_bc all_util total_rev_hi_lim inq_fi
total_cu_tl inq_last_12m acc_open_past_24mths avg_cur_bal bc_open_to_buy bc_util chargeoff_within_12_mths delinq_amnt
mo_sin_old_il_acct mo_sin_old_rev_tl_op mo_sin_rcnt_rev_tl_op mo_sin_rcnt_tl mort_acc mths_since_recent_bc
mths_since_recent_bc_dlq mths_since_recent_inq mths_since_recent_revol_delinq num_accts_ever_120_pd num_actv_bc_tl
num_actv_rev_tl num_bc_sats num_bc_tl num_il_tl num_op_rev_tl num_rev_accts num_rev_tl_bal_gt_0 num_sats
num_tl_120dpd_2m num_tl_30dpd num_tl_90g_dpd_24m num_tl_op_past_12m pct_tl_nvr_dlq percent_bc_gt_75
pub_rec_bankruptcies tax_liens tot_hi_cred_lim total_bal_ex_mort total_bc_limit total_il_high_credit_limit
revol_bal_joint sec_app_earliest_cr_line sec_app_inq_last_6mths sec_app_mort_acc sec_app_open_acc sec_app_revol_util
sec_app_open_act_il sec_app_num_rev_accts sec_app_chargeoff_within_12_mths sec_app_collections_12_mths_ex_med
sec_app_mths_since_last_major_derog hardship_flag hardship_type hardship_reason hardship_status deferral_term
hardship_amount hardship_start_date hardship_end_date payment_plan_start_date hardship_length hardship_dpd
hardship_loan_status orig_projected_additional_accrued_interest hardship_payoff_balance_amount
hardship_last_payment_amount disbursement_method debt_settlement_flag debt_settlement_flag_date settlement_status
settlement_date settlement_amount settlement_percentage settlement_term
""".split()

STATUS = {
    "Current": 0.4068,
    "Fully Paid": 0.4608,
    "Late (31-120 days)": 0.0097,
    "In Grace Period": 0.0040,
    "Charged Off": 0.1157,
    "Late (16-30 days)": 0.0017,
    "Default": 0.0001,
    "Does not meet the credit policy. Status:Fully Paid": 0.0009,
    "Does not meet the credit policy. Status:Charged Off": 0.0003,
}
STATES = dict(
    zip(
        "CA NY TX FL IL NJ PA OH GA VA NC MI MD AZ MA CO WA MN IN TN MO CT NV WI SC AL OR LA KY OK "
        "KS AR UT NM MS HI NH RI WV NE DE MT DC AK WY VT SD ME ID ND IA".split(),
        [*(0.14 * 0.92 ** np.arange(30)), *np.linspace(0.009, 0.0018, 20), 6e-6],
        strict=True,
    )
)
"""Shares of the 51 states, from California's to Iowa's handful of rows."""

PURPOSES = (
    "debt_consolidation credit_card home_improvement other major_purchase medical small_business car vacation moving "
    "house wedding renewable_energy educational"
).split()
CHOICES = {
    "home_ownership": ["MORTGAGE", "RENT", "OWN", "ANY", "OTHER", "NONE"],
    "verification_status": ["Source Verified", "Not Verified", "Verified"],
    "emp_length": ["10+ years", "< 1 year", "2 years", "5 years"],
    "emp_title": ["Teacher", "Manager", 'Driver, "heavy" trucks', "Registered Nurse", "Chef"],
    "title": ["Debt consolidation", "Credit card refinancing", "Home improvement, kitchen"],
    "initial_list_status": ["w", "f"],
    "issue_d": ["Dec-2018", "Mar-2016", "Aug-2012"],
    "earliest_cr_line": ["Apr-2001", "Jun-1987"],
    "last_pymnt_d": ["Feb-2019", "Jul-2017"],
    "last_credit_pull_d": ["Feb-2019", "Oct-2018"],
    "purpose": PURPOSES,
}
MONEY = """annual_inc revol_bal tot_cur_bal total_bal_il max_bal_bc total_rev_hi_lim avg_cur_bal bc_open_to_buy
tot_hi_cred_lim total_bal_ex_mort total_bc_limit total_il_high_credit_limit tot_coll_amt delinq_amnt""".split()
PERCENT = "dti revol_util il_util all_util bc_util pct_tl_nvr_dlq percent_bc_gt_75".split()
SINCE_2015 = """open_acc_6m open_act_il open_il_12m open_il_24m mths_since_rcnt_il total_bal_il il_util open_rv_12m
open_rv_24m max_bal_bc all_util inq_fi total_cu_tl inq_last_12m""".split()
RARE = """mths_since_last_delinq mths_since_last_record mths_since_last_major_derog annual_inc_joint dti_joint
mths_since_recent_bc_dlq mths_since_recent_revol_delinq desc""".split()
EMPTY = {"id", "member_id", "url", *HEADER[HEADER.index("revol_bal_joint") : HEADER.index("hardship_flag")]}
EMPTY |= {"verification_status_joint", *HEADER[HEADER.index("hardship_type") : HEADER.index("disbursement_method")]}
EMPTY |= set(HEADER[HEADER.index("debt_settlement_flag_date") :])


def write_loans(path: Path, rows: int = ROWS, seed: int = 0, chunk: int = 50_000) -> None:
    """Write `rows` synthetic loans to `path`, `chunk` rows at a time."""
    schema = pa.schema([(name, pa.string() if name in _text_columns() else pa.float64()) for name in HEADER])
    with csv.CSVWriter(path, schema, write_options=csv.WriteOptions(quoting_style="needed")) as writer:
        for start in range(0, rows, chunk):
            columns = _chunk(np.random.default_rng([seed, start]), min(chunk, rows - start))
            writer.write_table(
                pa.table([pa.array(columns[n], t) for n, t in zip(HEADER, schema.types, strict=True)], schema=schema)
            )


def _text_columns() -> set[str]:
    fixed = {
        "term",
        "grade",
        "sub_grade",
        "pymnt_plan",
        "application_type",
        "hardship_flag",
        "zip_code",
        "next_pymnt_d",
    }
    fixed |= {"disbursement_method", "debt_settlement_flag", "addr_state", "loan_status", "desc"}
    return fixed | set(CHOICES) | EMPTY


def _chunk(random: np.random.Generator, rows: int) -> dict[str, npt.NDArray[np.generic] | pa.Array]:
    columns: dict[str, npt.NDArray[np.generic] | pa.Array] = {}
    status = _draw(random, rows, STATUS)
    columns["loan_status"] = np.array(list(STATUS), dtype=object)[status]
    columns["addr_state"] = np.array(list(STATES), dtype=object)[_draw(random, rows, STATES)]
    for name, values in CHOICES.items():
        columns[name] = np.array(values, dtype=object)[np.minimum(random.geometric(0.4, rows) - 1, len(values) - 1)]
    for name in "pymnt_plan hardship_flag debt_settlement_flag".split():
        yes = (random.random(rows) < 0.001).astype(int)
        columns[name] = np.array(["n", "y"] if name == "pymnt_plan" else ["N", "Y"], dtype=object)[yes]
    columns["disbursement_method"] = np.where(random.random(rows) < 0.97, "Cash", "DirectPay").astype(object)
    columns["application_type"] = np.where(random.random(rows) < 0.95, "Individual", "Joint App").astype(object)
    columns["zip_code"] = np.array([f"{i:03d}xx" for i in range(1000)], dtype=object)[random.integers(0, 1000, rows)]
    columns["next_pymnt_d"] = np.where(status == 0, "Mar-2019", None)
    columns["desc"] = np.where(
        random.random(rows) < 0.05, "  Borrower added on 12/24/12 > Consolidating,\nthen paying off.<br>", None
    )
    _loan_terms(random, status, columns)
    for name in HEADER:
        if name in EMPTY:
            columns[name] = np.full(rows, None, dtype=object)
        elif name not in columns:
            columns[name] = _number(random, rows, name)
    return columns


def _loan_terms(random: np.random.Generator, status: npt.NDArray[np.int64], columns: dict[str, object]) -> None:
    """Amounts, grades and payments, which fit together and tell the label."""
    rows = len(status)
    amount = random.integers(40, 1600, rows) * 25.0
    rate = np.round(random.gamma(6.0, 2.2, rows) + 5.31, 2)
    grade = np.clip((rate - 5) // 4, 0, 6).astype(int)
    paid = np.select([status == 1, status == 0], [1.0, random.random(rows)], 0.6 * random.random(rows))
    columns |= {name: amount for name in ("loan_amnt", "funded_amnt", "funded_amnt_inv")}
    columns["term"] = np.where(random.random(rows) < 0.7, " 36 months", " 60 months").astype(object)
    columns["int_rate"] = rate
    columns["installment"] = np.round(amount / 36 * (1 + rate / 100), 2)
    columns["grade"] = np.array(list("ABCDEFG"), dtype=object)[grade]
    columns["sub_grade"] = np.array([f"{g}{i}" for g in "ABCDEFG" for i in range(1, 6)], dtype=object)[
        grade * 5 + random.integers(0, 5, rows)
    ]
    columns["total_rec_prncp"] = np.round(amount * paid, 2)
    columns["total_rec_int"] = np.round(amount * paid * rate / 100, 2)
    columns["total_pymnt"] = columns["total_pymnt_inv"] = np.round(amount * paid * (1 + rate / 100), 2)
    columns["out_prncp"] = columns["out_prncp_inv"] = np.where(
        np.isin(status, [1, 4, 7, 8]), 0.0, np.round(amount * (1 - paid), 2)
    )
    columns["total_rec_late_fee"] = np.where(np.isin(status, [2, 5]), 15.0, 0.0)
    columns["recoveries"] = np.where(np.isin(status, [4, 8]), np.round(0.1 * amount, 2), 0.0)
    columns["collection_recovery_fee"] = np.round(0.18 * np.asarray(columns["recoveries"]), 2)
    columns["last_pymnt_amnt"] = np.where(status == 1, np.round(0.4 * amount, 2), columns["installment"])
    columns["policy_code"] = np.ones(rows)


def _number(random: np.random.Generator, rows: int, name: str) -> pa.Array:
    if name in MONEY:
        values = np.round(random.lognormal(9.0, 1.2, rows))
    elif name in PERCENT:
        values = np.round(100 * random.beta(2.0, 3.0, rows), 1)
    elif name.startswith("m") and name != "mort_acc":  # months since ...
        values = random.integers(0, 200, rows).astype(float)
    else:
        values = (random.geometric(0.2, rows) - 1).astype(float)
    missing = 0.383 if name in SINCE_2015 else 0.8 if name in RARE else 0.03
    return pa.array(values, mask=random.random(rows) < missing)


def _draw(random: np.random.Generator, rows: int, shares: dict[str, float]) -> npt.NDArray[np.int64]:
    edges = np.cumsum(list(shares.values()))
    return np.searchsorted(edges / edges[-1], random.random(rows), side="right")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("file", type=Path)
    parser.add_argument("--rows", type=int, default=ROWS)
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    write_loans(arguments.file, arguments.rows, arguments.seed)
