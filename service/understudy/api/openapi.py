"""The OpenAPI document: BentoML's own, with the front door's calls written in from the model's signature. Pure."""

from collections.abc import Mapping, Sequence
from typing import Any

from understudy import __version__
from understudy.api.v2 import describe
from understudy.domain import Fate, Phase, Variant
from understudy.errors import (
    BodyTimeout,
    DeadlineExceeded,
    Forbidden,
    InferenceError,
    InvalidInput,
    MalformedRequest,
    NotAllowedNow,
    NotReady,
    Overloaded,
    TooLarge,
    Unauthorized,
    UnderstudyError,
    WrongMediaType,
)
from understudy.inference.cards import MULTILABEL, Card, width_of
from understudy.inference.decoding import Field
from understudy.observability.timeline import SPANS, TOLD
from understudy.rollout.losses import label_classes
from understudy.rollout.policy import Policy

_BODY_ERRORS = (MalformedRequest, BodyTimeout, TooLarge, WrongMediaType, InvalidInput)
_REF = "#/components/schemas/"
_HEADER = {"in": "header", "schema": {"type": "string"}}
_KNOWN = {**_HEADER, "name": "If-None-Match", "description": "the `ETag` of what one has: 304, should nothing be new"}
_UNCHANGED = {"304": {"description": "nothing is new since the answer with that tag"}}
_FORCED = {"type": "boolean", "description": "start a step without what it requires; needs a `reason`, which is logged"}
_SECURE: list[dict[str, list[str]]] = [{}, {"token": []}]


