"""Benchmarks of Octavo: speed and memory, each beside a reference measured in the same run."""
