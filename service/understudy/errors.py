"""Every error that is raised on purpose, with its HTTP status.

::

    UnderstudyError
    ├── RequestError                 the caller can correct it
    │   ├── MalformedRequest   400   not JSON, not an object
    │   ├── Unauthorized       401   a token is required
    │   ├── Forbidden          403   the role is missing
    │   ├── NotFound           404
    │   ├── WrongMethod        405
    │   ├── BodyTimeout        408   the body did not arrive in time
    │   ├── NotAllowedNow      409   the phase does not allow it, or the revision has changed
    │   ├── TooLarge           413
    │   ├── WrongMediaType     415
    │   ├── InvalidInput       422   does not match the model's signature: names rows and fields
    │   └── Overloaded         429   with Retry-After
    ├── NotReady               503
    ├── DeadlineExceeded       504
    │   └── ExpectedLate             it was not tried, because it is expected to take too long
    ├── InferenceError         500   a model failed on input that matches its signature
    │   ├── NotFinite                its output has NaN or infinity: names rows
    │   ├── WrongShape               its output has another shape than its card declares
    │   ├── RunCancelled             its run was cancelled, since nobody waits for it any longer
    │   └── CandidateAway            its process is down or starting; the primary answers instead
    └── ConfigurationError           the service does not start; the message says what to change
        └── TrialFailed              a model hung, died or ran out of memory when it was tried

Each boundary translates once: the router renders these as RFC 9457 problem details, the store wraps its driver's errors in
`StoreError`, and the engine wraps its runtime's in `InferenceError`.
"""

from collections.abc import Mapping, Sequence
from http import HTTPStatus
from typing import NotRequired, Required, TypedDict


class InputProblem(TypedDict, total=False):
    """One thing that is wrong with the input: where, and what. Row and field are null if it is neither."""

    row: int | None
    field: str | None
    problem: Required[str]


class Problem(TypedDict):
    """An error as problem details (RFC 9457)."""

    type: str
    title: str
    status: int
    detail: str
    errors: NotRequired[list[InputProblem]]


class UnderstudyError(Exception):
    """An error that this project raises on purpose."""

    status = HTTPStatus.INTERNAL_SERVER_ERROR
    kind = "internal"

    def __init__(self, detail: str, *, headers: Mapping[str, str] | None = None) -> None:
        super().__init__(detail)
        self.detail = detail
        self.headers = dict(headers or {})

    def problem(self) -> Problem:
        """The body of an `application/problem+json` answer (RFC 9457, section 3)."""
        return {
            "type": f"urn:understudy:problem:{self.kind}",
            "title": self.status.phrase,
            "status": int(self.status),
            "detail": self.detail,
        }


def unexpected_error() -> UnderstudyError:
    """What a caller learns of a bug. The log has its traceback."""
    return UnderstudyError("an unexpected error; the log has the details")


class RequestError(UnderstudyError):
    """The caller can correct it."""

    status = HTTPStatus.BAD_REQUEST
    kind = "bad-request"


class MalformedRequest(RequestError):
    """The body is not JSON, or not an object of the expected kind."""

    kind = "malformed"


def not_json(error: Exception) -> MalformedRequest:
    """The error for a body that cannot be read."""
    if isinstance(error, RecursionError):
        return MalformedRequest("the body is nested too deeply")
    return MalformedRequest(f"the body is not {'UTF-8' if isinstance(error, UnicodeDecodeError) else 'JSON'}: {error}")


class Unauthorized(RequestError):
    """A token is required, and none or an unknown one was sent."""

    status = HTTPStatus.UNAUTHORIZED
    kind = "unauthorized"


class Forbidden(RequestError):
    """The caller's role does not allow it."""

    status = HTTPStatus.FORBIDDEN
    kind = "forbidden"


class NotFound(RequestError):
    """This path does not exist."""

    status = HTTPStatus.NOT_FOUND
    kind = "not-found"


class WrongMethod(RequestError):
    """The path exists, but not for this method."""

    status = HTTPStatus.METHOD_NOT_ALLOWED
    kind = "method-not-allowed"


class BodyTimeout(RequestError):
    """The body did not arrive in time."""

    status = HTTPStatus.REQUEST_TIMEOUT
    kind = "body-timeout"


class NotAllowedNow(RequestError):
    """The rollout's phase does not allow it, or its revision has changed since the caller read it."""

    status = HTTPStatus.CONFLICT
    kind = "conflict"


class TooLarge(RequestError):
    """The body has more bytes, or more rows, than the named limit."""

    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    kind = "too-large"


class WrongMediaType(RequestError):
    """This path does not accept the content type."""

    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE
    kind = "unsupported-media-type"


