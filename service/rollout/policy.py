"""The rollout file: what is served, what the launch is judged by, and the steps it takes. Pure: text in, values out.

`Policy` is the file's schema (unknown keys are refused) and `json_schema()` is what is published of it. Percentages in
the file become whole hundredths of a percent here, durations become seconds.
"""

import hashlib
import json
import re
from typing import Annotated, Any, Literal

import pydantic
import yaml

from service.domain import SHARE_ONE, Phase, Plan
from service.errors import ConfigurationError

_UNITS = {"ms": 0.001, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86400.0}
_DURATION = re.compile(r"(\d+(?:\.\d+)?)\s*(ms|s|m|h|d)")


def _duration(value: object) -> object:
    if isinstance(value, str):
        match = _DURATION.fullmatch(value.strip())
        if not match:
            raise ValueError("a duration is a number and a unit: 500ms, 30s, 15m, 72h, 7d")
        return float(match[1]) * _UNITS[match[2]]
    if isinstance(value, bool):
        raise ValueError("a duration is a number and a unit: 500ms, 30s, 15m, 72h, 7d")
    return value


def _share(value: object) -> object:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError("a share of traffic is a number of percent, 0 to 100")
    hundredths = round(value * SHARE_ONE / 100)
    if not 0 <= value <= 100:
        raise ValueError("a share of traffic is 0 to 100 percent")
    if abs(hundredths - value * SHARE_ONE / 100) > 1e-6:
        raise ValueError("a share of traffic has at most two decimals: 0.01 % is the smallest")
    return hundredths


Duration = Annotated[
    float,
    pydantic.BeforeValidator(_duration),
    pydantic.Field(gt=0),
    pydantic.WithJsonSchema({"type": ["string", "number"], "description": "a duration: 500ms, 30s, 15m, 72h, 7d"}),
]
Share = Annotated[
    int,
    pydantic.BeforeValidator(_share),
    pydantic.WithJsonSchema(
        # No multipleOf: validators compute it in binary floats, where 2.07 is none of 0.01.
        {"type": "number", "minimum": 0, "maximum": 100, "description": "percent, at most two decimals"}
    ),
]
Loss = Literal["brier", "log_loss", "zero_one", "absolute_error", "squared_error"]
Task = Literal["binary-classification", "multiclass-classification", "regression", "other"]
Device = Literal["auto", "cpu", "cuda", "tensorrt"]


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Quality(_Strict):
    """How good the candidate must be, in units of the (clipped) loss; less is better.

    Attributes:
        margin: the candidate is "not worse" when its mean loss is at most this much above the primary's.
        harm: it is rolled back when its mean loss is this much above; the word `margin` means the margin itself.
        poc_target: the mean loss that the proof of concept itself was to reach.
        clip: log-loss and errors are cut off here and divided by it, since the statistics need a bounded loss.
    """

    loss: Loss = "brier"
    margin: float = pydantic.Field(gt=0, lt=1)
    harm: Literal["margin"] | Annotated[float, pydantic.Field(ge=0, lt=1)] = "margin"
    poc_target: float | None = pydantic.Field(default=None, gt=0)
    clip: float = pydantic.Field(default=5.0, gt=0)

    @property
    def harm_line(self) -> float:
        """The line that rolls back, as a number."""
        return self.margin if self.harm == "margin" else self.harm


class Errors(_Strict):
    """How much more often than the primary the candidate may fail, as a share of requests."""

    margin: float = pydantic.Field(gt=0, lt=1)


class Latency(_Strict):
    """The latency goal and the deadline inside which every caller gets an answer, in milliseconds."""

    p99_ms: float = pydantic.Field(gt=0)
    deadline_ms: float = pydantic.Field(default=250, gt=0)


class Cost(_Strict):
    """What a machine costs per hour, and the most that a million predictions may cost."""

    machine_per_hour: float = pydantic.Field(gt=0)
    max_per_million: float = pydantic.Field(gt=0)


class Goals(_Strict):
    """What the launch is judged by. `error_budget` is the chance of any wrong verdict in this rollout, over all metrics."""

    error_budget: float = pydantic.Field(default=0.05, gt=0, lt=0.5)
    quality: Quality | None = None
    errors: Errors | None = None
    latency: Latency = Latency(p99_ms=50)
    throughput_rps: float | None = pydantic.Field(default=None, gt=0)
    cost: Cost | None = None


