"""Algorithm 1: local training, attack, aggregation, clipping and noise."""
