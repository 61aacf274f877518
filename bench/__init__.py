"""Benchmarks on real clusters over loopback; one JSON line per measurement (see README.md here)."""
