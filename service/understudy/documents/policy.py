"""What is being rolled out: steps, goals and the fields of a row, as `GET /rollout/policy` returns them."""

from typing import Annotated, Any, Literal

from msgspec import UNSET, Meta, UnsetType

from understudy.documents.base import Document
from understudy.domain import JsonObject


class StepDocument(Document):
    """One step of the rollout file."""

    kind: Literal["shadow", "canary", "promote"]
    share: Annotated[float, Meta(description="percent")]
    until: Annotated[JsonObject, Meta(description="what ends the step, beside the goals")]
    require: Annotated[list[str], Meta(description="what must be present before it starts")]


class FieldDocument(Document):
    """One field of a request row, with an example from the training data."""

    name: str
    dtype: str
    shape: list[int | None]
    scalar: bool
    nullable: bool
    required: bool
    description: str
    example: float | str | UnsetType = UNSET
    minimum: float | UnsetType = UNSET
    maximum: float | UnsetType = UNSET
    choices: list[str] | UnsetType = UNSET


class LabelRules(Document):
    """How long labels are waited for, and from when they are counted."""

    wait_s: float
    count: str


class PolicyDocument(Document):
    """The steps and goals in force, and what a request row takes."""

    model: str
    task: str
    label: str
    classes: list[Any]
    positive: Any
    steps: list[StepDocument]
    goals: JsonObject
    labels: LabelRules
    route_by: str | None
    unit: str | None
    fields: list[FieldDocument]
    context: Annotated[list[str], Meta(description="fields of a row that route or count, and are no input of a model")]
    models: Annotated[dict[str, JsonObject], Meta(description="each model's card, without its signature")]
    buckets: Annotated[dict[str, list[float]], Meta(description="upper edges of the histograms, seconds")]
