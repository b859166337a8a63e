"""The OpenAPI of the protocol's calls. Pure."""

from collections.abc import Mapping
from typing import Any

_REF = "#/components/schemas/V2"
_PARAMETERS = {"type": "object", "description": "what is not known is ignored"}
_STRING: Mapping[str, Any] = {"type": "string"}
_SHAPE: Mapping[str, Any] = {"type": "array", "items": {"type": "integer"}}
_INFER = (
    "Open Inference Protocol. Routed, recorded and rehearsed as /predict. The answer's `parameters` have `variant`, `fallback` "
    "and `prediction_id`, the first row's: that of row i ends in the number that is i higher. Errors here are "
    '`{"error": …}`, and tensors that do not fit are 400.'
)


def paths() -> dict[str, Any]:
    """The calls, as OpenAPI path items."""
    found: dict[str, Any] = {
        "/v2": {
            "get": _call(
                "v2Server", "The server's name, version and extensions of the Open Inference Protocol", "Server"
            )
        },
        "/v2/health/live": {"get": _call("v2Live", "The process turns", "Health")},
        "/v2/health/ready": {"get": _call("v2Ready", "As /readyz", "Health", 503)},
    }
    for version in ("", "/versions/{version}"):
        path, name = f"/v2/models/{{model}}{version}", "Version" if version else "Model"
        of = "pinned to a version" if version else "routed"
        given = [
            {"in": "path", "name": part, "required": True, "schema": _STRING}
            for part in (("model", "version") if version else ("model",))
        ]
        pinned = "Pinned to the variant with this version: operators only, where there are tokens, and no evidence. "
        calls = {
            path: ("get", _call(f"v2{name}", f"Inputs and outputs, {of}", "Model", 404)),
            f"{path}/ready": ("get", _call(f"v2{name}Ready", f"Whether it can answer, {of}", "Ready", 404, 503)),
            f"{path}/infer": (
                "post",
                _infer(f"v2{name}Infer", f"Predict rows, {of}", (pinned if version else "") + _INFER),
            ),
        }
        found |= {
            where: {method: call | {"parameters": given + call.get("parameters", [])}}
            for where, (method, call) in calls.items()
        }
    return found


def schemas() -> dict[str, Any]:
    """What the calls speak of."""
    tensor = {"name": _STRING, "datatype": _STRING, "shape": _SHAPE, "parameters": _PARAMETERS}
    data = {
        "type": "array",
        "items": {},
        "description": "flat or nested; absent with `binary_data_size` in `parameters`",
    }
    wanted = {"name": _STRING, "parameters": _PARAMETERS}
    return {
        "V2Error": _object({"error": _STRING}, "error"),
        "V2Health": _object({"live": {"type": "boolean"}, "ready": {"type": "boolean"}}, "live"),
        "V2Ready": _object({"name": _STRING, "ready": {"type": "boolean"}}, "name", "ready"),
        "V2Server": _object(
            {"name": _STRING, "version": _STRING, "extensions": _list(_STRING)}, "name", "version", "extensions"
        ),
        "V2Tensor": _object(tensor, "name", "datatype", "shape"),
        "V2Model": _object(
            {
                "name": _STRING,
                "versions": _list(_STRING),
                "platform": _STRING,
                "inputs": _list(_ref("Tensor")),
                "outputs": _list(_ref("Tensor")),
            },
            "name",
            "versions",
            "platform",
            "inputs",
            "outputs",
        ),
        "V2InferRequest": _object(
            {
                "id": _STRING,
                "parameters": _PARAMETERS,
                "outputs": _list(_object(wanted, "name")),
                "inputs": _list(_object(tensor | {"data": data}, "name", "datatype", "shape")),
            },
            "inputs",
        ),
        "V2InferResponse": _object(
            {
                "model_name": _STRING,
                "model_version": _STRING,
                "id": _STRING,
                "parameters": _object(
                    {"variant": _STRING, "fallback": {"type": "boolean"}, "prediction_id": _STRING},
                    "variant",
                    "fallback",
                    "prediction_id",
                ),
                "outputs": _list(_object(tensor | {"data": data}, "name", "datatype", "shape")),
            },
            "model_name",
            "model_version",
            "parameters",
            "outputs",
        ),
    }


def _infer(name: str, summary: str, description: str) -> dict[str, Any]:
    header = {"in": "header", "schema": _STRING}
    call = _call(name, summary, "InferResponse", 400, 401, 403, 404, 408, 413, 415, 429, 500, 503, 504)
    raw = {
        "application/octet-stream": {"schema": {**_STRING, "format": "binary", "description": "JSON, then raw tensors"}}
    }
    call["responses"]["200"]["content"] |= raw
    return call | {
        "description": description,
        "parameters": [
            {**header, "name": "X-Rollout-Key", "description": "keeps a caller on one variant"},
            {**header, "name": "X-Rollout-Variant", "description": "pins to `primary` or `candidate`"},
            {
                **header,
                "name": "Inference-Header-Content-Length",
                "schema": {"type": "integer"},
                "description": "where the body's JSON ends and raw tensors begin",
            },
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("InferRequest")}, **raw}},
        "security": [{}, {"token": []}],
    }


def _call(name: str, summary: str, schema: str, *errors: int) -> dict[str, Any]:
    bad = {str(status): _json("an error", "Error") for status in errors}
    return {"operationId": name, "summary": summary, "responses": {"200": _json(summary, schema)} | bad}


def _json(description: str, schema: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ref(schema)}}}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REF + name}


def _list(items: Mapping[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


def _object(properties: Mapping[str, Any], *required: str) -> dict[str, Any]:
    return {"type": "object", "properties": dict(properties), "required": list(required)}
