"""What a launch is judged by: goals, labels, and the values that the rollout file is written in. Pure."""

import math
import re
from typing import Annotated, Literal

import pydantic

from understudy.domain import SHARE_ONE
from understudy.rollout.loss_table import LOG_CLIP, LOSSES, LossScale

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
        raise ValueError("is the word `margin`, or a number of 0 or more") from None


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
Loss = Literal[
    "brier", "log_loss", "zero_one", "hamming", "absolute_error", "squared_error", "win_rate", "disagreement"
]


class Strict(pydantic.BaseModel):
    """A part of the rollout file: unknown keys are refused, and nothing changes after it was read."""

    model_config = pydantic.ConfigDict(extra="forbid", frozen=True, allow_inf_nan=False)


class Quality(Strict):
    """How good the candidate must be, in raw units of the loss, cut at `clip`; less is better."""

    loss: Loss = pydantic.Field(default="brier", description="what is measured on every labelled row")
    margin: float = pydantic.Field(
        gt=0,
        description='the candidate is "not worse" when its mean loss is at most this much above the primary\'s; in the unit of '
        "the loss: label units for `absolute_error`, their square for `squared_error`, nats for `log_loss`, a share for the others",
    )
    harm: Annotated[Literal["margin"] | Annotated[float, pydantic.Field(ge=0)], pydantic.WrapValidator(_harm)] = (
        pydantic.Field(
            default="margin",
            description="it is rolled back when its mean loss is this much above; `margin` means the margin itself",
        )
    )
    evidence: Literal["paired", "served"] = pydantic.Field(
        default="paired",
        description="`paired`: both models' losses on the same row; `served`: only the answer that was given, for labels "
        "that the answer itself influences (recommendations, blocking). It takes 4 to 20 times the requests",
    )
    poc_target: float | None = pydantic.Field(
        default=None,
        gt=0,
        description="the mean loss that the proof of concept itself was to reach, in the unit of `margin`",
    )
    clip: float | None = pydantic.Field(
        default=None,
        gt=0,
        description="an error larger than this counts as this much, since the statistics need a bounded loss. Required for "
        "`absolute_error` and `squared_error`, in label units for both (a squared error is cut at its square); for `log_loss` "
        f"in nats, {LOG_CLIP:g} if absent; not used by the other losses",
    )

    @pydantic.model_validator(mode="after")
    def _the_loss_has_a_scale(self) -> "Quality":
        spec = LOSSES[self.loss]
        if spec.clip == "none" and self.clip is not None:
            raise ValueError(f"`clip` is not used by `{self.loss}`, which is bounded by itself: leave it out")
        if spec.clip == "required" and self.clip is None:
            raise ValueError(
                f"`clip` is missing: `{self.loss}` has no largest value, and the statistics need one. Write `clip:` the largest "
                "error that still matters to you, in label units (`understudy evaluate --data FILE --label COL` proposes one "
                "from data), or write `loss: win_rate`, which needs no unit"
            )
        most = self.scale.most
        if not math.isfinite(most) or most <= 0:
            raise ValueError(
                f"`clip` of {self.clip:g} is out of range for `{self.loss}`: write a smaller or larger unit"
            )
        for name, line in (("margin", self.margin), ("harm", self.harm_line), ("poc_target", self.poc_target)):
            if line is not None and line >= most:
                raise ValueError(
                    f"`{name}` is {line:g}, and {_largest(self.scale)}: `{name}` must be less than {most:,.10g}, or no rollout "
                    "could ever miss it"
                )
        if not spec.of_one and self.evidence == "served":
            raise ValueError(f"`{self.loss}` compares both models' answers to one row, so it needs `evidence: paired`")
        if not spec.of_one and self.poc_target is not None:
            raise ValueError(
                f"`poc_target` needs a loss of one model; `{self.loss}` compares two: leave `poc_target` out"
            )
        return self

    @property
    def scale(self) -> LossScale:
        """Between the loss's raw unit and the [0, 1] of the statistics."""
        spec = LOSSES[self.loss]
        return LossScale(spec, spec.clip if self.clip is None and isinstance(spec.clip, float) else self.clip)

    @property
    def harm_line(self) -> float:
        """The line that rolls back, as a number in raw units."""
        return self.margin if self.harm == "margin" else self.harm


