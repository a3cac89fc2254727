"""Run folders, sweeps and the cache of finished work."""
