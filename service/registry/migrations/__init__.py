"""Alembic migrations of the metadata."""