def _largest(scale: LossScale) -> str:
    if scale.clip is None:
        return f"a mean {scale.loss.words} is at most {scale.most:g}"
    return f"a {scale.loss.words} is cut at {scale.most:,.10g}"


class Errors(Strict):
    """How much more often than the primary the candidate may fail."""

    margin: float = pydantic.Field(
        gt=0,
        lt=1,
        description=(
            "as a share of requests; with `unit`, of each unit's first request a day; all requests are watched for harm besides"
        ),
    )
    ratio: float | None = pydantic.Field(
        default=None,
        ge=1,
        le=1000,
        description="while it answers callers, it may fail this many times as often as the primary; more rolls it back",
    )


_Times = Annotated[
    float | None,
    pydantic.Field(gt=1.02, le=100, description="this quantile may be so many times the primary's"),
]


class Ratio(Strict):
    """How much slower than the primary the candidate may answer its callers, by quantile; from 1 ms up, in steps of 2 %."""

    p50: _Times = None
    p95: _Times = None
    p99: _Times = None

    def levels(self) -> dict[str, tuple[float, float]]:
        """Name → (quantile, ratio), of those that are set."""
        limits = {"p50": (0.5, self.p50), "p95": (0.95, self.p95), "p99": (0.99, self.p99)}
        return {name: (level, ratio) for name, (level, ratio) in limits.items() if ratio is not None}


class Latency(Strict):
    """The latency goal and the deadline inside which every caller gets an answer, in milliseconds."""

    p99_ms: float = pydantic.Field(gt=0, description="99 of 100 requests are answered faster than this")
    p50_ms: float | None = pydantic.Field(default=None, gt=0, description="half of them (load tests hold it)")
    p95_ms: float | None = pydantic.Field(default=None, gt=0, description="95 of 100 (load tests hold it)")
    deadline_ms: float = pydantic.Field(default=250, gt=0, description="later there is no answer but 504")
    ratio: Ratio | None = pydantic.Field(
        default=None,
        description="how much slower than the primary it may be, on the requests that each of them answered",
    )


class Cost(Strict):
    """What a machine costs, and what predictions may cost, in one currency."""

    machine_per_hour: float = pydantic.Field(gt=0, description="what a machine costs an hour")
    max_per_million: float = pydantic.Field(gt=0, description="the most that a million predictions may cost")


class Load(Strict):
    """What may go wrong in a load test at `throughput_rps`, as shares."""

    error_rate: float = pydantic.Field(default=0.001, ge=0, lt=1, description="of the requests, not answered in time")
    fallback_rate: float = pydantic.Field(
        default=0.01, ge=0, lt=1, description="of the candidate's requests, answered by the primary in its place"
    )
    shadow_loss: float = pydantic.Field(
        default=0.01, ge=0, lt=1, description="of the rehearsals, dropped, failed or late"
    )
    records_loss: float = pydantic.Field(
        default=0.01, ge=0, lt=1, description="of the records, given up or not in the store a second after the test"
    )


class Goals(Strict):
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


class Labels(Strict):
    """How labels are waited for and in which order they count."""

    wait: Duration = pydantic.Field(
        default=72 * 3600.0, description="how long after its prediction a label is waited for: 500ms, 30s, 15m, 72h, 7d"
    )
    count: Literal["settled", "on_arrival"] = pydantic.Field(
        default="settled",
        description="`settled`: in the order of the requests, the late ones at their worst until the wait is over; "
        "`on_arrival`: as they come",
    )
    audit: Share | None = pydantic.Field(
        default=None,
        description="where labels go missing selectively: the share of predictions, drawn by chance, whose label you will get "
        "in any case; quality is judged by these alone, each with the weight of its chance (`understudy audit` lists them)",
    )

    @pydantic.model_validator(mode="after")
    def _audit_makes_sense(self) -> "Labels":
        if self.audit is not None and not self.audit:
            raise ValueError("`audit` is more than 0 percent: nothing could ever be judged by an empty sample")
        if self.audit is not None and self.count == "on_arrival":
            raise ValueError("`audit` needs `count: settled`: a sample with holes is none")
        return self
