"""Runs that are the same to the last bit."""

import pandas as pd
import torch

import crfl

EXP = crfl.Experiment().override({"server.rounds": 8, "attack.round": 3})


def assert_same(a, b):
    assert torch.equal(a.params, b.params)
    assert a.record == b.record
    assert a.experiment == b.experiment
    assert a.model == b.model
    pd.testing.assert_frame_equal(a.history, b.history, check_exact=True)
    assert a.checkpoints.keys() == b.checkpoints.keys()
    assert all(torch.equal(a.checkpoints[t], b.checkpoints[t]) for t in a.checkpoints)
