"""HTTP/1.1 connections, ASGI, routing, entity tags and tokens. Independent of models."""