def document(
    base: Mapping[str, Any], policy: Policy, fields: Sequence[Field], cards: Mapping[Variant, Card]
) -> dict[str, Any]:
    """OpenAPI 3.0 of everything this service answers.

    Args:
        base: BentoML's document: its own paths stay in it.
    """
    components = dict(base.get("components") or {})
    schemas = (
        dict(components.get("schemas") or {}) | _schemas(policy, fields, cards) | describe.schemas() | _launch_schemas()
    )
    components |= {"schemas": schemas, "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}}}
    info = dict(base.get("info") or {}) | {
        "title": f"Understudy: {policy.model}",
        "version": __version__,
        "description": "Predictions, labels, and the state of the rollout. Errors are problem details (RFC 9457).",
    }
    # BentoML says of its own health endpoints what they answer there; behind the front door they answer problem details.
    known = {
        path: item
        for path, item in dict(base.get("paths") or {}).items()
        if path not in {"/livez", "/readyz", "/healthz"}
    }
    return {**base, "info": info, "paths": known | paths(), "components": components}


def paths() -> dict[str, Any]:
    """The front door's calls, as OpenAPI path items."""
    return _model_paths() | _state_paths() | _order_paths() | _history_paths() | _health_paths() | describe.paths()


def _model_paths() -> dict[str, Any]:
    return {
        "/predict": {"post": {
            "operationId": "predict", "summary": "Predict rows",
            "description": "The router chooses who answers. The order of the rows is kept.",
            "parameters": [
                {**_HEADER, "name": "X-Rollout-Key", "description": "keeps a caller on one variant"},
                {**_HEADER, "name": "X-Rollout-Variant", "schema": {"type": "string", "enum": ["primary", "candidate", "any"]},
                 "description": "pins the request to a variant (operators only, where there are tokens); no evidence. `any`: "
                                "routed, rehearsed and recorded like every request, and no evidence: for load tests"},
                {**_HEADER, "name": "X-Rollout-At", "schema": {"type": "number"},
                 "description": "when the request happened, Unix seconds: to replay history (operators only). Not in the future"},
                {**_HEADER, "name": "X-Rollout-Replay", "schema": {"type": "string", "pattern": "^[A-Za-z0-9._:-]{1,64}$"},
                 "description": "names the replay that `X-Rollout-At` belongs to: its time is apart from all other requests'"},
            ],
            "requestBody": _body("PredictRequest"),
            "responses": {"200": {**_json("the predictions", "PredictResponse"), "headers": {
                "X-Rollout-Variant": {"schema": {"type": "string"}, "description": "who answered"},
                "X-Prediction-Id": {"schema": {"type": "string"}, "description": "the id of the first row's prediction"},
            }}} | _problems(*_BODY_ERRORS, Unauthorized, Forbidden, Overloaded, InferenceError, NotReady, DeadlineExceeded),
            "security": _SECURE,
        }},
        "/feedback": {"post": {
            "operationId": "feedback", "summary": "Report labels",
            "description": "Idempotent, in any order, before or long after the prediction is stored. "
                           "What this acknowledges survives a crash.",
            "requestBody": _body("FeedbackRequest"),
            "responses": {"200": _json("what became of the labels", "FeedbackResponse")} | _problems(*_BODY_ERRORS, NotReady),
        }},
    }  # fmt: skip


def _state() -> dict[str, Any]:
    return _json("the rollout's state", "Rollout")


def _state_paths() -> dict[str, Any]:
    return {
        "/rollout": {"get": {"operationId": "rollout", "summary": "The rollout's state", "security": _SECURE,
                             "description": "Its `ETag` begins with the revision: an order takes it as its `If-Match`.",
                             "parameters": [_KNOWN],
                             "responses": {"200": _state()} | _UNCHANGED | _problems(Unauthorized, Forbidden, NotReady)}},
        "/rollout/weight": {"post": {
            "operationId": "setWeight", "summary": "Set the candidate's share of live answers by hand", "security": _SECURE,
            "parameters": [{**_HEADER, "name": "If-Match", "description": "refuse when the revision is another one"}],
            "requestBody": _body("WeightOrder"),
            "responses": {"200": _state()} | _problems(*_BODY_ERRORS, Unauthorized, Forbidden, NotAllowedNow, NotReady),
        }},
        "/rollout/policy": {"get": {
            "operationId": "policy", "summary": "The steps and goals in force, and what a row takes, with examples",
            "security": _SECURE,
            "responses": {"200": _json("steps, goals, fields", "Policy")} | _problems(Unauthorized, Forbidden)}},
        "/rollout/access": {"get": {
            "operationId": "access", "summary": "Who is asking, and with which role", "security": _SECURE,
            "responses": {"200": _json("name and role", "Access")} | _problems(Unauthorized, Forbidden)}},
        "/rollout/verdict": {"get": {
            "operationId": "verdict", "summary": "The verdict, for Argo Rollouts' web metric", "security": _SECURE,
            "responses": {"200": _json("ok, inconclusive, or neither: a failure", "ArgoVerdict")}
                         | _problems(Unauthorized, Forbidden, NotReady)}},
        "/rollout/gate": {"post": {
            "operationId": "gate", "summary": "A gate for Flagger's webhooks: 200 to go on, 403 with the reason to stop",
            "security": _SECURE, "responses": {"200": _json("go on", "Gate")} | _problems(Unauthorized, Forbidden, NotReady)}},
    }  # fmt: skip


def _order_paths() -> dict[str, Any]:
    return {
        **{f"/rollout/{name}": {"post": {
            "operationId": name, "summary": text, "security": _SECURE,
            "parameters": [{**_HEADER, "name": "If-Match", "description": "refuse when the revision is another one"}],
            "requestBody": {**_body("PromoteOrder" if name == "promote" else "Order"), "required": False},
            "responses": {"200": _state()} | _problems(*_BODY_ERRORS, Unauthorized, Forbidden, NotAllowedNow, NotReady)}}
           for name, text in (
               ("promote", "Go to the next step, or with `full` to the end"), ("pause", "Keep the weight as it is"),
               ("resume", "Go on after a pause"), ("abort", "Take the candidate off at once"),
               ("retry", "Begin again after an abort; the evidence stays"), ("undo", "Take a promotion back"))},
    }  # fmt: skip


def _history_paths() -> dict[str, Any]:
    return {
        "/rollout/events": {"get": {
            "operationId": "events", "summary": "The audit log, oldest first", "security": _SECURE,
            "parameters": [
                {"name": "after", "in": "query", "schema": {"type": "integer", "default": 0}, "description": "an event's id"},
                {"name": "limit", "in": "query", "schema": {"type": "integer", "default": 100, "minimum": 1, "maximum": 1000}},
            ],
            "responses": {"200": _json("events", "Events")} | _problems(MalformedRequest, Unauthorized, Forbidden, NotReady),
        }},
        "/rollout/loadtest": {
            "get": {"operationId": "loadtest", "summary": "What a load test must be taken of, and whether one that counts is here",
                    "security": _SECURE, "responses": {"200": _json("the setup, the goals, the newest record, what is used",
                                                                    "LoadTest")}
                    | _problems(Unauthorized, Forbidden, NotReady)},
            "post": {"operationId": "fileLoadtest", "summary": "File the record of a load test in the audit log",
                     "description": "`understudy loadtest` does. A step with `require: [loadtest]` starts when one that passed "
                                    "is there for these very models, code, machine, device, settings and goals.",
                     "security": _SECURE, "requestBody": _body("LoadTestRecord"),
                     "responses": {"200": _json("its event, and whether the gate is open", "LoadTestFiled")}
                     | _problems(*_BODY_ERRORS, Unauthorized, Forbidden, NotReady)},
        },
        "/rollout/evidence": {"get": {
            "operationId": "evidence", "summary": "The counters behind the figures, and the bands over time", "security": _SECURE,
            "parameters": [_KNOWN],
            "responses": {"200": _json("counters", "Evidence")} | _UNCHANGED | _problems(Unauthorized, Forbidden, NotReady),
        }},
        "/rollout/traffic": {"get": {
            "operationId": "traffic", "summary": "Latency and failures over time, a point every few seconds", "security": _SECURE,
            "description": "What the store's counters grew by, over all workers, in the clock's time, kept in the store. A point "
                           "is UNDERSTUDY_TRAFFIC_INTERVAL_S in `recent`, 120 times that in `long`; none where nothing was asked.",
            "parameters": [{"name": "span", "in": "query", "schema": {"enum": list(SPANS), "type": "string", "default": SPANS[0]}},
                           {"name": "after", "in": "query", "schema": {"type": "number", "default": 0},
                            "description": "only points that end later, Unix seconds"}, _KNOWN],
            "responses": {"200": _json("points", "Traffic")} | _UNCHANGED
                         | _problems(MalformedRequest, Unauthorized, Forbidden, NotReady),
        }},
        "/rollout/audit": {"get": {
            "operationId": "audit", "summary": "The predictions whose label an audit waits for", "security": _SECURE,
            "description": "With `labels.audit` in the rollout file quality is judged by a sample that chance drew. Each of "
                           "these must get its label within the wait; one that does not counts as the worst that it could be.",
            "responses": {"200": _json("the sample that waits", "Audit")} | _problems(Unauthorized, Forbidden, NotReady),
        }},
        "/rollout/drift": {"get": {
            "operationId": "drift", "summary": "The last day of requests beside each model's training data", "security": _SECURE,
            "description": "Per feature: distance, missing values, values that training never saw, each beside its line; the "
                           "alarms; and label-free estimates of quality, which are weaker than labels and decide nothing.",
            "parameters": [_KNOWN],
            "responses": {"200": _json("drift", "Drift")} | _UNCHANGED | _problems(Unauthorized, Forbidden, NotReady),
        }},
    }  # fmt: skip


def _health_paths() -> dict[str, Any]:
    page = {"description": "HTML", "content": {"text/html": {"schema": {"type": "string"}}}}
    return {
        "/dashboard": {"get": {"operationId": "dashboard", "summary": "The page that people look at", "responses": {"200": page}}},
        **{path: {"get": {"operationId": path[1:], "summary": text, "responses": {
            "200": {"description": "yes", "content": {"text/plain": {"schema": {"type": "string"}}}}} | _problems(*errors)}}
           for path, text, errors in (
               ("/livez", "The process turns", ()), ("/healthz", "As /livez", ()),
               ("/readyz", "Every worker has loaded and warmed the primary", (NotReady,)))},
    }  # fmt: skip


def _label_and_prediction(card: Card, candidate: Card | None) -> tuple[dict[str, Any], dict[str, Any]]:
    """The schemas of a label, and of the parts of one row's prediction."""
    label: dict[str, Any] = {"description": card.label or "what the model predicts"}
    if card.classes:
        label["enum"] = label_classes(card.classes, candidate.classes if candidate else None)
    if card.task == MULTILABEL:
        label = {"type": "array", "items": {}, "description": "the classes that are true"}
    prediction: dict[str, Any] = {"prediction_id": {"type": "string"}}
    if card.task.endswith("-classification"):
        by_class = {"type": "object", "additionalProperties": {"type": "number"}}
        in_order = {"type": "array", "items": {"type": "number"}}  # of classes that nothing names
        prediction |= {"label": label, "probabilities": by_class if card.classes else in_order}
    elif card.task == "regression":
        vector = any(output.role == "value" and width_of(output.shape) != 1 for output in card.outputs)
        prediction["value"] = {"type": "array", "items": {"type": "number"}} if vector else {"type": "number"}
        label = label | (prediction["value"] if vector else {})
    else:
        prediction["outputs"] = {"type": "object"}
    return label, prediction


def _schemas(policy: Policy, fields: Sequence[Field], cards: Mapping[Variant, Card]) -> dict[str, Any]:
    card, candidate = cards[Variant.PRIMARY], cards.get(Variant.CANDIDATE)
    row = {field.name: _field_schema(field) for field in fields}
    for name in (policy.route_by, policy.unit):
        if name and name not in row:
            text = "keeps a caller on one variant, or says what repeats; no input of the model"
            # `nullable` stands beside the type that it widens: OpenAPI 3.0 has no other place for it.
            row[name] = {"anyOf": [{"type": "string", "nullable": True}, {"type": "integer"}], "description": text}
    label, prediction = _label_and_prediction(card, candidate)
    number: dict[str, Any] = {"type": "number"}
    string: dict[str, Any] = {"type": "string"}
    whole: dict[str, Any] = {"type": "integer"}
    variant = {"type": "string", "enum": [v.value for v in Variant]}
    return _looked_at() | {
        "Row": _object(row, [field.name for field in fields if field.required]),
        "PredictRequest": _object(
            {"rows": {"type": "array", "minItems": 1, "items": _ref("Row")},
             "key": {**string, "nullable": True, "maxLength": 256}}, ["rows"]),
        "PredictResponse": _object(
            {"model": string, "variant": variant, "version": string, "fallback": {"type": "boolean"},
             "predictions": {"type": "array", "items": _object(prediction, ["prediction_id"])}},
            ["model", "variant", "version", "fallback", "predictions"]),
        "FeedbackRequest": _object({"labels": {"type": "array", "minItems": 1, "items": _object(
            {"prediction_id": {**string, "minLength": 1, "maxLength": 64}, "label": label or {},
             "at": {"oneOf": [number, {**string, "format": "date-time"}],
                    "description": "when it became known (not in the future, not before 2000); now, if left out"}},
            ["prediction_id", "label"])}}, ["labels"]),
        "FeedbackResponse": _object(dict.fromkeys([fate.value for fate in Fate], whole), [fate.value for fate in Fate]),
        "Order": _object({"reason": string}, []),
        "PromoteOrder": _object({"reason": string, "full": {"type": "boolean"}, "force": _FORCED}, []),
        "ArgoVerdict": _object({"data": _object({"ok": {"type": "boolean"}, "inconclusive": {"type": "boolean"}, "reason": string},
                                                ["ok", "inconclusive", "reason"])}, ["data"]),
        "Gate": _object({"phase": string, "reason": string}, ["phase", "reason"]),
        "WeightOrder": _object(
            {"weight": {**number, "minimum": 0, "maximum": 100, "description": "percent"}, "reason": string,
             "force": _FORCED}, ["weight"]),
        "Stage": _object({"stage": string, "count": whole, "lost": {"type": "array", "items": {"type": "object"}}}, ["stage"]),
        "Rollout": {"type": "object", "properties": {
            "model": string, "phase": {**string, "enum": [p.value for p in Phase]}, "step": whole, "weight": number,
            "shadow_share": number, "primary": {"type": "object"}, "candidate": {"type": "object", "nullable": True},
            "headline": string, "funnel": {"type": "array", "items": _ref("Stage")}, "verdict": {"type": "object"},
            "metrics": {"type": "array", "items": {"type": "object"}}, "variants": {"type": "object"}, "labels": {"type": "object"},
            "progress": {"type": "object", "nullable": True, "description": "labels, what the present step has seen, doubts "
                         "about the split, and label coverage where only one of the models says the positive class"},
            "shadow": {"type": "object"},
            "comparison": _comparison(), "fallbacks": {"type": "object"}, "drift": {"type": "object"},
            "allowed": {"type": "array", "items": string}, "trial": whole, "revision": whole, "updated_at": number},
            "required": ["model", "phase", "step", "weight", "primary", "verdict", "labels", "shadow", "revision"]},
        "Drift": {"type": "object", "required": ["window", "alarms", "features", "estimates", "notes"], "properties": {
            "window": {"type": "object", "nullable": True}, "alarms": {"type": "array", "items": {"type": "object"}},
            "features": {"type": "array", "items": {"type": "object"}}, "estimates": {"type": "object"},
            "notes": {"type": "array", "items": string}}},
        "Problem": {"type": "object", "required": ["type", "title", "status", "detail"], "properties": {
            "type": string, "title": string, "status": whole, "detail": string,
            "errors": {"type": "array", "items": {"type": "object", "properties": {
                "row": {**whole, "nullable": True}, "field": {**string, "nullable": True}, "problem": string}}}}},
    }  # fmt: skip


def _looked_at() -> dict[str, Any]:
    """What the calls that only show something answer."""
    number: dict[str, Any] = {"type": "number"}
    string: dict[str, Any] = {"type": "string"}
    whole: dict[str, Any] = {"type": "integer"}
    return {
        "Policy": {"type": "object", "properties": {
            "steps": {"type": "array", "items": {"type": "object"}}, "goals": {"type": "object"},
            "fields": {"type": "array", "items": {"type": "object"}}}, "required": ["steps", "goals", "fields"]},
        "Access": _object({"name": string, "role": {**string, "enum": ["viewer", "operator"]}, "tokens": {"type": "boolean"}},
                          ["name", "role", "tokens"]),
        "Events": _object({"events": {"type": "array", "items": {"type": "object"}}}, ["events"]),
        "Audit": {"type": "object", "properties": {
            "share": {"type": "number", "nullable": True, "description": "percent; null where there is no audit"}, "wait_s": number,
            "wanted": {"type": "array", "items": {"type": "string"}, "description": "prediction ids, 1,000 at most"}}},
        "Traffic": _object({
            "span": string, "interval_s": {**number, "nullable": True}, "points_max": {**whole, "nullable": True},
            "points": {"type": "array", "items": {"type": "object", "required": ["from", "to"]}, "description": "from, to, and by "
                       f"variant {', '.join(TOLD)}: live answers; requests it owed one, rehearsals too; those without; latency"},
        }, ["span", "interval_s", "points_max", "points"]),
        "Evidence": {"type": "object", "properties": {
            "revision": whole, "counters": {"type": "object", "additionalProperties": number},
            "bands": {"type": "array", "items": {"type": "object"}, "description": "each metric over time: the estimate, its band, "
                      "and log e-values for an advance and of harm"}}},
    }  # fmt: skip


def _comparison() -> dict[str, Any]:
    share = {"type": "number", "minimum": 0, "maximum": 1}
    whole: dict[str, Any] = {"type": "integer"}
    way = {"primary": {}, "candidate": {}, "rows": whole}
    quantiles = dict.fromkeys(("mean", "p50", "p95", "p99", "max"), share)
    output = dict.fromkeys(("rows", "rows_outside", "elements", "outside", "not_finite", "misshapen"), whole)
    return {
        "description": "what both models said of the same rows, labels or not; a part is there when there is something to compare",
        **_object({
            "rows": {**whole, "description": "rows that both models answered"},
            "labels": _object({"rows": whole, "flips": {**whole, "description": "rows with another label"}, "share": share,
                               "ways": {"type": "array", "items": _object(way, list(way))}}, ["rows", "flips", "share", "ways"]),
            "probabilities": {
                "description": "total variation distance, 0 to 1; `equal` is the share at or below the noise floor",
                **_object({"rows": whole, "equal": share, **quantiles}, ["rows", "mean", "equal", "p50", "p95", "p99"])},
            "outputs": {"type": "object", "additionalProperties": {
                "description": "numbers and other tensors: outside is beyond the rollout file's tolerance",
                **_object({**output, "share": share, "mean_abs": {"type": "number", "nullable": True},
                           "max_abs": {"type": "number"}, "max_rel": {"type": "number"}}, [*output, "share", "mean_abs"])}},
        }, ["rows"]),
    }  # fmt: skip


def _launch_schemas() -> dict[str, Any]:
    whole, number, string = ({"type": kind} for kind in ("integer", "number", "string"))
    return {
        "LoadTest": {"type": "object", "properties": {
            "model": string, "setup": {"type": "object"}, "goals": {"type": "object"}, "required": {"type": "boolean"},
            "met": {"type": "boolean"}, "reason": string, "last": {"type": "object", "nullable": True},
            "plan": {"type": "object"}, "deadline_ms": number, "usage": {"type": "object"}},
            "required": ["model", "setup", "goals", "required", "met", "reason", "plan", "usage"]},
        "LoadTestRecord": {"type": "object", "required": [
            "at", "model", "verdict", "reasons", "setup", "rollout_file", "goals", "measured", "findings"], "properties": {
            "verdict": {"type": "string", "enum": ["pass", "fail", "invalid"]}}},
        "LoadTestFiled": _object({"event": whole, "required": {"type": "boolean"}, "met": {"type": "boolean"}, "reason": string},
                                 ["event", "required", "met", "reason"]),
    }  # fmt: skip


def _field_schema(field: Field) -> dict[str, Any]:
    kind: dict[str, Any]
    if field.dtype == "string":
        kind = {"type": "string"}
    elif field.dtype == "bool":
        kind = {"type": "boolean"}
    else:
        kind = {"type": "number" if field.dtype.startswith("float") else "integer", "description": field.dtype}
    if field.scalar:
        return kind | ({"nullable": True} if field.nullable or not field.required else {})
    for size in reversed(field.shape):
        kind = {"type": "array", "items": kind} | ({"minItems": size, "maxItems": size} if size else {})
    return kind


def _object(properties: Mapping[str, Any], required: Sequence[str]) -> dict[str, Any]:
    found = {"type": "object", "properties": dict(properties), "additionalProperties": False}
    return found | ({"required": list(required)} if required else {})


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": _REF + name}


def _json(description: str, schema: str) -> dict[str, Any]:
    return {"description": description, "content": {"application/json": {"schema": _ref(schema)}}}


def _body(schema: str) -> dict[str, Any]:
    return {"required": True, "content": {"application/json": {"schema": _ref(schema)}}}


def _problems(*errors: type[UnderstudyError]) -> dict[str, Any]:
    return {
        str(int(error.status)): {
            "description": (error.__doc__ or "").splitlines()[0],
            "content": {"application/problem+json": {"schema": _ref("Problem")}},
        }
        for error in errors
    }
