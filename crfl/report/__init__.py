"""One page about one run: what was asked, what happened, what is certified, on which assumptions, and examples."""

from crfl.report.run import RADII, run_report
from crfl.report.saved import SavedCertificate, read_certificates

__all__ = ["RADII", "SavedCertificate", "read_certificates", "run_report"]
