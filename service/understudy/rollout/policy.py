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

from understudy.domain import SHARE_ONE, Phase, Plan
from understudy.errors import ConfigurationError
from understudy.rollout.goals import Duration, Goals, Labels, Load, Share, Strict
from understudy.rollout.loss_table import DISAGREEMENT, LOSSES

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
Device = Literal["auto", "cpu", "cuda", "tensorrt"]


SCHEMES = ("s3", "gs", "az", "https", "http")
"""Where models may be fetched from."""
JUDGED = ("model", "task", "classes", "goals", "labels", "unit")
"""The keys of the rollout file that evidence depends on."""
UNITS = "raw"
"""What margins of clipped losses are in. Before, they were a share of the clip, and that evidence is not continued."""
FOLLOWED = ("steps", "bake")
"""The keys that decisions depend on besides: they may change while a rollout runs, so each decision says what they were."""


class Tolerance(Strict):
    """How far two numbers may be apart and still be called equal: |c − p| ≤ atol + rtol·|p|, as `numpy.allclose` has it."""

    atol: float = pydantic.Field(default=1e-7, ge=0, description="absolute, in the output's own unit")
    rtol: float = pydantic.Field(default=1e-3, ge=0, description="relative to the primary's number")


class Until(Strict):
    """A step lasts at least until this much is known."""

    labels: int | None = pydantic.Field(default=None, ge=1, description="labels that count")
    requests: int | None = pydantic.Field(default=None, ge=1, description="requests")
    duration: Duration | None = pydantic.Field(default=None, description="time in the step")


Require = Literal["loadtest", "approval"]


class ShadowStep(Strict):
    """The candidate rehearses on a share of the requests; the primary answers all of them."""

    shadow: Share = pydantic.Field(description="the share, in percent with at most two decimals")
    until: Until | None = None
    require: list[Require] = pydantic.Field(default=[], description="what must be there before this step starts")


class CanaryStep(Strict):
    """The candidate answers a share of the requests; the model that does not answer rehearses."""

    canary: Share = pydantic.Field(description="the share, in percent with at most two decimals")
    rehearse: Share = pydantic.Field(
        default=SHARE_ONE, description="of how many requests the model that does not answer rehearses, in percent"
    )
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


