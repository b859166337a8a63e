"""Load tests, benchmarks and their results."""
