"""Runs a heavy task on untrusted input in a child process, within limits."""
