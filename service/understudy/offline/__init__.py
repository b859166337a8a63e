"""What works without callers: check, evaluate, replay, report."""
