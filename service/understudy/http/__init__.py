"""HTTP/1.1 connections, ASGI, routing of paths, ETags and tokens. Knows no model."""
