"""A run on the digits, and what it would have been otherwise."""

from dataclasses import replace

import crfl

EXP = crfl.Experiment().override({"server.rounds": 12, "attack.round": 4, "smoothing.samples": 300})


def changed(run, record=None, **settings):
    """The run with another record or other settings of certification."""
    exp = run.experiment.override({key.replace("__", "."): value for key, value in settings.items()})
    return replace(run, experiment=exp, record=record or run.record)


def with_rounds(run, change):
    """The run with each round of its record changed."""
    return changed(run, record=replace(run.record, rounds=tuple(map(change, run.record.rounds))))
