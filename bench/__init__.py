"""Benchmarks of the operators: ``python -m bench --help``."""
