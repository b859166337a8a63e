"""What works without callers: check, evaluate, replay, report, and a client."""
