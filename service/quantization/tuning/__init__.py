"""Rewrites a float graph so that plain rounding onto its plan loses less."""
