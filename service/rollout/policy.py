"""The rollout file: what is served, what the launch is judged by, and the steps it takes. Pure: text in, values out.

`Policy` is the file's schema (unknown keys are refused) and `json_schema()` is what is published of it. Percentages in
the file become whole hundredths of a percent here, durations become seconds.
"""

import hashlib
import json
import re
from collections.abc import Mapping
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
    if not 0 <= value <= 100:
        raise ValueError("a share of traffic is 0 to 100 percent")
    hundredths = round(value * SHARE_ONE / 100)
    if abs(hundredths - value * SHARE_ONE / 100) > 1e-6:
        raise ValueError("a share of traffic has at most two decimals: 0.01 % is the smallest")
    return hundredths


def _harm(value: object, as_usual: pydantic.ValidatorFunctionWrapHandler) -> object:
    try:
        return as_usual(value)
    except pydantic.ValidationError:
        raise ValueError("is the word `margin`, or a number: 0 or more, and less than 1") from None


Duration = Annotated[
    float,
    pydantic.BeforeValidator(_duration),
    pydantic.Field(gt=0),
    pydantic.WithJsonSchema({"type": ["string", "number"], "description": "a duration: 500ms, 30s, 15m, 72h, 7d"}),
]
Share = Annotated[
    int,
    pydantic.BeforeValidator(_share),
    pydantic.PlainSerializer(lambda share: share * 100 / SHARE_ONE, when_used="json"),  # as the file says it
    pydantic.WithJsonSchema(
        # No multipleOf: validators compute it in binary floats, where 2.07 is none of 0.01.
        {"type": "number", "minimum": 0, "maximum": 100, "description": "percent, at most two decimals"}
    ),
]
Loss = Literal["brier", "log_loss", "zero_one", "absolute_error", "squared_error"]
Task = Literal["binary-classification", "multiclass-classification", "regression", "other"]
Device = Literal["auto", "cpu", "cuda", "tensorrt"]


JUDGED = ("model", "task", "goals", "labels", "unit")
"""The keys of the rollout file that evidence depends on."""
FOLLOWED = ("steps",)
"""The keys that decisions depend on besides: they may change while a rollout runs, so each decision says what they were."""


class _Strict(pydantic.BaseModel):
    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Quality(_Strict):
    """How good the candidate must be, in units of the (clipped) loss; less is better."""

    loss: Loss = pydantic.Field(default="brier", description="what is measured on every labelled row")
    margin: float = pydantic.Field(
        gt=0,
        lt=1,
        description='the candidate is "not worse" when its mean loss is at most this much above the primary\'s',
    )
    harm: Annotated[Literal["margin"] | Annotated[float, pydantic.Field(ge=0, lt=1)], pydantic.WrapValidator(_harm)] = (
        pydantic.Field(
            default="margin",
            description="it is rolled back when its mean loss is this much above; `margin` means the margin itself",
        )
    )
    poc_target: float | None = pydantic.Field(
        default=None, gt=0, description="the mean loss that the proof of concept itself was to reach"
    )
    clip: float = pydantic.Field(
        default=5.0,
        gt=0,
        description="log-loss and errors are cut off here and divided by it: the statistics need a bounded loss",
    )

    @property
    def harm_line(self) -> float:
        """The line that rolls back, as a number."""
        return self.margin if self.harm == "margin" else self.harm


class Errors(_Strict):
    """How much more often than the primary the candidate may fail."""

    margin: float = pydantic.Field(gt=0, lt=1, description="as a share of requests")


class Latency(_Strict):
    """The latency goal and the deadline inside which every caller gets an answer, in milliseconds."""

    p99_ms: float = pydantic.Field(gt=0, description="99 of 100 requests are answered faster than this")
    p50_ms: float | None = pydantic.Field(default=None, gt=0, description="half of them (load tests hold it)")
    p95_ms: float | None = pydantic.Field(default=None, gt=0, description="95 of 100 (load tests hold it)")
    deadline_ms: float = pydantic.Field(default=250, gt=0, description="later there is no answer but 504")