class Policy(Strict):
    """The rollout file."""

    model: str = pydantic.Field(
        pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$",
        description="what the service is called, in answers and in metrics",
    )
    task: Task = pydantic.Field(description="what the models do; both do the same")
    primary: str = pydantic.Field(
        description="the model in proof of concept: a folder with model.onnx and card.json, an .onnx file, `bentoml:<tag>`, or the "
        "URL of a card.json or .onnx file with its digest, `s3://…/card.json#sha256=…` (also gs, az, https, http)"
    )
    candidate: str | None = pydantic.Field(default=None, description="the better one to launch, named in the same way")
    device: Device = pydantic.Field(
        default="auto", description="what runs them; one that is named and not there keeps the service from starting"
    )
    classes: list[int | str] = pydantic.Field(
        default=[],
        description="what the classes are called, as the labels name them and in the order of the probabilities, for a model whose "
        "graph and card do not say it",
    )
    route_by: str | None = pydantic.Field(
        default=None,
        description="a request field that keeps a caller on one variant; absent: the request's own key or id",
    )
    goals: Goals = Goals()
    labels: Labels = Labels()
    compare: dict[str, Tolerance] = pydantic.Field(
        default={},
        description="by output: how far the two models' numbers may be apart and still count as equal; `value` is a regression's. "
        "`loss: disagreement` is judged by these tolerances, and there `probabilities` may have one as well",
    )
    unit: str | None = pydantic.Field(
        default=None,
        description="evidence counts the first request per value of this field and window; absent: every request",
    )
    bake: Duration = pydantic.Field(
        default=72 * 3600.0,
        description="how long after a promotion the old primary rehearses and stays warm as the fallback, before it is released",
    )
    workers: int = pydantic.Field(default=1, ge=1, le=64, description="processes that answer; each holds the primary")
    steps: list[Step] = pydantic.Field(
        default=[], description="what the rollout goes through, in order; absent: the candidate only rehearses"
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
            raise ValueError("a URL needs its file's digest, `#sha256=` and what `sha256sum` says of the file")
        return source

    @pydantic.field_validator("classes", mode="before")
    @classmethod
    def _classes_are_names(cls, classes: object) -> object:
        if isinstance(classes, list):
            for name in classes:
                if isinstance(name, bool):
                    raise ValueError(
                        f"`classes` has {name}; YAML reads yes, no, on and off so, unless they are in quotes"
                    )
                if not isinstance(name, int | str):
                    raise ValueError(f"`classes` has {name!r}; a class is a whole number or a text")
            if len({type(name) for name in classes}) > 1:
                raise ValueError("`classes` has whole numbers and texts; all are of one kind, as the labels are")
            if len(set(classes)) < len(classes):
                raise ValueError("`classes` names one of them twice")
            if len(classes) == 1:
                raise ValueError("`classes` names one class; there are at least two")
        return classes

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
        """Evidence from who answered counts a caller once; what keeps a caller on one variant must be what counts once."""
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
        """The smallest share, 0 to ½, that either model has of the answers at any canary step; 1 where there is none."""
        weights = [step.canary / SHARE_ONE for step in self.steps if isinstance(step, CanaryStep)]
        return min((min(w, 1.0 - w) for w in weights if 0.0 < w < 1.0), default=1.0)

    def key(self, primary_digest: str, candidate_digest: str | None) -> str:
        """What evidence is kept under: the models' digests and what they are judged by.

        A retry of the same artifact resets nothing; a changed margin starts new evidence. The steps are not part of
        it: how fast the weight grows changes no answer to "which model is better". Nor are the goals that only a load
        test holds: its record says by which it was judged.

        What is at its default is left out, said or not. So a field that a later version adds changes no key while its
        default means what was done before; and a default that is there may never change, which a test holds.
        """
        judged: dict[str, Any] = self.judged(exclude_defaults=True)
        if self.goals.quality is not None and self.goals.quality.scale.clip is not None:
            judged["units"] = UNITS  # the margins of these losses meant something else in evidence without it
        text = json.dumps([judged, primary_digest, candidate_digest], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()[:16]

    def judged(self, *, exclude_defaults: bool = False) -> dict[str, Any]:
        """What `JUDGED` names, as the file says it, with the goals that only a load test holds at their defaults."""
        latency = self.goals.latency.model_copy(update={"p50_ms": None, "p95_ms": None})
        goals = {"throughput_rps": None, "load": Load(), "cost": None, "latency": latency}
        bare = self.model_copy(update={"goals": self.goals.model_copy(update=goals)})
        # Where quality is judged by what was served, the steps' shares bound its values, and bounds are frozen.
        served = self.goals.quality is not None and self.goals.quality.evidence == "served"
        keys = {*JUDGED, "steps"} if served else set(JUDGED)
        if self.goals.quality is not None and self.goals.quality.loss == DISAGREEMENT:
            keys.add("compare")  # what counts as the same answer
        return bare.model_dump(mode="json", include=keys, exclude_defaults=exclude_defaults)

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
            return Plan(Phase.CANARY, weight=step.canary, shadow=step.rehearse, salt=salt)
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


def parse(text: str, source: str = "rollout.yaml", *, for_a_clip: bool = False) -> Policy:
    """The policy in a rollout file's text.

    Args:
        for_a_clip: leave a quality goal out whose `clip` is missing, for the command that proposes one.

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
    if for_a_clip and _lacks_a_clip(data):
        data = {**data, "goals": {name: goal for name, goal in data["goals"].items() if name != "quality"}}
    try:
        return Policy.model_validate(data)
    except pydantic.ValidationError as error:
        problems = "\n".join(f"  {_path(e['loc'])}: {e['msg'].removeprefix('Value error, ')}" for e in error.errors())
        raise ConfigurationError(
            f"{source} does not fit the schema (`understudy check --schema` prints it):\n{problems}"
        ) from error


def _lacks_a_clip(data: Mapping[str, Any]) -> bool:
    goals = data.get("goals")
    quality = goals.get("quality") if isinstance(goals, dict) else None
    if not isinstance(quality, dict) or quality.get("clip") is not None:
        return False
    loss = quality.get("loss")
    return isinstance(loss, str) and loss in LOSSES and LOSSES[loss].clip == "required"


def of_store(judged: Mapping[str, Any], primary: str, candidate: str | None, units: str = "") -> Policy:
    """The policy that evidence in a store was judged by: what `JUDGED` names, and where the models are.

    Args:
        units: what margins of clipped losses are in: `UNITS`, or "" in a store of before, where they were a share of the clip.

    Raises:
        ConfigurationError: when a version with other keys wrote it, or one that read its margins in another way.
    """
    quality = judged.get("goals", {}).get("quality") or {}
    if LOSSES[quality.get("loss", "brier")].clip == "none":
        # Every loss had a `clip` once, and these never used it.
        judged = (
            {**judged, "goals": {**judged.get("goals", {}), "quality": {**quality, "clip": None}}}
            if quality
            else judged
        )
    elif units != UNITS:
        raise ConfigurationError(
            f"this rollout was judged when the margin of {quality['loss']} was a share of its clip; it is in the unit of the loss "
            "now, so these decisions can only be checked with the version that made them"
        )
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
