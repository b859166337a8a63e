"""Access control: tokens with a role, stored as hashes in a file that is read again when it changes.

A line of the file is `<name> <viewer|operator> <sha256 of the token, hex>`; `understudy token` writes one. Without a file, every
client on the loopback interface is an operator and no other client has access. The service should not be reachable from
elsewhere then; these checks hold even if it is.
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
    """The person or program behind a request. The name goes into the audit log."""

    name: str
    role: Role


def new_token() -> str:
    """A token with 256 bits of randomness."""
    return secrets.token_urlsafe(32)


def line_for(name: str, role: Role, token: str) -> str:
    """The line of the tokens file for a token. It does not contain the token itself.

    Raises:
        ConfigurationError: the name is not one word, which would make the whole file unreadable.
    """
    if not name or not name.isprintable() or set(name) & set(" #"):
        raise ConfigurationError(f"the name {name!r} must be one word without `#`")
    return f"{name} {role} {_hash(token)}"


ADDRESSES_MAX = 1_024
"""Client addresses for which it is cached whether they are loopback addresses. A load test checks one per request."""


class Tokens:
    """The tokens file, read again when it changes.

    Raises:
        ConfigurationError: from the constructor, if the file is missing or has an invalid line. If the file becomes invalid
            later, the tokens read before stay in force, so that a typo neither grants nor revokes access.
    """

    def __init__(self, path: Path | None) -> None:
        self._path = path
        self._known: dict[str, Actor] = {}
        self._seen: tuple[int, int] | None = None
        if path is not None:
            self._known, self._seen = _read(path)

    @property
    def configured(self) -> bool:
        """Whether the service has a tokens file."""
        return self._path is not None

    def actor(self, authorization: str | None, client: str | None) -> Actor:
        """Identify the sender of a request.

        Args:
            authorization: the `Authorization` header, or None.
            client: the client's IP address, or None for a Unix socket.

        Raises:
            Unauthorized: a token is required, and none or an unknown one was sent.
            Forbidden: the service has no tokens, and the client is not on the loopback interface.
        """
        if self._path is None:
            if client is None or is_loopback(client):
                return Actor("local", "operator")
            raise Forbidden(
                "without a tokens file only clients on the loopback interface are served: set UNDERSTUDY_TOKENS_FILE"
            )
        self._reload()
        kind, _, token = (authorization or "").partition(" ")
        challenge = {"WWW-Authenticate": 'Bearer realm="understudy"'}
        if kind.lower() != "bearer" or not token:
            raise Unauthorized("send `Authorization: Bearer <token>`", headers=challenge)
        digest = _hash(token.strip())
        for known, actor in self._known.items():
            if hmac.compare_digest(known, digest):
                return actor
        raise Unauthorized("this token is unknown", headers=challenge)

    def operator(self, authorization: str | None, client: str | None) -> Actor:
        """Like `actor`, and require an operator."""
        actor = self.actor(authorization, client)
        if actor.role != "operator":
            raise Forbidden(f"{actor.name} is a {actor.role}; this requires an operator")
        return actor

    def own_page(self, origin: str | None, host: str | None) -> None:
        """Reject a request that a browser sends from another site's page.

        Without tokens, every user on the loopback interface may give orders. Without this check, so could any page in their
        browser, also one whose host name resolves to this address (DNS rebinding).

        Args:
            origin: the `Origin` header, which browsers send with a POST, or None.
            host: the `Host` header.

        Raises:
            Forbidden: names the page's origin.
        """
        if origin is None:
            return
        try:
            site = urlsplit(origin)
        except ValueError:  # brackets without an address
            site = urlsplit("")
        name = site.hostname or ""
        own = bool(site.netloc) and site.netloc.lower() == (host or "").lower()
        if not own or not (self.configured or name == "localhost" or is_loopback(name)):
            raise Forbidden(f"this request comes from a page of {origin[:200]}, which is not this service")

    def _reload(self) -> None:
        assert self._path is not None
        try:
            stat = self._path.stat()
            if (stat.st_mtime_ns, stat.st_size) != self._seen:
                self._known, self._seen = _read(self._path)
        except (OSError, ConfigurationError):
            return  # the tokens read before stay in force


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
    """Whether an IP address is a loopback address; False for text that is no address."""
    try:
        return ip_address(client).is_loopback
    except ValueError:
        return False
