"""Bodies of requests and responses that only REST has. OpenAPI is generated from them."""

from typing import Annotated, TypedDict

from msgspec import Meta

from understudy.documents import Document
from understudy.domain import JsonObject
from understudy.http.auth import Role
from understudy.observability.host import Usage

Reason = Annotated[str, Meta(description="for the audit log", examples=["the fares of July look odd"])]
Force = Annotated[bool, Meta(description="start a step without what it requires; needs a `reason`, which is logged")]


class FeedbackResponse(Document):
    """What became of the labels: how many of each kind."""

    matched: Annotated[int, Meta(description="joined with a stored prediction now, for the first time")]
    duplicate: Annotated[int, Meta(description="the same label was known already")]
    conflict: Annotated[
        int, Meta(description="another label was known already, and stands; this one is kept for inspection")
    ]
    pending: Annotated[int, Meta(description="the prediction is not stored yet; the label waits for it")]
    corrected: Annotated[
        int, Meta(description="the same label was known with a later time; from now on this time counts")
    ]


class OrderRequest(Document, forbid_unknown_fields=True):
    """An operator's order."""

    reason: Reason = ""


class PromoteOrder(OrderRequest, forbid_unknown_fields=True):
    """An operator's order to promote."""

    full: Annotated[bool, Meta(description="skip the remaining steps")] = False
    force: Force = False


class WeightOrder(OrderRequest, forbid_unknown_fields=True, kw_only=True):
    """An operator's order to set the weight."""

    weight: Annotated[float, Meta(ge=0, le=100, description="percent, at most two decimals", examples=[5, 12.5])]
    force: Force = False


class Access(Document):
    """Who sends the request, and what they may do."""

    name: str
    role: Role
    tokens: Annotated[bool, Meta(description="whether this service has tokens")]


class ArgoMeasurement(Document):
    """A measurement for Argo Rollouts. Neither ok nor inconclusive means failure."""

    ok: bool
    inconclusive: bool
    reason: str


class ArgoVerdict(Document):
    """The verdict, for Argo Rollouts' web metric."""

    data: ArgoMeasurement


class Gate(Document):
    """Flagger may continue."""

    phase: str
    reason: str


class PlanSummary(Document):
    """The plan in force, in percent."""

    phase: str
    weight: float
    shadow: float
    revision: int


class Requirement(Document):
    """Whether a step's requirement of a load test is met."""

    required: Annotated[bool, Meta(description="whether a step of the rollout file requires a load test")]
    met: bool
    reason: Annotated[str, Meta(description="why it is not met, and the command that makes a record; empty if it is")]


class RequirementState(TypedDict):
    """The members of `Requirement`."""

    required: bool
    met: bool
    reason: str


class LoadTest(Requirement):
    """What a load test must measure, the record that counts, and what the service's processes have used."""

    model: str
    setup: Annotated[JsonObject, Meta(description="models, code, machine, device and settings that a record must name")]
    goals: Annotated[JsonObject, Meta(description="goals that a record is checked against; null is no goal")]
    last: Annotated[
        JsonObject | None, Meta(description="the record that counts, or else the newest, with its event's id")
    ]
    plan: PlanSummary
    deadline_ms: float
    usage: Annotated[Usage, Meta(description="CPU time and memory of each process, and of the machine")]


class LoadTestFiled(Requirement):
    """The event of a record that was filed, and whether the requirement is met now."""

    event: int
