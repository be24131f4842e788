"""Runs: a configuration in, a record out."""
