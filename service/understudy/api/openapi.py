"""The OpenAPI document, generated from the table of operations and the types of their documents. Pure."""

import inspect
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import msgspec
from pydantic.json_schema import models_json_schema

from understudy import __version__
from understudy.api.feedback import FeedbackRequest
from understudy.api.operation import ACCESS_ERRORS, IF_NONE_MATCH, Body, Operation
from understudy.api.operations import OPERATIONS
from understudy.api.v2 import describe
from understudy.api.v2.documents import V2Error
from understudy.domain import JsonObject, Variant
from understudy.errors import Problem
from understudy.inference.cards import MULTILABEL, Card
from understudy.inference.decoding import Field
from understudy.rollout.loadtest import Record
from understudy.rollout.losses import label_classes
from understudy.rollout.policy import Policy

_REF = "#/components/schemas/"
_MEDIA_TYPES = {"text/html", "text/plain"}
_BINARY = {
    "application/octet-stream": {
        "schema": {"type": "string", "format": "binary", "description": "JSON, then raw tensors"}
    }
}
_SECURITY: list[dict[str, list[str]]] = [{}, {"token": []}]
_DROPPED = {"title", "propertyNames", "$defs", "properties"}
"""Members of JSON Schema that OpenAPI 3.0 does not have or that repeat a name; `properties` are translated one by one."""


