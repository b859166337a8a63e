"""Settings of one process, read once from the environment (`UNDERSTUDY_…`). Every limit is here, with its unit and why.

What the launch is judged by is not here: that is the rollout file (`understudy.rollout.policy`).
"""

from pathlib import Path
from typing import Any

import pydantic
import pydantic_settings

from understudy.errors import ConfigurationError
from understudy.times import AHEAD_MAX_S, EARLIEST_S, TimeLimits


class Settings(pydantic_settings.BaseSettings):
    """Each field is the environment variable `UNDERSTUDY_` + its name in capitals."""

    model_config = pydantic_settings.SettingsConfigDict(env_prefix="UNDERSTUDY_", frozen=True)

    rollout_file: Path = pydantic.Field(Path("rollout.yaml"), description="the rollout file")
    state_dir: Path = pydantic.Field(Path(".understudy"), description="where the default store and run files live")
    store_url: str = pydantic.Field(
        "",
        description="the store: postgresql://user@host/name, or sqlite:///file.db; empty: an SQLite file in state_dir",
    )
    model_cache_dir: Path | None = pydantic.Field(
        None, description="where models that the rollout file names by URL are kept; absent: state_dir/models"
    )
    model_cache_max_mib: int = pydantic.Field(
        8_192, ge=1, description="how much may be kept there; what nobody uses goes first, and more is refused"
    )
    model_fetch_timeout_s: float = pydantic.Field(
        30.0, gt=0, description="a server of model files that sends nothing for so long is given up"
    )
    tokens_file: Path | None = pydantic.Field(
        None, description="tokens with roles; absent: loopback only, and everyone there is operator"
    )
    workers: int | None = pydantic.Field(
        None, ge=1, le=64, description="answering processes; overrides the rollout file"
    )
    threads: int | None = pydantic.Field(
        None, ge=1, description="ONNX Runtime threads of a process; absent: its share of the cgroup's CPU quota"
    )

    candidate_url: str = pydantic.Field(
        "", description="where a candidate runs that was started apart, http://host:port; empty: beside this service"
    )
    drain_s: float = pydantic.Field(
        0.0,
        ge=0,
        description="after SIGTERM: how long to go on answering, while /readyz says 503, before connections are closed",
    )

    body_max_bytes: int = pydantic.Field(8 * 2**20, ge=1024, description="largest request body; more is 413")
    rows_max: int = pydantic.Field(5_000, ge=1, description="most rows in one request; more is 413")
    labels_max: int = pydantic.Field(10_000, ge=1, description="most labels in one /feedback call; more is 413")
    queue_max_labels: int = pydantic.Field(
        50_000, ge=1, description="labels of all callers that wait to be stored; more is 429"
    )
    loadtest_max_bytes: int = pydantic.Field(
        131_072, ge=1024, description="largest record of a load test; more is 413: it stays in the audit log for ever"
    )
    time_ahead_max_s: float = pydantic.Field(
        AHEAD_MAX_S,
        ge=0,
        description="how far a label's `at` or `X-Rollout-At` may be ahead of the service's clock; more is refused",
    )
    time_earliest_s: float = pydantic.Field(
        EARLIEST_S,
        ge=0,
        description="the earliest such time that is accepted, in Unix seconds; by default 2000-01-01",
    )
    key_max_chars: int = pydantic.Field(256, ge=16, description="longest routing key")
    body_timeout_s: float = pydantic.Field(10.0, gt=0, description="a body that is not here by then is 408")

    batch_max_rows: int = pydantic.Field(1_024, ge=1, description="most rows in one run of a model")
    batch_max_delay_ms: float = pydantic.Field(
        0.0, ge=0, le=1_000, description="how long a request waits for others to share its run; 0: not at all"
    )
    queue_max_rows: int = pydantic.Field(20_000, ge=1, description="rows waiting for a model; more is 429")
    inline_max_ms: float = pydantic.Field(
        2.0,
        ge=0,
        description="a run expected to take longer goes to a thread, so that it does not block the event loop",
    )

    candidate_timeout_share: float = pydantic.Field(
        0.5,
        gt=0,
        lt=1,
        description="share of the deadline that the candidate may use before the primary answers instead",
    )
    candidate_connections_max: int = pydantic.Field(8, ge=1, description="calls under way to the candidate, per worker")
    breaker_failures: int = pydantic.Field(
        5, ge=1, description="failures in a row after which the candidate is not asked until it answers a probe"
    )
    probe_interval_ms: float = pydantic.Field(250, gt=0, description="how often a candidate that is down is probed")

    shadow_queue_max_rows: int = pydantic.Field(
        20_000, ge=1, description="rows waiting to be rehearsed; more is dropped"
    )
    shadow_gather_ms: float = pydantic.Field(
        5, ge=0, description="how long the first request of a rehearsal call waits for others: nobody waits for its end"
    )
    shadow_batch_max_rows: int = pydantic.Field(512, ge=1, description="most rows in one rehearsal call")
    shadow_timeout_ms: float = pydantic.Field(2_000, gt=0, description="a rehearsal that takes longer is late")

    flush_interval_ms: float = pydantic.Field(
        50,
        gt=0,
        description="how often records go to the records process: a worker's crash loses at most this much and one batch",
    )
    flush_max_rows: int = pydantic.Field(
        1_024,
        ge=1,
        description="most rows in one batch, which is one store transaction; a batch goes as soon as it is full",
    )
    records_max_rows: int = pydantic.Field(
        100_000, ge=1, description="rows waiting to be recorded, per worker; more is dropped and counted"
    )
    store_timeout_s: float = pydantic.Field(
        3.0, ge=0.1, description="how long any call waits for the database before it counts as away"
    )
    store_connections_max: int = pydantic.Field(
        5, ge=2, description="connections to PostgreSQL per worker, less the one that listens for plans"
    )
    spool_after_ms: float = pydantic.Field(
        1_000, gt=0, description="records that the store has not taken by then wait on disk, in state_dir/spool"
    )
    spool_max_mib: int = pydantic.Field(
        1_024, ge=1, description="how much may wait on disk, per process; beyond it records wait in memory"
    )
    plan_poll_ms: float = pydantic.Field(
        250, gt=0, description="how often a worker looks for a new plan, should nobody tell it (PostgreSQL does)"
    )
    files_interval_s: float = pydantic.Field(
        2.0, gt=0, description="how often a worker looks whether the rollout file and the models are those of the start"
    )
    plan_stale_s: float = pydantic.Field(
        20.0,
        gt=0,
        description="a worker that could not read the plan for so long sends no live traffic to a candidate on trial",
    )
    tick_ms: float = pydantic.Field(500, gt=0, description="how often the evidence is folded and judged")
    lease_s: float = pydantic.Field(
        5.0, gt=0, description="after this long without a sign of life another records process leads"
    )
    sweep_interval_s: float = pydantic.Field(5.0, gt=0, description="how often waiting labels are joined again")
    drift_interval_s: float = pydantic.Field(
        2.0, gt=0, description="how often the counts for drift are written, and looked at"
    )
    drift_min_rows: int = pydantic.Field(200, ge=1, description="a day with fewer rows is not looked at for drift")
    drift_line_factor: float = pydantic.Field(
        1.5,
        gt=0,
        description="how many times the most unlike day of the training data is drift; 5 over the number of training days is added",
    )
    drift_looks: int = pydantic.Field(
        24, ge=1, description="hours in a row that must agree before a drift alarm goes on or off"
    )
    drift_features_max: int = pydantic.Field(200, ge=1, description="features watched for drift, in the card's order")
    drift_batch_max_rows: int = pydantic.Field(
        128, ge=1, description="of up to 1,024 records, how many of an hour are counted for drift, each for its share"
    )
    drift_days_max: int = pydantic.Field(
        10, ge=2, description="days of hourly counts kept for drift; those without news for longest go first"
    )
    traffic_interval_s: float = pydantic.Field(
        5.0,
        ge=0.1,
        description="how long a point of latency and failures over time is; a coarse one is 120 times as long",
    )
    traffic_points_max: int = pydantic.Field(
        240, ge=2, description="points kept of each of the two lengths: 20 minutes and 40 hours, by default"
    )
    retention_days: float = pydantic.Field(90, gt=0, description="observations older than this are removed")
    retention_max_mib: int = pydantic.Field(4_096, ge=1, description="most space for observations; the oldest go first")

    check_max_rows: int = pydantic.Field(
        10_000, ge=1, description="most rows of a file that `understudy check --rows` compares the models on"
    )
    webhook_urls: str = pydantic.Field(
        "", description="where every event of the audit log goes as a CloudEvent; up to ten URLs, separated by blanks"
    )
    webhook_secret_file: Path | None = pydantic.Field(
        None, description="what webhooks are signed with; `understudy webhook-secret` makes it"
    )
    webhook_poll_ms: float = pydantic.Field(500, gt=0, description="how often a worker looks for events to send")
    webhook_timeout_s: float = pydantic.Field(10.0, gt=0, description="a receiver that takes longer has failed")
    webhook_retry_max_s: float = pydantic.Field(
        300.0, gt=0, description="the longest wait between two tries; it doubles from one second on"
    )
    webhook_give_up_days: float = pydantic.Field(
        3.0, gt=0, description="an event that a receiver has refused for so long is given up and counted"
    )

    def time_limits(self) -> TimeLimits:
        """Which times that callers report are accepted."""
        return TimeLimits(self.time_ahead_max_s, self.time_earliest_s)

    def resolved_store_url(self) -> str:
        """The store's URL, with the default filled in."""
        return self.store_url or f"sqlite:///{(self.state_dir / 'understudy.db').absolute()}"


def read_settings(**given: Any) -> Settings:
    """The settings that the environment says; `given` goes before it.

    Raises:
        ConfigurationError: naming each variable that does not fit, and what it takes.
    """
    try:
        return Settings(**given)
    except pydantic.ValidationError as error:
        raise ConfigurationError("; ".join(_said(problem) for problem in error.errors())) from None


def _said(problem: Any) -> str:
    name = str(problem["loc"][0])
    wanted = problem["msg"][:1].lower() + problem["msg"][1:]
    return f"UNDERSTUDY_{name.upper()} is {problem['input']!r}: {wanted} ({Settings.model_fields[name].description})"
