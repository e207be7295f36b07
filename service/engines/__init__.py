"""Loaded things that can infer."""
