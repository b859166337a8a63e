"""Tokens and roles: who gets in, what a broken file does, and that nothing but hashes is kept."""

import os
import tempfile
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.errors import ConfigurationError, Forbidden, Unauthorized
from understudy.http.auth import Actor, Role, Tokens, line_for, new_token


def write(path: Path, *lines: str, moment: int = 1) -> Path:
    """A tokens file with a modification time of its own, so that no test waits for the file system's clock."""
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    os.utime(path, ns=(moment, moment))
    return path


def bearer(token: str) -> str:
    return f"Bearer {token}"


def test_a_token_says_who_is_asking_and_in_which_role(tmp_path: Path) -> None:
    """Two people, two roles; comments, blank lines and the case of hex digits do not matter."""
    ada, bob = new_token(), new_token()
    name, role, digest = line_for("bob", "viewer", bob).split()
    tokens = Tokens(
        write(
            tmp_path / "tokens",
            "# ours",
            "",
            line_for("ada", "operator", ada) + " # her laptop",
            f"{name}  {role}\t{digest.upper()}",
        )
    )

    assert tokens.configured
    assert tokens.actor(bearer(ada), "10.0.0.1") == Actor("ada", "operator")
    assert tokens.actor(f"bearer  {bob} ", None) == Actor("bob", "viewer")
    assert tokens.operator(bearer(ada), "10.0.0.1").name == "ada"
    with pytest.raises(Forbidden, match="bob is a viewer; this requires an operator"):
        tokens.operator(bearer(bob), "127.0.0.1")


@pytest.mark.parametrize(
    "header", [None, "", "Bearer", "Bearer ", "Bearer    ", "Basic YWRhOnB3", "Bearer not-a-token", "Token abc"]
)
def test_without_a_known_token_nobody_gets_in_not_even_from_loopback(tmp_path: Path, header: str | None) -> None:
    """401 with the challenge that RFC 6750 asks for, or with the reason that the token is not known."""
    tokens = Tokens(write(tmp_path / "tokens", line_for("ada", "operator", new_token())))

    for client in ("127.0.0.1", "10.0.0.1", None):
        with pytest.raises(Unauthorized) as caught:
            tokens.actor(header, client)
        assert int(caught.value.status) == 401
    if not (header or "").startswith("Bearer not"):
        assert caught.value.headers == {"WWW-Authenticate": 'Bearer realm="understudy"'}


def test_neither_the_hash_nor_the_name_is_a_token(tmp_path: Path) -> None:
    """Who reads the file cannot get in with what it says."""
    line = line_for("ada", "operator", new_token())
    tokens = Tokens(write(tmp_path / "tokens", line))

    for word in [line, *line.split()]:
        with pytest.raises(Unauthorized):
            tokens.actor(bearer(word), "127.0.0.1")


def test_a_token_is_never_kept_in_clear(tmp_path: Path) -> None:
    """Not in its line, and nowhere in the object that checks it, before or after it was used."""
    token = new_token()
    line = line_for("ada", "viewer", token)
    tokens = Tokens(write(tmp_path / "tokens", line))
    tokens.actor(bearer(token), None)
    with pytest.raises(Unauthorized) as caught:
        tokens.actor(bearer(token + "x"), None)

    assert token not in line
    assert token not in repr(vars(tokens))
    assert token not in str(caught.value.problem())


def test_tokens_are_new_each_time_and_long() -> None:
    """256 bits, in characters that a header takes."""
    many = {new_token() for _ in range(1000)}

    assert len(many) == 1000
    assert all(len(token) >= 43 and token.isascii() and token.strip() == token for token in many)


def test_the_file_is_read_again_when_it_changes(tmp_path: Path) -> None:
    """A token is added, a role changes and a token is withdrawn, all without a restart."""
    ada, bob = new_token(), new_token()
    path = write(tmp_path / "tokens", line_for("ada", "operator", ada))
    tokens = Tokens(path)
    with pytest.raises(Unauthorized):
        tokens.actor(bearer(bob), None)

    write(path, line_for("ada", "viewer", ada), line_for("bob", "operator", bob), moment=2)
    assert tokens.actor(bearer(ada), None).role == "viewer"
    assert tokens.operator(bearer(bob), None).name == "bob"

    write(path, line_for("bob", "operator", bob), moment=3)
    with pytest.raises(Unauthorized):
        tokens.actor(bearer(ada), None)


def test_a_file_that_breaks_later_leaves_the_tokens_that_were_known(tmp_path: Path) -> None:
    """Neither a typo nor a deleted file opens or closes a door; mended, it is read again."""
    ada, bob = new_token(), new_token()
    path = write(tmp_path / "tokens", line_for("ada", "operator", ada))
    tokens = Tokens(path)

    write(path, line_for("bob", "operator", bob), "oops", moment=2)
    assert tokens.operator(bearer(ada), None).name == "ada"
    with pytest.raises(Unauthorized):
        tokens.actor(bearer(bob), None)
    path.unlink()
    assert tokens.operator(bearer(ada), None).name == "ada"
    with pytest.raises(Unauthorized):
        tokens.actor(None, "127.0.0.1")
    write(path, line_for("bob", "operator", bob), moment=3)
    assert tokens.operator(bearer(bob), None).name == "bob"


