"""The base of all documents."""

import msgspec


class Document(msgspec.Struct):
    """A JSON document."""
