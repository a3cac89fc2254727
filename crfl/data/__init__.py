"""Client shards, test splits and the loaders of each data set."""

from crfl.data.federated import Client, FederatedData, Split
from crfl.data.load import check_fits, load_data
from crfl.data.partition import dirichlet, iid, natural

__all__ = ["Client", "FederatedData", "Split", "check_fits", "dirichlet", "iid", "load_data", "natural"]
