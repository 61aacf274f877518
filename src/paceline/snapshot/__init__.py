"""Snapshot transfer by hashes of units, staging, and installation by a plan.  See ``DESIGN.md``."""
