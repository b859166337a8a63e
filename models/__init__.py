"""How the example models are made from real flights, reproducibly: see README.md."""
