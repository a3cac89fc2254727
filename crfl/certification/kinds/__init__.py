"""The kinds of certificates: published, margin and smoothing (coupled.py), clients, ensemble.

Each takes a run and test samples, and compares every prediction's budget with what attacks cost.
"""
