"""The Engine port and what stands behind it."""
