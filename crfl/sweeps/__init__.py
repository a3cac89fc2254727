"""One base setting, many values, many seeds: trained once, spread over cores, certified from cached votes.

Runs and votes live in a cache folder under a name made of all that they depend on. A sweep that is killed goes on where
it stopped, a run that two sweeps share is trained once, and several machines may share the folder.
"""

from crfl.sweeps.cache import Cache, prefix
from crfl.sweeps.datasets import dataset
from crfl.sweeps.sweep import Sweep, sweep

__all__ = ["Cache", "Sweep", "dataset", "prefix", "sweep"]
