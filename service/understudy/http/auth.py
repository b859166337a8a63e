"""Who may do what: tokens with a role, kept hashed in a file that is read again when it changes.

A line of the file is `<name> <viewer|operator> <sha256 of the token, hex>`; `understudy token` writes one. Without a file
everyone on the loopback interface is operator, and nobody else is anything: the service must not be reachable from
elsewhere then, and these checks hold even if it is.
"""

import functools
import hashlib
import hmac
import re
import secrets
from collections.abc import Mapping
from dataclasses import dataclass
from ipaddress import ip_address
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from understudy.errors import ConfigurationError, Forbidden, Unauthorized

Role = Literal["viewer", "operator"]
_ROLES: Mapping[str, Role] = {"viewer": "viewer", "operator": "operator"}
_DIGEST = re.compile("[0-9a-fA-F]{64}")


@dataclass(frozen=True, slots=True)
class Actor:
    """Someone who asks for something: the name goes into the audit log."""

    name: str
    role: Role


def new_token() -> str:
    """A token with 256 bits of randomness."""
    return secrets.token_urlsafe(32)


def line_for(name: str, role: Role, token: str) -> str:
    """The line of the tokens file for a token; the token itself is not in it.

    Raises:
        ConfigurationError: for a name that is not one word: it would break the file for everyone.
    """
    if not name or not name.isprintable() or set(name) & set(" #"):
        raise ConfigurationError(f"the name {name!r} must be one word without `#`")
    return f"{name} {role} {_hash(token)}"


ADDRESSES_MAX = 1_024
"""Callers' addresses that are remembered as this machine's own or not: a load test asks for each of its requests."""


class Tokens:
    """The tokens file, read again when it changes.

    Raises:
        ConfigurationError: from the constructor, when the file is missing or a line is not of the form. A file that
            breaks later leaves the tokens that were known, so that a typo does not open or close the doors.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Actor] = {}
        self._seen: tuple[int, int] | None = None
        if path is not None:
            self._known, self._seen = _read(path)

    @property
    def configured(self) -> bool:
        """Whether tokens are needed at all."""
        return self._path is not None

    def actor(self, authorization: str | None, client: str | None) -> Actor:
        """Who is asking.

        Args:
            authorization: the `Authorization` header, or None.
            client: the peer's IP address, or None for a Unix socket.

        Raises:
            Unauthorized: when a token is needed and none, or an unknown one, was sent.
            Forbidden: when no tokens are configured and the peer is not on the loopback interface.
        """
        if self._path is None:
            if client is None or is_loopback(client):
                return Actor("local", "operator")
            raise Forbidden("without a tokens file only the loopback interface is served: set UNDERSTUDY_TOKENS_FILE")
        self._reload()
        kind, _, token = (authorization or "").partition(" ")
        challenge = {"WWW-Authenticate": 'Bearer realm="understudy"'}
        if kind.lower() != "bearer" or not token:
            raise Unauthorized("send `Authorization: Bearer <token>`", headers=challenge)
        digest = _hash(token.strip())
        for known, actor in self._known.items():
            if hmac.compare_digest(known, digest):
                return actor
        raise Unauthorized("this token is not known", headers=challenge)

    def operator(self, authorization: str | None, client: str | None) -> Actor:
        """As `actor`, and the actor must be an operator."""
        actor = self.actor(authorization, client)
        if actor.role != "operator":
            raise Forbidden(f"{actor.name} is a {actor.role}; this needs an operator")
        return actor

    def own_page(self, origin: str | None, host: str | None) -> None:
        """Refuse what a browser sends for a page that is not this service's own.

        Without tokens whoever is on the loopback interface may give orders, and so could any page that is open in their
        browser otherwise, also under a name that somebody else's DNS points here.

        Args:
            origin: the `Origin` header, which browsers send along with a POST, or None; host: the `Host` header.

        Raises:
            Forbidden: naming the page's origin.
        """
        if origin is None:
            return
        try:
            site = urlsplit(origin)
        except ValueError:  # brackets that hold no address
            site = urlsplit("")
        name = site.hostname or ""
        own = bool(site.netloc) and site.netloc.lower() == (host or "").lower()
        if not own or not (self.configured or name == "localhost" or is_loopback(name)):
            raise Forbidden(f"this came from a page of {origin[:200]}, which is not this service's own")

    def _reload(self) -> None:
        assert self._path is not None
        try:
            stat = self._path.stat()
            if (stat.st_mtime_ns, stat.st_size) != self._seen:
                self._known, self._seen = _read(self._path)
        except (OSError, ConfigurationError):
            return  # the tokens that were known stay known


def _read(path: Path) -> tuple[dict[str, Actor], tuple[int, int]]:
    try:
        stat, text = path.stat(), path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigurationError(f"the tokens file {path} cannot be read: {error}") from error
    known: dict[str, Actor] = {}
    for number, line in enumerate(text.splitlines(), 1):
        words = line.split("#")[0].split()
        if not words:
            continue
        if len(words) != 3 or words[1] not in _ROLES or not _DIGEST.fullmatch(words[2]):
            raise ConfigurationError(f"{path}, line {number}: must be `<name> <viewer|operator> <sha256 in hex>`")
        known[words[2].lower()] = Actor(words[0], _ROLES[words[1]])
    return known, (stat.st_mtime_ns, stat.st_size)


def _hash(token: str) -> str:
    return hashlib.sha256(token.encode()).hexdigest()


@functools.lru_cache(ADDRESSES_MAX)
def is_loopback(client: str) -> bool:
    """Whether an IP address is this machine's own; False for what is no address."""
    try:
        return ip_address(client).is_loopback
    except ValueError:
        return False
