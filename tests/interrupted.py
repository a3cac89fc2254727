"""Training that is stopped in the middle, as by Ctrl-C."""

from contextlib import contextmanager

import pytest

from crfl.runs import store


@contextmanager
def interrupted(done):
    """What trains inside is interrupted after `done` rounds, and must let the interruption through."""
    original = store.RunBatch._round

    def round_(self, state, *rest):
        if state.round == done:
            raise KeyboardInterrupt
        return original(self, state, *rest)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(store.RunBatch, "_round", round_)
        with pytest.raises(KeyboardInterrupt):
            yield
