"""Alembic's folder: `understudy.store.migrate` runs what is in `versions/`."""
