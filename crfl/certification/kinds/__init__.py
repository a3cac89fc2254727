"""The kinds of certificates of a run, one a module: published, smoothing, margin, clients.

Each takes a run and test samples, computes what every prediction's budget is, and what attacks cost.
"""
