"""The load generator that `understudy loadtest` runs, the verdict on what it measured, and its report."""
