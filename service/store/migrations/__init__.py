"""Alembic's folder: `service.store.migrate` runs what is in `versions/`."""
