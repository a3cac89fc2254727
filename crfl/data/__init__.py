"""Client shards, test splits and the loaders of each data set."""

from crfl.data.federated import FederatedData
from crfl.data.fits import check_fits
from crfl.data.load import load_data
from crfl.data.mapped import map_features
from crfl.data.partition import dirichlet, iid, natural
from crfl.data.splits import Client, Inputs, Split

__all__ = [
    "Client",
    "FederatedData",
    "Inputs",
    "Split",
    "check_fits",
    "dirichlet",
    "iid",
    "load_data",
    "map_features",
    "natural",
]
