"""Client shards, test splits and the loaders of each data set."""
