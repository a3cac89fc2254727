"""Training that is stopped in the middle, as by Ctrl-C."""

from contextlib import contextmanager

import pytest
import tqdm.auto


@contextmanager
def interrupting(done):
    """What trains inside is interrupted after `done` rounds, where the bar takes the next one."""
    original = tqdm.auto.tqdm

    def until_done(states, first):
        if first == done:
            raise KeyboardInterrupt
        for state in states:
            yield state
            if state.round == done:
                raise KeyboardInterrupt

    def interrupted_bar(*args, **options):
        if options.get("desc") == "training":
            return until_done(*args, options["initial"])
        return original(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tqdm.auto, "tqdm", interrupted_bar)
        yield


@contextmanager
def interrupted(done):
    """The same, and it must let the interruption through."""
    with interrupting(done), pytest.raises(KeyboardInterrupt):
        yield
