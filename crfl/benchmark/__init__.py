"""The comparison: certified defences for federated learning, threat by threat, on the same data."""
