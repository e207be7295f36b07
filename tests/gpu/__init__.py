"""Tests that need an NVIDIA GPU, run by `make test-gpu`."""
