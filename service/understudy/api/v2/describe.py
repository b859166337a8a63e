"""The calls of the protocol, as a table that OpenAPI is generated from."""

from collections.abc import Iterator

from understudy.api.operation import BODY_ERRORS, KEY, Operation, parameter
from understudy.api.v2.documents import V2Health, V2InferResponse, V2Model, V2Ready, V2Server
from understudy.api.v2.large import V2InferRequest
from understudy.errors import (
    DeadlineExceeded,
    Forbidden,
    InferenceError,
    NotFound,
    NotReady,
    Overloaded,
    Unauthorized,
)

_INFER = (
    "Open Inference Protocol. Routed, recorded and rehearsed like /predict. The response's `parameters` have `variant`, "
    "`fallback` and `prediction_id`, which is the first row's: the id of row i ends in a number that is i higher. Errors are "
    '`{"error": …}` here, and tensors that do not fit are 400.'
)
_PINNED = "Pinned to the variant with this version: operators only, where there are tokens, and no evidence. "
_ERRORS = (
    *BODY_ERRORS,
    Unauthorized,
    Forbidden,
    NotFound,
    Overloaded,
    InferenceError,
    NotReady,
    DeadlineExceeded,
)


def operations() -> Iterator[Operation]:
    """Every call of the protocol."""
    yield Operation(
        "GET /v2",
        "v2Server",
        "The server's name, version and extensions of the Open Inference Protocol",
        V2Server,
        secure=False,
    )
    yield Operation("GET /v2/health/live", "v2Live", "Liveness: the event loop is running", V2Health, secure=False)
    yield Operation(
        "GET /v2/health/ready", "v2Ready", "Readiness, same as /readyz", V2Health, errors=(NotReady,), secure=False
    )
    yield from _model_calls("/v2/models/{model}", "v2Model", "routed", ("model",), _INFER)
    yield from _model_calls(
        "/v2/models/{model}/versions/{version}",
        "v2Version",
        "pinned to a version",
        ("model", "version"),
        _PINNED + _INFER,
    )


def _model_calls(path: str, name: str, of: str, parts: tuple[str, ...], description: str) -> Iterator[Operation]:
    named = tuple(parameter(part, f"the {part}", "path") | {"required": True} for part in parts)
    yield Operation(
        f"GET {path}", name, f"Inputs and outputs, {of}", V2Model, parameters=named, errors=(NotFound,), secure=False
    )
    yield Operation(
        f"GET {path}/ready",
        f"{name}Ready",
        f"Whether the model can answer, {of}",
        V2Ready,
        parameters=named,
        errors=(NotFound, NotReady),
        secure=False,
    )
    yield Operation(
        f"POST {path}/infer",
        f"{name}Infer",
        f"Predict rows, {of}",
        V2InferResponse,
        description=description,
        request=V2InferRequest,
        parameters=(
            *named,
            KEY,
            parameter("X-Rollout-Variant", "pins to `primary` or `candidate`"),
            parameter("Inference-Header-Content-Length", "where the JSON ends and raw tensors begin", kind="integer"),
        ),
        errors=_ERRORS,
    )
