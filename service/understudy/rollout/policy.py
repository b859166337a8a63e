"""The rollout file: models, goals and steps. Pure: text in, values out.

`Policy` is the file's schema (unknown keys are errors), and `json_schema()` publishes it. Percentages in the file become whole
hundredths of a percent here, and durations become seconds.
"""

import hashlib
import json
import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

import pydantic
import yaml

from understudy.domain import SHARE_ONE, JsonObject, Phase, Plan
from understudy.errors import ConfigurationError
from understudy.rollout.device import Device, DeviceOptions
from understudy.rollout.goals import Duration, Goals, Labels, Load, Share, Strict
from understudy.rollout.loss_table import DISAGREEMENT, LOSSES
from understudy.rollout.names import InputKeys, check_renames, checked_classes, checked_names

Task = Literal[
    "binary-classification",
    "multiclass-classification",
    "multilabel-classification",
    "regression",
    "agreement",
    "other",
]
MULTILABEL: Literal["multilabel-classification"] = "multilabel-classification"
AGREEMENT: Literal["agreement"] = "agreement"


SCHEMES = ("s3", "gs", "az", "https", "http")
"""Schemes of URLs from which models may be fetched."""
JUDGED = ("model", "task", "classes", "inputs", "outputs", "goals", "labels", "unit")
"""The keys of the rollout file that evidence depends on."""
UNITS = "raw"
"""The unit of margins of clipped losses. Earlier they were a share of the clip; evidence of that kind is not continued."""
FOLLOWED = ("steps", "bake")
"""Further keys that decisions depend on. They may change during a rollout, so each decision stores their values."""


class Tolerance(Strict):
    """Numbers count as equal if |c − p| ≤ atol + rtol·|p|, as in `numpy.allclose`."""

    atol: float = pydantic.Field(default=1e-7, ge=0, description="absolute, in the output's own unit")
    rtol: float = pydantic.Field(default=1e-3, ge=0, description="relative to the primary's number")


class Until(Strict):
    """The minimum of evidence and time before a step may end."""

    labels: int | None = pydantic.Field(default=None, ge=1, description="labels that count")
    requests: int | None = pydantic.Field(default=None, ge=1, description="requests")
    duration: Duration | None = pydantic.Field(default=None, description="time in the step")


Require = Literal["loadtest", "approval"]


class ShadowStep(Strict):
    """The candidate rehearses on a share of the requests; the primary answers all of them."""

    shadow: Share = pydantic.Field(description="the share, in percent with at most two decimals")
    until: Until | None = None
    require: list[Require] = pydantic.Field(default=[], description="what must be present before this step starts")


class CanaryStep(Strict):
    """The candidate answers a share of the requests; the model that does not answer rehearses."""

    canary: Share = pydantic.Field(description="the share, in percent with at most two decimals")
    rehearse: Share = pydantic.Field(
        default=SHARE_ONE, description="of how many requests the model that does not answer rehearses, in percent"
    )
    until: Until | None = None
    require: list[Require] = pydantic.Field(default=[], description="what must be present before this step starts")


def _kind_of_step(step: object) -> str | None:
    """Which of the three kinds a step is, so that its problems are reported for this kind only."""
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


