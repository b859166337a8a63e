"""HTTP/1.1 on one connection: bytes in, bytes out. It knows no model."""