class Cost(_Strict):
    """What a machine costs, and what predictions may cost, in one currency."""

    machine_per_hour: float = pydantic.Field(gt=0, description="what a machine costs an hour")
    max_per_million: float = pydantic.Field(gt=0, description="the most that a million predictions may cost")


class Load(_Strict):
    """What may go wrong in a load test at `throughput_rps`, as shares."""

    error_rate: float = pydantic.Field(default=0.001, ge=0, lt=1, description="of the requests, not answered in time")
    fallback_rate: float = pydantic.Field(
        default=0.01, ge=0, lt=1, description="of the candidate's requests, answered by the primary in its place"
    )
    shadow_loss: float = pydantic.Field(
        default=0.01, ge=0, lt=1, description="of the rehearsals, dropped, failed or late"
    )


class Goals(_Strict):
    """What the launch is judged by."""

    error_budget: float = pydantic.Field(
        default=0.05, gt=0, lt=0.5, description="chance of any wrong verdict in this rollout, over all metrics"
    )
    quality: Quality | None = None
    errors: Errors | None = None
    latency: Latency = Latency(p99_ms=50)
    throughput_rps: float | None = pydantic.Field(default=None, gt=0, description="requests a second to sustain")
    load: Load = Load()
    cost: Cost | None = None


class Labels(_Strict):
    """How labels are waited for and in which order they count."""

    wait: Duration = pydantic.Field(
        default=72 * 3600.0, description="how long after its prediction a label is waited for: 500ms, 30s, 15m, 72h, 7d"
    )
    count: Literal["settled", "on_arrival"] = pydantic.Field(
        default="settled",
        description="`settled`: in the order of the requests, the late ones at their worst until the wait is over; "
        "`on_arrival`: as they come",
    )


class Tolerance(_Strict):
    """How far two numbers may be apart and still be called equal: |c − p| ≤ atol + rtol·|p|, as `numpy.allclose` has it."""

    atol: float = pydantic.Field(default=1e-7, ge=0, description="absolute, in the output's own unit")
    rtol: float = pydantic.Field(default=1e-3, ge=0, description="relative to the primary's number")


class Until(_Strict):
    """A step lasts at least until this much is known."""

    labels: int | None = pydantic.Field(default=None, ge=1, description="labels that count")
    requests: int | None = pydantic.Field(default=None, ge=1, description="requests")
    duration: Duration | None = pydantic.Field(default=None, description="time in the step")


Require = Literal["loadtest", "approval"]


class ShadowStep(_Strict):
    """The candidate rehearses on a share of the requests; the primary answers all of them."""

    shadow: Share = pydantic.Field(description="the share, in percent with at most two decimals")
    until: Until | None = None
    require: list[Require] = pydantic.Field(default=[], description="what must be there before this step starts")


class CanaryStep(_Strict):
    """The candidate answers a share of the requests; the model that does not answer rehearses."""

    canary: Share = pydantic.Field(description="the share, in percent with at most two decimals")
    until: Until | None = None
    require: list[Require] = pydantic.Field(default=[], description="what must be there before this step starts")


def _kind_of_step(step: object) -> str | None:
    """Which of the three a step means to be, so that what is wrong with it is said once."""
    if isinstance(step, Mapping):
        return "ShadowStep" if "shadow" in step else "CanaryStep" if "canary" in step else None
    return (
        type(step).__name__ if isinstance(step, ShadowStep | CanaryStep) else "promote" if step == "promote" else None
    )


Step = Annotated[
    Annotated[ShadowStep, pydantic.Tag("ShadowStep")]
    | Annotated[CanaryStep, pydantic.Tag("CanaryStep")]
    | Annotated[Literal["promote"], pydantic.Tag("promote")],
    pydantic.Discriminator(
        _kind_of_step,
        custom_error_type="step",
        custom_error_message="a step is `shadow: N`, `canary: N` or `promote`",
    ),
]


