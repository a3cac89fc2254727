"""The library's own errors and warnings. A message names the setting or argument: got X, expected Y, and what to do."""

from __future__ import annotations

from collections.abc import Sequence


class CrflError(Exception):
    """Base of every error that crfl raises on purpose."""


class SettingsError(CrflError, ValueError):
    """One or more settings are wrong; `problems` holds a sentence for each."""

    def __init__(self, problems: Sequence[str], source: str = "settings") -> None:
        self.problems = tuple(problems)
        self.source = source
        super().__init__(_sentences(self.problems, source))

    def __reduce__(self) -> tuple[type[SettingsError], tuple[tuple[str, ...], str]]:
        """From one process to another: by what it was made of, not by its message."""
        return type(self), (self.problems, self.source)


MOST_PROBLEMS = 20
"""Problems listed in one message."""


def _sentences(problems: Sequence[str], source: str) -> str:
    where = "" if source == "settings" else f"{source}: "
    if len(problems) == 1:
        return f"{where}{problems[0]}"
    more = [f"and {len(problems) - MOST_PROBLEMS} more"] if len(problems) > MOST_PROBLEMS else []
    return "\n  ".join([f"{where}{len(problems)} settings are wrong", *problems[:MOST_PROBLEMS], *more])


class DataError(CrflError, ValueError):
    """A data set is missing, malformed or does not fit the settings."""


class TrainingError(CrflError, RuntimeError):
    """A run cannot go on."""


class CertificateError(CrflError, ValueError):
    """A certificate is refused because what it rests on does not hold."""


class StoreError(CrflError, RuntimeError):
    """A run folder cannot be read or written as asked."""


class DamagedFileError(StoreError):
    """A file of a run is missing, or is not what was written."""


class FolderBusyError(StoreError):
    """Somebody else writes to the run folder."""


class InvalidUpdateWarning(UserWarning):
    """A client's update was dropped for a round because no server could use it."""


class CertificateWarning(UserWarning):
    """A certificate was issued that is no guarantee for the run at hand."""


class SanityWarning(UserWarning):
    """Something is allowed but hardly meant: a constant predictor, features that are not normalised, an empty class."""
