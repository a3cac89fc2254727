"""All figures of the paper, with a report: the same as `crfl reproduce`."""

from crfl.cli import reproduce

if __name__ == "__main__":
    reproduce()
