"""A client that has the content gets 304 without a body; every other client gets all of it."""

import pytest
from starlette.requests import Request

from understudy.http.responses import has_tag, tag_of, tagged

BODY = b'{"phase":"shadow"}'


def request(known: str | None) -> Request:
    headers = [] if known is None else [(b"if-none-match", known.encode())]
    return Request({"type": "http", "headers": headers})


def call(body: bytes, tag: str | None = None, known: str | None = None) -> tuple[int, dict[str, str], bytes]:
    response = tagged(request(known), body, tag)
    return response.status_code, dict(response.headers), bytes(response.body)


def test_the_same_content_is_sent_once() -> None:
    """The tag that came with it, sent back, is answered with 304 and the same tag; no other body has that tag."""
    status, headers, body = call(BODY)
    again = call(BODY, known=headers["etag"])

    assert (status, body) == (200, BODY)
    assert (again[0], again[1]["etag"], again[2]) == (304, headers["etag"], b"")
    assert "content-length" not in again[1]  # it would be that of the whole answer
    assert call(BODY + b" ", known=headers["etag"])[0] == 200
    assert headers["cache-control"] == "private, no-cache"  # behind a token: no shared cache may keep it


@pytest.mark.parametrize(
    ("known", "found"),
    [("{tag}", True), ("W/{tag}", True), ('"other", {tag}', True), ('"other"', False), ("", False), (None, False)],
)
def test_tags_are_compared_as_rfc_9110_says(known: str | None, found: bool) -> None:
    """A list of them, weak ones too (section 13.1.2)."""
    tag = tag_of(BODY)
    assert has_tag(request(known and known.format(tag=tag)), tag) is found


def test_a_tag_may_begin_with_the_revision_and_still_be_of_the_content() -> None:
    """What an order takes as `If-Match` is the revision; the rest tells whether anything else is new."""
    assert tag_of(BODY, 7).startswith('"7-')
    assert tag_of(BODY, 7) != tag_of(BODY, 8)
    assert tag_of(BODY, 7) != tag_of(BODY + b" ", 7)