def document(base: JsonObject, policy: Policy, fields: Sequence[Field], cards: Mapping[Variant, Card]) -> JsonObject:
    """OpenAPI 3.0 of every call of this service.

    Args:
        base: BentoML's document; its own paths stay in it.
    """
    components = dict(base.get("components") or {})
    schemas = dict(components.get("schemas") or {}) | _schemas() | _model_schemas(policy, fields, cards)
    components |= {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    info = dict(base.get("info") or {}) | {
        "title": f"Understudy: {policy.model}",
        "version": __version__,
        "description": "Predictions, labels, and the state of the rollout. Errors are problem details (RFC 9457).",
    }
    # BentoML describes its own health checks. Our router answers them with problem details instead.
    own = {"/livez", "/readyz", "/healthz"}
    kept = {path: item for path, item in dict(base.get("paths") or {}).items() if path not in own}
    return {**base, "info": info, "paths": kept | paths(), "components": components}


def paths() -> dict[str, JsonObject]:
    """OpenAPI path items of the service's calls."""
    items: dict[str, JsonObject] = {}
    for operation in (*OPERATIONS, *describe.operations()):
        method, path = operation.call.split(" ")
        items.setdefault(path, {})[method.lower()] = _operation(operation, v2=path.startswith("/v2"))
    return items


def _operation(operation: Operation, *, v2: bool) -> JsonObject:
    raw = _BINARY if v2 and operation.request is not None else {}
    text = operation.summary if v2 else operation.response_text
    success: JsonObject = {"description": text, "content": _content(operation.response) | raw}
    if operation.headers:
        success["headers"] = {
            name: {"schema": {"type": "string"}, "description": meaning} for name, meaning in operation.headers
        }
    responses: JsonObject = {"200": success}
    if IF_NONE_MATCH in operation.parameters:
        responses["304"] = {"description": "nothing has changed since the response with that tag"}
    for error in operation.errors + (ACCESS_ERRORS if operation.secure else ()):
        meaning = "an error of the protocol" if v2 else (error.__doc__ or "").splitlines()[0]
        status = 400 if v2 and error.kind == "invalid-input" else int(error.status)
        problem = {"application/problem+json": {"schema": {"$ref": _REF + "Problem"}}}
        responses[str(status)] = {"description": meaning, "content": _content(V2Error) if v2 else problem}
    made: JsonObject = {"operationId": operation.name, "summary": operation.summary, "responses": responses}
    if operation.description:
        made["description"] = operation.description
    if operation.parameters:
        made["parameters"] = list(operation.parameters)
    if operation.request is not None:
        made["requestBody"] = {"required": not operation.optional, "content": _content(operation.request) | raw}
    return made | ({"security": _SECURITY} if operation.secure else {})


def _content(body: Body) -> JsonObject:
    if body in _MEDIA_TYPES:
        return {str(body): {"schema": {"type": "string"}}}
    name = body if isinstance(body, str) else body.__name__
    return {"application/json": {"schema": {"$ref": _REF + name}}}


def _schemas() -> dict[str, JsonObject]:
    """The schemas that do not depend on the model."""
    operations = (*OPERATIONS, *describe.operations())
    bodies = [each for operation in operations for each in (operation.request, operation.response)]
    types = dict.fromkeys(each for each in bodies if isinstance(each, type))
    _, schemas = msgspec.json.schema_components(
        [*types, FeedbackRequest, Problem, V2Error], ref_template=_REF + "{name}"
    )
    prefix = "LoadTest"  # pydantic's names, which are too general for the whole document
    _, record = models_json_schema([(Record, "validation")], ref_template=_REF + prefix + "{model}")
    schemas |= {prefix + name: schema for name, schema in record["$defs"].items()}
    return {name: openapi_schema(schema) for name, schema in schemas.items()}


def openapi_schema(schema: Any) -> Any:
    """A JSON Schema as OpenAPI 3.0 has it: `nullable` instead of the type null, one example, plain descriptions."""
    if isinstance(schema, list):
        return [openapi_schema(each) for each in schema]
    if not isinstance(schema, dict):
        return schema
    made = {key: openapi_schema(value) for key, value in schema.items() if key not in _DROPPED}
    if "properties" in schema:
        made["properties"] = {name: openapi_schema(each) for name, each in schema["properties"].items()}
    if "examples" in made:
        made["example"] = made.pop("examples")[0]
    if "const" in made:
        made["enum"] = [made.pop("const")]
    if "description" in made:
        made["description"] = " ".join(inspect.cleandoc(made["description"]).split("\n\nAttributes:")[0].split())
    if made.get("default", ...) is None:
        del made["default"]
    choices = [each for each in made.get("anyOf", ()) if each.get("type") != "null"]
    if len(choices) < len(made.get("anyOf", ())):
        del made["anyOf"]
        made |= _nullable(choices)
    if "$ref" in made and len(made) > 1:
        made["allOf"] = [{"$ref": made.pop("$ref")}]
    return made


def _nullable(choices: list[JsonObject]) -> JsonObject:
    """One of `choices`, or null. OpenAPI 3.0 has `nullable` only beside a type."""
    first, *others = choices
    widened = {"nullable": True, **({"allOf": [first]} if "$ref" in first else first)}
    return {"anyOf": [widened, *others]} if others else widened


def _model_schemas(policy: Policy, fields: Sequence[Field], cards: Mapping[Variant, Card]) -> dict[str, JsonObject]:
    """The schemas that depend on the model: rows, predictions and labels."""
    card, candidate = cards[Variant.PRIMARY], cards.get(Variant.CANDIDATE)
    row = {field.name: _field(field) for field in fields}
    for name in (policy.route_by, policy.unit):
        if name and name not in row:
            meaning = "keeps a caller on one variant, or names what repeats; it is no input of the model"
            row[name] = _nullable([{"type": "string"}, {"type": "integer"}]) | {"description": meaning}
    label, prediction = _label(card, candidate), _prediction(card)
    string = {"type": "string"}
    feedback = openapi_schema(
        msgspec.json.schema_components([FeedbackRequest], ref_template=_REF + "{name}")[1]["LabelItem"]
    )
    feedback["properties"]["label"] = label
    return {
        "Row": _object(row, (field.name for field in fields if field.required)),
        "PredictRequest": _object(
            {
                "rows": {"type": "array", "minItems": 1, "items": {"$ref": _REF + "Row"}},
                "key": {
                    **string,
                    "nullable": True,
                    "maxLength": 256,
                    "description": "routing key of the whole request",
                },
            },
            ["rows"],
        ),
        "PredictResponse": _object(
            {
                "model": string,
                "variant": {**string, "enum": [variant.value for variant in Variant]},
                "version": string,
                "fallback": {
                    "type": "boolean",
                    "description": "whether the primary answered in place of the candidate",
                },
                "predictions": {"type": "array", "items": _object(prediction, ["prediction_id"])},
            },
            ["model", "variant", "version", "fallback", "predictions"],
        ),
        "LabelItem": feedback,
    }


def _label(card: Card, candidate: Card | None) -> JsonObject:
    if card.task == MULTILABEL:
        return {"type": "array", "items": {}, "description": "the classes that are true"}
    label: JsonObject = {"description": card.label or "what the model predicts"}
    if card.classes:
        label["enum"] = label_classes(card.classes, candidate.classes if candidate else None)
    return label | (_value(card) if card.task == "regression" and _is_vector(card) else {})


def _prediction(card: Card) -> JsonObject:
    """The members of one row's prediction."""
    prediction: JsonObject = {"prediction_id": {"type": "string"}}
    if card.task.endswith("-classification"):
        by_class = {"type": "object", "additionalProperties": {"type": "number"}}
        in_order = {"type": "array", "items": {"type": "number"}}  # if no class has a name
        label = _label(card, None)
        return prediction | {"label": label, "probabilities": by_class if card.classes else in_order}
    if card.task == "regression":
        return prediction | {"value": _value(card)}
    return prediction | {"outputs": {"type": "object"}}


def _is_vector(card: Card) -> bool:
    return any(output.role == "value" and output.width != 1 for output in card.outputs)


def _value(card: Card) -> JsonObject:
    return {"type": "array", "items": {"type": "number"}} if _is_vector(card) else {"type": "number"}


def _field(field: Field) -> JsonObject:
    schema: JsonObject
    if field.dtype == "string":
        schema = {"type": "string"}
    elif field.dtype == "bool":
        schema = {"type": "boolean"}
    else:
        schema = {"type": "number" if field.dtype.startswith("float") else "integer", "description": field.dtype}
    if field.scalar:
        return schema | ({"nullable": True} if field.nullable or not field.required else {})
    for size in reversed(field.shape):
        schema = {"type": "array", "items": schema} | ({"minItems": size, "maxItems": size} if size else {})
    return schema


def _object(properties: JsonObject, required: Iterable[str]) -> JsonObject:
    names = list(required)
    schema: JsonObject = {"type": "object", "properties": properties, "additionalProperties": False}
    return schema | ({"required": names} if names else {})
