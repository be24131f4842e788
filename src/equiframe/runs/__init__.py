"""Runs: each takes a configuration and makes a record."""
