"""Fixed feature maps: from samples to what the clients learn from. No client can influence them."""

from crfl.features.fit import FEATURE_MAPS, find_map, fit_map, frozen
from crfl.features.fitted import FeatureMap, FittedMap
from crfl.features.scattering import Scattering

__all__ = ["FEATURE_MAPS", "FeatureMap", "FittedMap", "Scattering", "find_map", "fit_map", "frozen"]
