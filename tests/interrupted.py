"""Training that is stopped in the middle, as by Ctrl-C."""

from contextlib import contextmanager

import pytest

from crfl.run_batch import RunBatch


@contextmanager
def interrupting(done):
    """What trains inside is interrupted after `done` rounds."""
    original = RunBatch.rounds

    def rounds(self, state, *how):
        if state.round == done:
            raise KeyboardInterrupt
        for after in original(self, state, *how):
            yield after
            if after.round == done:
                raise KeyboardInterrupt

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunBatch, "rounds", rounds)
        yield


@contextmanager
def interrupted(done):
    """The same, and it must let the interruption through."""
    with interrupting(done), pytest.raises(KeyboardInterrupt):
        yield
