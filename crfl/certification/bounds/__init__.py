"""Bounds on the class probabilities of the smoothed model."""
