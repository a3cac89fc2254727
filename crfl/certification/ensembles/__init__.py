"""Certificates of ensembles: models of groups of clients vote, and a malicious client spoils its own groups alone.

plurality.py: disjoint groups. prices.py: disjoint groups whose votes cost more than one client each. random_groups.py:
groups drawn at random. Proofs: docs/theory-ensembles.md.
"""
