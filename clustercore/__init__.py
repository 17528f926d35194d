"""Consensus for Python programs, built on Trio."""