class InvalidInput(RequestError):
    """Input that does not match the model's signature. `errors` lists row, field and problem, at most `LISTED` of them."""

    status = HTTPStatus.UNPROCESSABLE_ENTITY
    kind = "invalid-input"
    LISTED = 20

    def __init__(self, errors: Sequence[InputProblem], detail: str | None = None) -> None:
        first = errors[0] if errors else None
        super().__init__(detail or (f"{_place(first)}: {first['problem']}" if first else "the input is invalid"))
        self.errors = list(errors)

    def problem(self) -> Problem:
        """RFC 9457 body with the extension member `errors`."""
        body: Problem = {**super().problem(), "errors": self.errors[: self.LISTED]}
        if len(self.errors) > self.LISTED:
            body["detail"] += f" (and {len(self.errors) - 1} more; the first {self.LISTED} are listed)"
        return body


class Overloaded(RequestError):
    """A queue with a named limit is full."""

    status = HTTPStatus.TOO_MANY_REQUESTS
    kind = "overloaded"

    def __init__(self, detail: str, *, retry_after_s: int = 1) -> None:
        super().__init__(detail, headers={"Retry-After": str(retry_after_s)})


class NotReady(UnderstudyError):
    """A part that the answer needs is unavailable, or not ready yet."""

    status = HTTPStatus.SERVICE_UNAVAILABLE
    kind = "not-ready"


class StoreError(NotReady):
    """The database call failed. The message has the driver's own text."""

    kind = "store"


class StoreLost(StoreError):
    """The database is no longer the one that was opened: it was deleted, replaced or truncated while the service ran."""

    kind = "store-lost"


class DeadlineExceeded(UnderstudyError):
    """There was no answer within the deadline."""

    status = HTTPStatus.GATEWAY_TIMEOUT
    kind = "deadline"


class ExpectedLate(DeadlineExceeded, TimeoutError):
    """The answer is expected to take longer than the deadline, so the model was not asked."""

    kind = "expected-late"


class InferenceError(UnderstudyError):
    """A model failed on input that matches its signature."""

    kind = "inference"


class NotFinite(InferenceError):
    """A model's output has NaN or infinity. `errors` lists the rows of the request, at most `LISTED` of them.

    Args:
        rows: the rows of the request without a finite answer, counted from 0.
        of: number of rows in the request.
    """

    kind = "not-finite"
    LISTED = 20

    def __init__(self, rows: Sequence[int], of: int) -> None:
        numbers = ", ".join(map(str, rows[: self.LISTED])) + (", …" if len(rows) > self.LISTED else "")
        which = "" if of == 1 else f" for {len(rows)} of the {of} rows (row {numbers}), so the request has no answer"
        super().__init__(f"the model answered with a number that is not finite{which}")
        self.rows = list(rows)

    def problem(self) -> Problem:
        """RFC 9457 body with the extension member `errors`."""
        problem = "the model's answer is not a finite number"
        listed: list[InputProblem] = [
            {"row": row, "field": None, "problem": problem} for row in self.rows[: self.LISTED]
        ]
        return {**super().problem(), "errors": listed}


class WrongShape(InferenceError):
    """A model's output has another shape than its card declares, such as too few rows."""

    kind = "wrong-shape"


class RunCancelled(InferenceError):
    """The run was cancelled: everybody who waited for it has been answered, or the process stops."""

    kind = "cancelled"

    def __init__(self) -> None:
        super().__init__("the run was cancelled, because nobody waits for it any longer")


class CandidateAway(InferenceError):
    """The candidate's process is unavailable: it was not called, or it died before it answered. It is probed until it is back.

    Attributes:
        ever_up: False until the process has answered once: while it starts, the model is not at fault.
    """

    kind = "candidate-away"

    def __init__(self, *, ever_up: bool) -> None:
        super().__init__(f"the candidate's process is {'down' if ever_up else 'starting'}; it is being probed")
        self.ever_up = ever_up


class ConfigurationError(UnderstudyError):
    """The service cannot start as configured. The message says what to change."""

    kind = "configuration"


class TrialFailed(ConfigurationError):
    """A model hung, died or ran out of memory when it was opened in a process of its own."""

    kind = "model-trial-failed"


class ModelChanged(ConfigurationError):
    """A model's files are not those that the service was started with."""

    kind = "model-changed"
    status = HTTPStatus.CONFLICT


def _place(error: InputProblem) -> str:
    row, name = error.get("row"), error.get("field")
    if row is None:
        return f"field {name!r}" if name else "body"
    return f"row {row}, field {name!r}" if name else f"row {row}"
