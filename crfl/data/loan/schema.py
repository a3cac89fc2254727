"""LendingClub's table: which columns are features, the labels in the paper's order, the states.

Both copies in circulation have these columns: loan.csv (145 columns) and accepted_2007_to_2018Q4.csv (151).
"""

LABEL = "loan_status"
CLIENT = "addr_state"

CATEGORICAL = frozenset(
    """term grade sub_grade home_ownership verification_status pymnt_plan purpose initial_list_status application_type
    hardship_flag disbursement_method debt_settlement_flag""".split()
)
"""The 12 features that are words; the other 78 are numbers."""

WORDS = {"term": r"\d+ months", "grade": "[A-Z]", "sub_grade": r"[A-Z]\d"}
"""What the words of a feature look like; those of the others are ANY_WORD."""
ANY_WORD = "[A-Za-z][A-Za-z_ /&-]*"

FEATURES = tuple(
    """loan_amnt funded_amnt funded_amnt_inv term int_rate installment grade sub_grade home_ownership annual_inc
    verification_status pymnt_plan purpose dti delinq_2yrs inq_last_6mths open_acc pub_rec revol_bal revol_util
    total_acc initial_list_status out_prncp out_prncp_inv total_pymnt total_pymnt_inv total_rec_prncp total_rec_int
    total_rec_late_fee recoveries collection_recovery_fee last_pymnt_amnt collections_12_mths_ex_med
    application_type acc_now_delinq tot_coll_amt tot_cur_bal open_acc_6m open_act_il open_il_12m open_il_24m
    mths_since_rcnt_il total_bal_il il_util open_rv_12m open_rv_24m max_bal_bc all_util total_rev_hi_lim inq_fi
    total_cu_tl inq_last_12m acc_open_past_24mths avg_cur_bal bc_open_to_buy bc_util chargeoff_within_12_mths
    delinq_amnt mo_sin_old_il_acct mo_sin_old_rev_tl_op mo_sin_rcnt_rev_tl_op mo_sin_rcnt_tl mort_acc
    mths_since_recent_bc mths_since_recent_inq num_accts_ever_120_pd num_actv_bc_tl num_actv_rev_tl num_bc_sats
    num_bc_tl num_il_tl num_op_rev_tl num_rev_accts num_rev_tl_bal_gt_0 num_sats num_tl_120dpd_2m num_tl_30dpd
    num_tl_90g_dpd_24m num_tl_op_past_12m pct_tl_nvr_dlq percent_bc_gt_75 pub_rec_bankruptcies tax_liens
    tot_hi_cred_lim total_bal_ex_mort total_bc_limit total_il_high_credit_limit hardship_flag disbursement_method
    debt_settlement_flag""".split()
)
"""The 90 features in the order of the file, whatever the order of a user's copy."""

KNOWN_AFTERWARDS = frozenset(
    """pymnt_plan out_prncp out_prncp_inv total_pymnt total_pymnt_inv total_rec_prncp total_rec_int total_rec_late_fee
    recoveries collection_recovery_fee last_pymnt_amnt hardship_flag debt_settlement_flag""".split()
)
"""The 13 features that tell how the loan went after it was granted, and so give the label away: a loan that is paid
back owes no principal, and only one that is charged off has recoveries. The paper's model sees them."""

NUMERIC = tuple(name for name in FEATURES if name not in CATEGORICAL)

LABELS = (
    "Current",
    "Fully Paid",
    "Late (31-120 days)",
    "In Grace Period",
    "Charged Off",
    "Late (16-30 days)",
    "Default",
    "Does not meet the credit policy. Status:Fully Paid",
    "Does not meet the credit policy. Status:Charged Off",
)
"""Label 0 .. 8 in the paper's order, pinned: the order of appearance differs between copies."""

STATES = tuple(
    """AK AL AR AZ CA CO CT DC DE FL GA HI IA ID IL IN KS KY LA MA MD ME MI MN MO MS MT NC ND NE NH NJ NM NV NY OH OK OR
    PA RI SC SD TN TX UT VA VT WA WI WV WY""".split()
)
"""The 50 states and the District of Columbia."""

ATTACKING_STATES = ("CT", "MO", "TN")
"""First in client order, because the first clients attack."""

FOOTERS = ("Total amount funded in policy code", "Loans that do not meet the credit policy")
"""How the lines of text begin that accepted_2007_to_2018Q4.csv has between its loans."""
