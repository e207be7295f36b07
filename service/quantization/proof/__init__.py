"""The validate and gate stages: each engine beside the reference, and the verdict."""
