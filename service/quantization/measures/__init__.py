"""Sums over streamed values: histograms, error figures, decisions, noise."""