class Policy(_Strict):
    """The rollout file."""

    model: str = pydantic.Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="what the service is called, in answers and in metrics",
    )
    task: Task = pydantic.Field(description="what the models do; both do the same")
    primary: str = pydantic.Field(
        description="the model in proof of concept: a folder with model.onnx and card.json, an .onnx file, or `bentoml:<tag>`"
    )
    candidate: str | None = pydantic.Field(default=None, description="the better one to launch, named in the same way")
    device: Device = pydantic.Field(
        default="auto", description="what runs them; one that is named and not there keeps the service from starting"
    )
    route_by: str | None = pydantic.Field(
        default=None,
        description="a request field that keeps a caller on one variant; absent: the request's own key or id",
    )
    goals: Goals = Goals()
    labels: Labels = Labels()
    compare: dict[str, Tolerance] = pydantic.Field(
        default={},
        description="by output: how far the two models' numbers may be apart and still count as equal; `value` is a regression's",
    )
    unit: str | None = pydantic.Field(
        default=None,
        description="evidence counts the first request per value of this field and window; absent: every request",
    )
    workers: int = pydantic.Field(default=1, ge=1, le=64, description="processes that answer; each holds the primary")
    steps: list[Step] = pydantic.Field(
        default=[], description="what the rollout goes through, in order; absent: the candidate only rehearses"
    )

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
        it: how fast the weight grows changes no answer to "which model is better". Nor are the goals that only a load
        test holds: its record says by which it was judged.

        What is at its default is left out, said or not. So a field that a later version adds changes no key while its
        default means what was done before; and a default that is there may never change, which a test holds.
        """
        judged = self.judged(exclude_defaults=True)
        text = json.dumps([judged, primary_digest, candidate_digest], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def judged(self, *, exclude_defaults: bool = False) -> dict[str, Any]:
        """What `JUDGED` names, as the file says it, with the goals that only a load test holds at their defaults."""
        latency = self.goals.latency.model_copy(update={"p50_ms": None, "p95_ms": None})
        goals = {"throughput_rps": None, "load": Load(), "cost": None, "latency": latency}
        bare = self.model_copy(update={"goals": self.goals.model_copy(update=goals)})
        return bare.model_dump(mode="json", include=set(JUDGED), exclude_defaults=exclude_defaults)

    def followed(self) -> dict[str, Any]:
        """What `FOLLOWED` names, as the file says it."""
        return self.model_dump(mode="json", include=set(FOLLOWED), exclude_defaults=True)

    def following(self, followed: Mapping[str, Any]) -> "Policy":
        """This policy with what `followed` gave at another time.

        Raises:
            ConfigurationError: when a version with other keys wrote it.
        """
        return _known({**self.model_dump(mode="json", exclude=set(FOLLOWED)), **followed})

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


class _SaidTwice(yaml.YAMLError):
    """A key is twice in one mapping."""


class _Loader(yaml.SafeLoader):
    """YAML that refuses a key said twice, of which PyYAML would quietly take the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """See `yaml.composer.Composer.compose_mapping_node`."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                raise _SaidTwice(f"the key `{key.value}` is in line {lines[name]}, and again in line {line}")
            lines[name] = line
        return node


def parse(text: str, source: str = "rollout.yaml") -> Policy:
    """The policy in a rollout file's text.

    Raises:
        ConfigurationError: naming the key and what it should be.
    """
    try:
        data: Any = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader that is stricter still
    except _SaidTwice as error:
        raise ConfigurationError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
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


def of_store(judged: Mapping[str, Any], primary: str, candidate: str | None) -> Policy:
    """The policy that evidence in a store was judged by: what `JUDGED` names, and where the models are.

    Raises:
        ConfigurationError: when a version with other keys wrote it.
    """
    return _known({**judged, "primary": primary, "candidate": candidate})


def _known(data: Mapping[str, Any]) -> Policy:
    try:
        return Policy.model_validate(data)
    except pydantic.ValidationError as error:
        keys = ", ".join(f"{_path(e['loc'])} ({e['msg']})" for e in error.errors())
        raise ConfigurationError(
            f"the policy that was judged by was written by another version; this one does not understand {keys}"
        ) from error


def json_schema() -> dict[str, Any]:
    """JSON Schema of the rollout file, for editors."""
    return Policy.model_json_schema() | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "rollout.yaml",
    }


def _path(location: tuple[int | str, ...]) -> str:
    names = [str(part) for part in location if part not in {"ShadowStep", "CanaryStep"}]
    return ".".join(names) or "file"
