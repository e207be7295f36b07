"""Datasets and pictures: untrusted archives in, rows for a model out."""