@pytest.mark.parametrize(
    "line",
    [
        "ada operator",
        "ada root " + "0" * 64,
        "ada operator " + "0" * 63,
        "ada operator " + "z" * 64,
        "ada operator " + "é" * 64,
        "Ada Lovelace operator " + "0" * 64,
        "0" * 64,
    ],
)
def test_a_service_does_not_start_with_a_line_it_cannot_read(tmp_path: Path, line: str) -> None:
    """The file and the line are named, and what a line looks like."""
    path = write(tmp_path / "tokens", "# ours", line)

    with pytest.raises(
        ConfigurationError, match=r"tokens, line 2: must be `<name> <viewer\|operator> <sha256 in hex>`"
    ):
        Tokens(path)


def test_a_file_that_is_no_text_is_refused_at_the_start_and_ignored_later(tmp_path: Path) -> None:
    """A key file put in its place by mistake."""
    ada = new_token()
    path = write(tmp_path / "tokens", line_for("ada", "operator", ada))
    tokens = Tokens(path)
    path.write_bytes(b"\xff\xfe\x00")

    assert tokens.operator(bearer(ada), None).name == "ada"
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Tokens(path)


def test_a_service_does_not_start_without_the_file_it_was_told_of(tmp_path: Path) -> None:
    """A missing file must not mean "no tokens needed"."""
    with pytest.raises(ConfigurationError, match="cannot be read"):
        Tokens(tmp_path / "tokens")


@pytest.mark.parametrize("client", ["127.0.0.1", "127.8.8.8", "::1", None])
def test_without_a_file_everyone_on_loopback_is_operator(client: str | None) -> None:
    """IPv4, IPv6, and a Unix socket, which has no address."""
    tokens = Tokens(None)

    assert not tokens.configured
    assert tokens.operator(None, client) == Actor("local", "operator")


EVERYWHERE = "0.0.0.0"


@pytest.mark.parametrize(
    "client", ["10.0.0.1", EVERYWHERE, "::", "fe80::1", "2001:db8::1", "localhost", "", "127.0.0.1.evil"]
)
def test_without_a_file_nobody_else_is_anything(client: str) -> None:
    """Whatever they send along."""
    tokens = Tokens(None)

    for header in (None, bearer(new_token())):
        with pytest.raises(Forbidden, match="UNDERSTUDY_TOKENS_FILE"):
            tokens.actor(header, client)


@given(st.text(max_size=30), st.sampled_from(["viewer", "operator"]))
def test_whatever_name_is_given_its_line_is_read_back_or_it_is_refused(name: str, role: Role) -> None:
    """A name with blanks, a line break or a `#` would break the file for everyone."""
    token = new_token()
    try:
        line = line_for(name, role, token)
    except ConfigurationError as error:
        assert "name" in error.detail
        assert not name.isalnum()
        return
    with tempfile.TemporaryDirectory() as folder:
        assert Tokens(write(Path(folder) / "tokens", line)).actor(bearer(token), None) == Actor(name, role)


@pytest.mark.parametrize(
    ("origin", "host", "allowed"),
    [
        (None, "127.0.0.1:3000", True),  # no browser
        ("http://127.0.0.1:3000", "127.0.0.1:3000", True),
        ("http://localhost:3000", "localhost:3000", True),
        ("http://LOCALHOST:3000", "localhost:3000", True),
        ("http://[::1]:3000", "[::1]:3000", True),
        ("http://evil.example", "127.0.0.1:3000", False),  # another page sends it
        ("http://localhost:8080", "localhost:3000", False),
        ("http://evil.example:3000", "evil.example:3000", False),  # somebody's DNS points here
        ("null", "127.0.0.1:3000", False),
        ("null", "null", False),
        ("http://127.0.0.1:3000", None, False),
        ("http://[broken", "[broken", False),
    ],
)
def test_without_tokens_only_the_service_s_own_page_on_loopback_may_order(
    origin: str | None, host: str | None, allowed: bool
) -> None:
    """Everyone on loopback is operator, and a browser there runs everybody's pages."""
    tokens = Tokens(None)
    if allowed:
        tokens.own_page(origin, host)
    else:
        with pytest.raises(Forbidden, match="which is not this service"):
            tokens.own_page(origin, host)


def test_with_tokens_the_page_may_have_any_name(tmp_path: Path) -> None:
    """A token is no cookie: a page elsewhere does not have it. The page that has it may stand behind any name."""
    file = tmp_path / "tokens"
    file.write_text(line_for("ada", "operator", "t"))
    Tokens(file).own_page("https://rollout.example", "rollout.example")
    with pytest.raises(Forbidden):
        Tokens(file).own_page("https://evil.example", "rollout.example")