class Policy(Strict):
    """The rollout file."""

    model: str = pydantic.Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="name of the service in answers and metrics",
    )
    task: Task = pydantic.Field(description="what both models do")
    primary: str = pydantic.Field(
        description="the model in proof of concept: a folder with model.onnx and card.json, an .onnx file, `bentoml:<tag>`, or the "
        "URL of a card.json or .onnx file with its digest, `s3://…/card.json#sha256=…` (also gs, az, https, http)"
    )
    candidate: str | None = pydantic.Field(default=None, description="the model to launch, named in the same way")
    device: Device = pydantic.Field(
        default="auto",
        description="the device that runs the models; if it is named and not available, the service does not start",
    )
    device_options: DeviceOptions = DeviceOptions()
    classes: list[int | str] = pydantic.Field(
        default=[],
        description="names of the classes as the labels have them, in the order of the probabilities; for a model whose graph and "
        "card do not name them",
    )
    inputs: dict[str, InputKeys] = pydantic.Field(
        default={},
        description="by input, under the primary's name: whether it may be missing, and what the candidate calls it",
    )
    outputs: dict[str, str] = pydantic.Field(
        default={},
        description="the primary's output: the candidate's name for it. Outputs of the same name or role need no entry",
    )
    route_by: str | None = pydantic.Field(
        default=None,
        description="a request field whose value keeps a caller on one variant; absent: the request's key or id",
    )
    goals: Goals = Goals()
    labels: Labels = Labels()
    compare: dict[str, Tolerance] = pydantic.Field(
        default={},
        description="by output: the tolerance within which the two models' numbers count as equal; `value` is the output of a "
        "regression. `loss: disagreement` uses these tolerances, and `probabilities` may then have one as well",
    )
    unit: str | None = pydantic.Field(
        default=None,
        description="a request field; evidence counts only the first request per value of it and day; absent: every request",
    )
    bake: Duration = pydantic.Field(
        default=72 * 3600.0,
        description="how long after a promotion the old primary rehearses and remains the fallback, before it is released",
    )
    workers: int = pydantic.Field(
        default=1, ge=1, le=64, description="number of processes that answer; each holds the primary"
    )
    steps: list[Step] = pydantic.Field(
        default=[], description="the steps of the rollout, in order; absent: the candidate only rehearses"
    )

    @pydantic.field_validator("primary", "candidate")
    @classmethod
    def _urls_have_a_digest(cls, source: str | None) -> str | None:
        if source is None or "://" not in source:
            return source
        url, _, digest = source.partition("#")
        if (scheme := url.partition("://")[0]) not in SCHEMES:
            raise ValueError(f"models come from {', '.join(SCHEMES)} URLs, not from {scheme}")
        if "?" in url or "@" in url or not url.endswith(("/card.json", ".onnx")):
            raise ValueError("the URL names a card.json or an .onnx file, without a query, user or password")
        if not re.fullmatch(r"sha256=[0-9a-f]{64}", digest):
            raise ValueError("a URL needs the digest of its file: `#sha256=` and the output of `sha256sum`")
        return source

    _classes_are_names = pydantic.field_validator("classes", mode="before")(checked_classes)
    _names_are_strings = pydantic.field_validator("inputs", "outputs", mode="before")(checked_names)

    @pydantic.model_validator(mode="after")
    def _names_are_clear(self) -> "Policy":
        check_renames(self.inputs, self.outputs, has_candidate=self.candidate is not None)
        return self

    @pydantic.model_validator(mode="after")
    def _steps_make_sense(self) -> "Policy":
        if self.steps and self.candidate is None:
            raise ValueError("`steps` need a `candidate`")
        if "promote" in self.steps[:-1]:
            raise ValueError("`promote` must be the last step")
        weights = [step.canary for step in self.steps if isinstance(step, CanaryStep)]
        if weights != sorted(weights):
            raise ValueError("canary weights must not decrease: a caller who is on the canary stays on it")
        return self

    @pydantic.model_validator(mode="after")
    def _agreement_needs_no_labels(self) -> "Policy":
        quality = self.goals.quality
        if quality is None:
            return self
        if self.task == AGREEMENT and quality.loss != DISAGREEMENT:
            raise ValueError(
                f"`task: agreement` compares the two models' answers without labels, and `{quality.loss}` needs labels: write "
                f"`loss: {DISAGREEMENT}`"
            )
        if quality.loss == DISAGREEMENT and self.labels.audit is not None:
            raise ValueError(f"`{DISAGREEMENT}` needs no labels: leave `labels.audit` out")
        waiting = [i for i, step in enumerate(self.steps) if step != "promote" and step.until and step.until.labels]
        if quality.loss == DISAGREEMENT and waiting:
            raise ValueError(
                f"steps.{waiting[0]}.until waits for labels, and `{DISAGREEMENT}` needs none, so the step might never end: write "
                "`until: {requests: ..}`"
            )
        return self

    @pydantic.model_validator(mode="after")
    def _what_was_served_was_drawn(self) -> "Policy":
        """Served evidence needs labels in order, and a canary step in which chance decides."""
        quality = self.goals.quality
        if quality is None or quality.evidence == "paired":
            return self
        if self.labels.audit is not None or self.labels.count == "on_arrival":
            raise ValueError("`quality.evidence: served` needs `labels.count: settled` and no `labels.audit`")
        if not 0.0 < self.smallest_share < 1.0:
            raise ValueError(
                "`quality.evidence: served` needs a `canary` step of more than 0 and less than 100 percent"
            )
        return self

    @property
    def smallest_share(self) -> float:
        """The smallest share of answers, 0 to ½, of either model at any canary step; 1 if there is none."""
        weights = [step.canary / SHARE_ONE for step in self.steps if isinstance(step, CanaryStep)]
        return min((min(w, 1.0 - w) for w in weights if 0.0 < w < 1.0), default=1.0)

    def key(self, primary_digest: str, candidate_digest: str | None) -> str:
        """The key of the evidence: a hash of the models' digests and the judged part of the policy.

        A retry of the same model files keeps the evidence; a changed margin starts new evidence. The steps are not part of it,
        since the growth of the weight does not change which model is better. Neither are goals that only a load test checks:
        its record has them.

        Keys with their default value are left out. So a field that a later version adds does not change the key, provided that
        its default keeps the behaviour. Existing defaults must never change; a test checks this.
        """
        judged: JsonObject = self.judged(exclude_defaults=True)
        if self.goals.quality is not None and self.goals.quality.scale.clip is not None:
            judged["units"] = UNITS  # without it, the margins of these losses had another unit
        text = json.dumps([judged, primary_digest, candidate_digest], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def judged(self, *, exclude_defaults: bool = False) -> JsonObject:
        """The keys `JUDGED` as in the file. Goals that only a load test checks are set to their defaults."""
        latency = self.goals.latency.model_copy(update={"p50_ms": None, "p95_ms": None})
        goals = {"throughput_rps": None, "load": Load(), "cost": None, "latency": latency}
        bare = self.model_copy(update={"goals": self.goals.model_copy(update=goals)})
        # For served evidence the shares of the steps bound its values, and bounds are frozen.
        served = self.goals.quality is not None and self.goals.quality.evidence == "served"
        keys = {*JUDGED, "steps"} if served else set(JUDGED)
        if self.goals.quality is not None and self.goals.quality.loss == DISAGREEMENT:
            keys.add("compare")  # it defines which answers are equal
        return bare.model_dump(mode="json", include=keys, exclude_defaults=exclude_defaults)

    def followed(self) -> JsonObject:
        """The keys `FOLLOWED` as in the file."""
        return self.model_dump(mode="json", include=set(FOLLOWED), exclude_defaults=True)

    def following(self, followed: Mapping[str, object]) -> "Policy":
        """This policy with the values that `followed` had at another time.

        Raises:
            ConfigurationError: if a version with other keys wrote them.
        """
        return _known({**self.model_dump(mode="json", exclude=set(FOLLOWED)), **followed})

    def first_plan(self, rollout: str) -> Plan:
        """The first plan of a rollout: its first step, or serving alone if there is no candidate.

        The salt is derived from the rollout's key. So all replicas choose the same callers without communication, and the
        next rollout chooses others.
        """
        salt = int(rollout, 16)
        step = self.steps[0] if self.steps else None
        if isinstance(step, ShadowStep):
            return Plan(Phase.SHADOW, weight=0, shadow=step.shadow, salt=salt)
        if isinstance(step, CanaryStep):
            return Plan(Phase.CANARY, weight=step.canary, shadow=step.rehearse, salt=salt)
        if self.candidate is not None:
            return Plan(Phase.SHADOW, weight=0, shadow=SHARE_ONE, salt=salt)
        return Plan(Phase.SERVING, weight=0, shadow=0, salt=salt)


class _DuplicateKey(yaml.YAMLError):
    """A mapping has a key twice."""


class _Loader(yaml.SafeLoader):
    """Rejects duplicate keys, of which PyYAML would silently use the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        """See `yaml.composer.Composer.compose_mapping_node`."""
        node = super().compose_mapping_node(anchor)
        lines: dict[tuple[str, str], int] = {}
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode):
                continue
            line, name = key.start_mark.line + 1, (key.tag, key.value)
            if name in lines:
                raise _DuplicateKey(f"the key `{key.value}` is in line {lines[name]}, and again in line {line}")
            lines[name] = line
        return node


def parse(text: str, source: str = "rollout.yaml", *, for_a_clip: bool = False) -> Policy:
    """The policy in a rollout file's text.

    Args:
        text: the text.
        source: name of the file, for messages.
        for_a_clip: ignore a quality goal without its required `clip`, for the command that proposes one.

    Raises:
        ConfigurationError: if the text is invalid. The message names the key and what it should be.
    """
    try:
        data: object = yaml.load(text, _Loader)  # noqa: S506 - a SafeLoader that is stricter still
    except _DuplicateKey as error:
        raise ConfigurationError(f"{source}: {error}") from None
    except (yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigurationError(f"{source} is not YAML: {error}") from error
    if not isinstance(data, dict):
        raise ConfigurationError(f"{source} must be a mapping with `model`, `task` and `primary`")
    if for_a_clip and _lacks_a_clip(data):
        data = {**data, "goals": {name: goal for name, goal in data["goals"].items() if name != "quality"}}
    try:
        return Policy.model_validate(data)
    except pydantic.ValidationError as error:
        problems = "\n".join(f"  {_path(e['loc'])}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors())
        raise ConfigurationError(
            f"{source} does not fit the schema (`understudy check --schema` prints it):\n{problems}"
        ) from error


def _lacks_a_clip(data: Mapping[str, object]) -> bool:
    goals = data.get("goals")
    quality = goals.get("quality") if isinstance(goals, dict) else None
    if not isinstance(quality, dict) or quality.get("clip") is not None:
        return False
    loss = quality.get("loss")
    return isinstance(loss, str) and loss in LOSSES and LOSSES[loss].clip == "required"


def of_store(judged: JsonObject, primary: str, candidate: str | None, units: str = "") -> Policy:
    """The policy by which stored evidence was judged.

    Args:
        judged: the keys `JUDGED`.
        primary: digest of the primary.
        candidate: digest of the candidate, or None.
        units: unit of margins of clipped losses: `UNITS`, or "" in older stores, where they were a share of the clip.

    Raises:
        ConfigurationError: if a version with other keys wrote it, or one with another unit of margins.
    """
    quality = judged.get("goals", {}).get("quality") or {}
    if LOSSES[quality.get("loss", "brier")].clip == "none":
        # Older versions stored a `clip` with every loss, which these losses did not use.
        judged = (
            {**judged, "goals": {**judged.get("goals", {}), "quality": {**quality, "clip": None}}}
            if quality
            else judged
        )
    elif units != UNITS:
        raise ConfigurationError(
            f"this rollout was judged by a version in which the margin of {quality['loss']} was a share of its clip; now it is in "
            "the unit of the loss, so these decisions can only be verified with that version"
        )
    return _known({**judged, "primary": primary, "candidate": candidate})


def _known(data: Mapping[str, object]) -> Policy:
    try:
        return Policy.model_validate(data)
    except pydantic.ValidationError as error:
        keys = ", ".join(f"{_path(e['loc'])} ({e['msg']})" for e in error.errors())
        raise ConfigurationError(
            f"another version wrote the stored policy of this rollout; this version does not know {keys}"
        ) from error


def json_schema() -> JsonObject:
    """The JSON Schema of the rollout file, for editors."""
    return Policy.model_json_schema() | {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "rollout.yaml",
    }


def _path(location: tuple[int | str, ...]) -> str:
    names = [str(part) for part in location if part not in {"ShadowStep", "CanaryStep"}]
    return ".".join(names) or "file"