class Labels(_Strict):
    """How labels are waited for and in which order they count."""

    wait: Duration = 72 * 3600.0
    count: Literal["settled", "on_arrival"] = "settled"


class Until(_Strict):
    """A step lasts at least until this much is known."""

    labels: int | None = pydantic.Field(default=None, ge=1)
    requests: int | None = pydantic.Field(default=None, ge=1)
    duration: Duration | None = None


class ShadowStep(_Strict):
    """The candidate rehearses on this share of the requests; the primary answers all of them."""

    shadow: Share
    until: Until | None = None
    require: list[Literal["loadtest", "approval"]] = []


class CanaryStep(_Strict):
    """The candidate answers this share of the requests; the model that does not answer rehearses."""

    canary: Share
    until: Until | None = None
    require: list[Literal["loadtest", "approval"]] = []


Step = ShadowStep | CanaryStep | Literal["promote"]


class Policy(_Strict):
    """The rollout file.

    Attributes:
        primary: and `candidate`: a folder with model.onnx and card.json, a bare .onnx file, or `bentoml:<tag>`.
        route_by: a request field that keeps a caller on one variant.
        unit: evidence counts the first request per value of this field and window; absent: every request.
        workers: processes that answer; each holds the primary.
    """

    model: str = pydantic.Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")
    task: Task
    primary: str
    candidate: str | None = None
    device: Device = "auto"
    route_by: str | None = None
    goals: Goals = Goals()
    labels: Labels = Labels()
    unit: str | None = None
    workers: int = pydantic.Field(default=1, ge=1, le=64)
    steps: list[Step] = []

    @pydantic.model_validator(mode="after")
    def _steps_make_sense(self) -> "Policy":
        if self.steps and self.candidate is None:
            raise ValueError("`steps` need a `candidate`")
        if "promote" in self.steps[:-1]:
            raise ValueError("`promote` is the last step")
        weights = [step.canary for step in self.steps if isinstance(step, CanaryStep)]
        if weights != sorted(weights):
            raise ValueError("canary weights only grow: a caller who is on the canary stays on it")
        return self

    def key(self, primary_digest: str, candidate_digest: str | None) -> str:
        """What evidence is kept under: the models' digests and what they are judged by.

        A retry of the same artifact resets nothing; a changed margin starts new evidence. The steps are not part of
        it: how fast the weight grows changes no answer to "which model is better".
        """
        judged = self.model_dump(mode="json", include={"model", "task", "goals", "labels", "unit"})
        text = json.dumps([judged, primary_digest, candidate_digest], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def first_plan(self, rollout: str) -> Plan:
        """The plan of a rollout that starts: the first step, or plain serving where there is no candidate.

        The salt comes from the rollout's key, so that every replica picks the same callers without asking anyone, and
        the next rollout picks others.
        """
        salt = int(rollout, 16)
        step = self.steps[0] if self.steps else None
        if isinstance(step, ShadowStep):
            return Plan(Phase.SHADOW, weight=0, shadow=step.shadow, salt=salt)
        if isinstance(step, CanaryStep):
            return Plan(Phase.CANARY, weight=step.canary, shadow=SHARE_ONE, salt=salt)
        if self.candidate is not None:
            return Plan(Phase.SHADOW, weight=0, shadow=SHARE_ONE, salt=salt)
        return Plan(Phase.SERVING, weight=0, shadow=0, salt=salt)


def parse(text: str, source: str = "rollout.yaml") -> Policy:
    """The policy in a rollout file's text.

    Raises:
        ConfigurationError: naming the key and what it should be.
    """
    try:
        data: Any = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise ConfigurationError(f"{source} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigurationError(f"{source} must be a mapping with `model`, `task` and `primary`")
    try:
        return Policy.model_validate(data)
    except pydantic.ValidationError as error:
        problems = "\n".join(f"  {_path(e['loc'])}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors())
        raise ConfigurationError(
            f"{source} does not fit the schema (`understudy check --schema` prints it):\n{problems}"
        ) from error


def json_schema() -> dict[str, Any]:
    """JSON Schema of the rollout file, for editors."""
    return Policy.model_json_schema() | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "rollout.yaml",
    }


def _path(location: tuple[int | str, ...]) -> str:
    names = [str(part) for part in location if part not in {"ShadowStep", "CanaryStep"} and "literal" not in str(part)]
    return ".".join(names) or "file"
