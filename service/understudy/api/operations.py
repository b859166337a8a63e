"""The calls of the service, as a table that OpenAPI is generated from."""

from typing import Any

from understudy.api import documents
from understudy.api.operation import BODY_ERRORS, IF_MATCH, IF_NONE_MATCH, KEY, Body, Operation, parameter
from understudy.documents import Audit, Drift, Events, Evidence, PolicyDocument, Rollout, Traffic
from understudy.errors import (
    DeadlineExceeded,
    InferenceError,
    MalformedRequest,
    NotAllowedNow,
    NotReady,
    Overloaded,
)
from understudy.observability.timeline import SPANS

PREDICT = Operation(
    "POST /predict",
    "predict",
    "Predict rows",
    "PredictResponse",
    "the predictions",
    description="The router chooses the variant that answers. The order of the rows is kept.",
    request="PredictRequest",
    parameters=(
        KEY,
        parameter(
            "X-Rollout-Variant",
            "pins the request to a variant (operators only, where there are tokens); it is no evidence then. `any`: routed, "
            "rehearsed and recorded like every request, but no evidence: for load tests",
            enum=["primary", "candidate", "any"],
        ),
        parameter(
            "X-Rollout-At",
            "when the request happened, Unix seconds, to replay history (operators only); not in the future",
            kind="number",
        ),
        parameter(
            "X-Rollout-Replay",
            "names the replay that `X-Rollout-At` belongs to; its time is separate from that of all other requests",
            pattern="^[A-Za-z0-9._:-]{1,64}$",
        ),
    ),
    errors=(*BODY_ERRORS, Overloaded, InferenceError, NotReady, DeadlineExceeded),
    headers=(
        ("X-Rollout-Variant", "the variant that answered"),
        ("X-Prediction-Id", "the id of the first row's prediction"),
    ),
)
FEEDBACK = Operation(
    "POST /feedback",
    "feedback",
    "Report labels",
    documents.FeedbackResponse,
    "what became of the labels",
    description="Idempotent, in any order, before or long after the prediction is stored. Acknowledged labels survive a crash.",
    request="FeedbackRequest",
    errors=(*BODY_ERRORS, NotReady),
    secure=False,
)


def _look(
    path: str, name: str, summary: str, response: Body, text: str, description: str = "", **more: Any
) -> Operation:
    """A GET that changes nothing; `polled` if it has an entity tag."""
    polled: bool = more.pop("polled", False)
    parameters = (*more.pop("parameters", ()), *((IF_NONE_MATCH,) if polled else ()))
    errors = (*more.pop("errors", ()), NotReady)
    return Operation(
        f"GET {path}", name, summary, response, text, description, parameters=parameters, errors=errors, **more
    )


STATE = (
    _look(
        "/rollout",
        "rollout",
        "The rollout's state",
        Rollout,
        "the state",
        "Its `ETag` starts with the revision, so an order accepts it as `If-Match`.",
        polled=True,
    ),
    Operation(
        "GET /rollout/policy",
        "policy",
        "The steps and goals in force, and the fields of a row, with examples",
        PolicyDocument,
        "steps, goals and fields",
    ),
    Operation("GET /rollout/access", "access", "Name and role of the caller", documents.Access, "name and role"),
    _look(
        "/rollout/verdict",
        "verdict",
        "The verdict, for Argo Rollouts' web metric",
        documents.ArgoVerdict,
        "ok, inconclusive, or neither: a failure",
    ),
    Operation(
        "POST /rollout/gate",
        "gate",
        "For Flagger's webhooks: 200 to continue, 403 with the reason to stop",
        documents.Gate,
        "continue",
        errors=(NotReady,),
    ),
)


def _order(name: str, summary: str, request: type = documents.OrderRequest, operation: str = "") -> Operation:
    return Operation(
        f"POST /rollout/{name}",
        operation or name,
        summary,
        Rollout,
        "the new state",
        request=request,
        optional=name != "weight",
        parameters=(IF_MATCH,),
        errors=(*BODY_ERRORS, NotAllowedNow, NotReady),
    )


ORDERS = (
    _order("promote", "Go to the next step, or with `full` to the end", documents.PromoteOrder),
    _order("pause", "Keep the weight as it is"),
    _order("resume", "Continue after a pause"),
    _order("abort", "Take the candidate off at once"),
    _order("retry", "Start again after an abort or a rollback; the evidence stays"),
    _order("undo", "Take a promotion back"),
    _order("weight", "Set the candidate's share of live answers by hand", documents.WeightOrder, "setWeight"),
)
HISTORY = (
    _look(
        "/rollout/events",
        "events",
        "The audit log, oldest event first",
        Events,
        "events",
        parameters=(
            parameter("after", "an event's id: only later events", "query", "integer", default=0),
            parameter("limit", "most events to return", "query", "integer", default=100, minimum=1, maximum=1000),
        ),
        errors=(MalformedRequest,),
    ),
    _look(
        "/rollout/loadtest",
        "loadtest",
        "What a load test must measure, and whether there is a record that counts",
        documents.LoadTest,
        "setup, goals, newest record and usage",
    ),
    Operation(
        "POST /rollout/loadtest",
        "fileLoadtest",
        "File the record of a load test in the audit log",
        documents.LoadTestFiled,
        "its event, and whether the requirement is met",
        description="`understudy loadtest` calls it. A step with `require: [loadtest]` starts once a record has passed for exactly "
        "these models, code, machine, device, settings and goals.",
        request="LoadTestRecord",
        errors=(*BODY_ERRORS, NotReady),
    ),
    _look(
        "/rollout/evidence",
        "evidence",
        "The counters behind the figures, and the bands over time",
        Evidence,
        "counters and bands",
        polled=True,
    ),
    _look(
        "/rollout/traffic",
        "traffic",
        "Latency and failures over time, a point every few seconds",
        Traffic,
        "points",
        "How much the store's counters grew, over all workers, in the service's time. A point of `recent` is "
        "UNDERSTUDY_TRAFFIC_INTERVAL_S long, a point of `long` 120 times as long. An interval without requests has no point.",
        parameters=(
            parameter("span", "length of the points", "query", enum=list(SPANS), default=SPANS[0]),
            parameter("after", "only points that end later, Unix seconds", "query", "number", default=0),
        ),
        errors=(MalformedRequest,),
        polled=True,
    ),
    _look(
        "/rollout/audit",
        "audit",
        "The predictions whose label an audit waits for",
        Audit,
        "the sample",
        "With `labels.audit` in the rollout file, quality is judged by a random sample. Each of these predictions must get its "
        "label within the wait; one that does not counts as the worst possible.",
    ),
    _look(
        "/rollout/drift",
        "drift",
        "The last day of requests beside each model's training data",
        Drift,
        "features, alarms and estimates",
        "Per feature: distance, missing values and values that training never had, each beside its threshold; the alarms; and "
        "estimates of quality without labels, which are weaker than labels and decide nothing.",
        polled=True,
    ),
)
HEALTH = (
    Operation("GET /dashboard", "dashboard", "The dashboard, a web page", "text/html", "HTML", secure=False),
    Operation("GET /livez", "livez", "Liveness: the event loop is running", "text/plain", "alive", secure=False),
    Operation("GET /healthz", "healthz", "Same as /livez", "text/plain", "alive", secure=False),
    Operation(
        "GET /readyz",
        "readyz",
        "Readiness: every worker has loaded and warmed the primary",
        "text/plain",
        "ready",
        errors=(NotReady,),
        secure=False,
    ),
)
OPERATIONS = (PREDICT, FEEDBACK, *STATE, *ORDERS, *HISTORY, *HEALTH)
