"""A REST client of a running service, for the command line and the replay."""

import os
from typing import TYPE_CHECKING, Any, Self

from understudy.errors import UnderstudyError

if TYPE_CHECKING:  # loading it takes longer than most commands
    import httpx

DEFAULT_URL = "http://127.0.0.1:3000"


class CallFailed(UnderstudyError):
    """The service could not be reached, or answered with an error. The message is the service's."""

    kind = "call"


def headers(token: str | None) -> dict[str, str]:
    """The headers with the caller's token, by default from `UNDERSTUDY_TOKEN`."""
    token = token or os.environ.get("UNDERSTUDY_TOKEN")
    return {"Authorization": f"Bearer {token}"} if token else {}


class Client:
    """A connection to one service.

    Args:
        url: base URL of the service.
        token: for a service that requires one.
    """

    def __init__(self, url: str = DEFAULT_URL, token: str | None = None, *, timeout_s: float = 30.0) -> None:
        import httpx

        self.url = url.rstrip("/")
        self._http = httpx.Client(base_url=self.url, headers=headers(token), timeout=timeout_s)

    def get(self, path: str, **params: str | int) -> Any:
        """The JSON at a path.

        Raises:
            CallFailed: with the service's message, or why it could not be reached.
        """
        return self._call("GET", path, params=params).json()

    def text(self, path: str) -> str:
        """The text at a path."""
        return self._call("GET", path).text

    def post(self, path: str, body: object, *, revision: int | None = None) -> Any:
        """Post JSON. With `revision` the call fails if the plan has another revision by now."""
        extra = {"If-Match": f'"{revision}"'} if revision is not None else {}
        return self._call("POST", path, json=body, headers=extra).json()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection."""
        self._http.close()

    def _call(self, method: str, path: str, **options: Any) -> "httpx.Response":
        import httpx

        try:
            response = self._http.request(method, path, **options)
        except httpx.HTTPError as error:
            raise CallFailed(
                f"{self.url} does not answer ({error}); is the service running? `understudy serve` starts it"
            ) from error
        if response.is_error:
            raise CallFailed(f"{method} {path}: {response.status_code} {explain(response)}")
        return response


def explain(response: "httpx.Response") -> str:
    """The message of an error response."""
    try:
        return str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return response.text[:300]
