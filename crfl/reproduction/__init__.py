"""Figures that check what they show: curves, claims about them, and a report of both.

A figure script in experiments/ is a function of a `Lab` (base settings, cache, seeds) that returns figures; a figure
is panels of curves and the claims that the paper makes of them, tested on those very curves.
"""

from crfl.reproduction.clients import at_least, certified_ensembles, clients_panel, two_labels
from crfl.reproduction.figures import Claim, Figure, Panel, equal, falls, numbers, rises
from crfl.reproduction.lab import DATA_TITLES, Lab
from crfl.reproduction.summary import report
from crfl.reproduction.sweeps import expected_critical, sweep_figures, sweep_panel

__all__ = [
    "DATA_TITLES",
    "Claim",
    "Figure",
    "Lab",
    "Panel",
    "at_least",
    "certified_ensembles",
    "clients_panel",
    "equal",
    "expected_critical",
    "falls",
    "numbers",
    "report",
    "rises",
    "sweep_figures",
    "sweep_panel",
    "two_labels",
]
