"""The peers that `make bench` measures the service beside: each serves the flights POC the way its own documentation shows."""
