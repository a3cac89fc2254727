"""Certified defences, a module for each method; each names its entries in `ENTRIES`."""
