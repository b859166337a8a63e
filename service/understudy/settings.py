"""Settings of one process, read once from the environment (`UNDERSTUDY_…`). Every limit is here, with its unit and reason.

The goals of a rollout are in the rollout file instead (`understudy.rollout.policy`).
"""

from pathlib import Path

import pydantic
import pydantic_settings
from pydantic_core import ErrorDetails

from understudy.errors import ConfigurationError
from understudy.times import AHEAD_MAX_S, EARLIEST_S, TimeLimits


class Settings(pydantic_settings.BaseSettings):
    """Each field is the environment variable `UNDERSTUDY_` + its name in capitals."""

    model_config = pydantic_settings.SettingsConfigDict(env_prefix="UNDERSTUDY_", frozen=True)

    rollout_file: Path = pydantic.Field(Path("rollout.yaml"), description="the rollout file")
    state_dir: Path = pydantic.Field(
        Path(".understudy"), description="folder of the default store and of run-time files"
    )
    store_url: str = pydantic.Field(
        "",
        description="the store: postgresql://user@host/name, or sqlite:///file.db; empty: an SQLite file in state_dir",
    )
    model_cache_dir: Path | None = pydantic.Field(
        None, description="cache of models that the rollout file names by URL; absent: state_dir/models"
    )
    model_cache_max_mib: int = pydantic.Field(
        8_192,
        ge=1,
        description="size limit of that cache; models unused for longest are removed first, too large ones rejected",
    )
    model_fetch_timeout_s: float = pydantic.Field(
        30.0, gt=0, description="a download that receives nothing for this long fails"
    )
    model_open_timeout_s: float = pydantic.Field(
        60.0,
        gt=0,
        description="time limit for opening and trying a model in a process of its own, before it is served; 30 times as long for "
        "TensorRT",
    )
    model_open_max_mib: int = pydantic.Field(
        8_192, ge=1, description="memory limit of that process; there is none on a GPU"
    )
    tokens_file: Path | None = pydantic.Field(
        None, description="tokens with roles; absent: only loopback clients have access, as operators"
    )
    workers: int | None = pydantic.Field(None, ge=1, le=64, description="number of workers; overrides the rollout file")
    threads: int | None = pydantic.Field(
        None, ge=1, description="ONNX Runtime threads per process; absent: its share of the cgroup's CPU quota"
    )

    candidate_url: str = pydantic.Field(
        "",
        description="URL of a candidate that was started separately, http://host:port; empty: this service starts it",
    )
    drain_s: float = pydantic.Field(
        0.0,
        ge=0,
        description="after SIGTERM: how long to keep answering, while /readyz is 503, before connections close",
    )

    body_max_bytes: int = pydantic.Field(8 * 2**20, ge=1024, description="largest request body; more is 413")
    large_from_bytes: int = pydantic.Field(
        131_072,
        ge=1_024,
        description="a request body of this size or more is decoded in a thread, piece by piece, so that it holds no other caller",
    )
    large_queue_max_bytes: int = pydantic.Field(
        64 * 2**20, ge=1_024, description="bytes of such bodies waiting to be decoded, per worker; more is 429"
    )
    rows_max: int = pydantic.Field(5_000, ge=1, description="most rows in one request; more is 413")
    labels_max: int = pydantic.Field(10_000, ge=1, description="most labels in one /feedback call; more is 413")
    queue_max_labels: int = pydantic.Field(
        50_000, ge=1, description="labels of all callers waiting to be stored; more is 429"
    )
    loadtest_max_bytes: int = pydantic.Field(
        131_072,
        ge=1024,
        description="largest record of a load test; more is 413, because the audit log keeps it for ever",
    )
    time_ahead_max_s: float = pydantic.Field(
        AHEAD_MAX_S,
        ge=0,
        description="how far a label's `at` or `X-Rollout-At` may be ahead of the service's clock; more is rejected",
    )
    time_earliest_s: float = pydantic.Field(
        EARLIEST_S,
        ge=0,
        description="the earliest such time that is accepted, in Unix seconds; by default 2000-01-01",
    )
    key_max_chars: int = pydantic.Field(256, ge=16, description="longest routing key")
    body_timeout_s: float = pydantic.Field(10.0, gt=0, description="time limit for receiving a body; later is 408")

    batch_max_rows: int = pydantic.Field(1_024, ge=1, description="most rows in one run of a model")
    batch_max_delay_ms: float = pydantic.Field(
        0.0, ge=0, le=1_000, description="how long a request waits for others to share its run; 0: it does not wait"
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
        description="share of the deadline after which the primary answers in place of the candidate",
    )
    candidate_connections_max: int = pydantic.Field(
        8, ge=1, description="concurrent calls to the candidate, per worker"
    )
    breaker_failures: int = pydantic.Field(
        5,
        ge=1,
        description="failures in a row that open the breaker: the candidate is not called until it answers a probe",
    )
    probe_interval_ms: float = pydantic.Field(250, gt=0, description="time between probes of a candidate that is down")

    shadow_queue_max_rows: int = pydantic.Field(
        20_000, ge=1, description="rows waiting for their rehearsal; more are dropped"
    )
    shadow_queue_max_elements: int = pydantic.Field(
        4_000_000,
        ge=1,
        description="elements of arrays (texts, images) in the rows waiting for their rehearsal; more are dropped",
    )
    shadow_gather_ms: float = pydantic.Field(
        5, ge=0, description="how long the first request of a rehearsal call waits for others; no caller waits for it"
    )
    shadow_batch_max_rows: int = pydantic.Field(512, ge=1, description="most rows in one rehearsal call")
    shadow_timeout_ms: float = pydantic.Field(2_000, gt=0, description="a rehearsal that takes longer counts as late")

    flush_interval_ms: float = pydantic.Field(
        50,
        gt=0,
        description="time between batches to the records process; a worker that crashes loses this much and one batch",
    )
    flush_max_rows: int = pydantic.Field(
        1_024,
        ge=1,
        description="most rows in one batch, which is one store transaction; a full batch is sent at once",
    )
    records_max_rows: int = pydantic.Field(
        100_000, ge=1, description="rows waiting to be recorded, per worker; more are dropped and counted"
    )
    store_timeout_s: float = pydantic.Field(
        3.0, ge=0.1, description="how long a call waits for the database before it counts as unavailable"
    )
    store_connections_max: int = pydantic.Field(
        5, ge=2, description="connections to PostgreSQL per worker, besides the one that listens for plans"
    )
    spool_after_ms: float = pydantic.Field(
        1_000, gt=0, description="records that are not stored within this time go to the spool on disk, state_dir/spool"
    )
    spool_max_mib: int = pydantic.Field(
        1_024, ge=1, description="size limit of the spool, per process; beyond it records wait in memory"
    )
    plan_poll_ms: float = pydantic.Field(
        250, gt=0, description="how often a worker polls for a new plan (PostgreSQL also notifies it)"
    )
    files_interval_s: float = pydantic.Field(
        2.0,
        gt=0,
        description="how often a worker checks whether the rollout file and the models have changed since the start",
    )
    plan_stale_s: float = pydantic.Field(
        20.0,
        gt=0,
        description="after this long without reading the plan, a worker sends no live traffic to a candidate on trial",
    )
    tick_ms: float = pydantic.Field(500, gt=0, description="how often the evidence is updated and judged")
    lease_s: float = pydantic.Field(
        5.0, gt=0, description="after this long without a renewal of the lease another records process leads"
    )
    sweep_interval_s: float = pydantic.Field(5.0, gt=0, description="how often joining the waiting labels is retried")
    drift_interval_s: float = pydantic.Field(
        2.0, gt=0, description="how often the counts for drift are written and checked"
    )
    drift_min_rows: int = pydantic.Field(200, ge=1, description="a day with fewer rows is not checked for drift")
    drift_line_factor: float = pydantic.Field(
        1.5,
        gt=0,
        description="threshold of drift: so many times the distance of the most unusual training day, plus 5 / training days",
    )
    drift_looks: int = pydantic.Field(
        24, ge=1, description="hours in a row that must agree before a drift alarm is raised or cleared"
    )
    drift_features_max: int = pydantic.Field(
        200, ge=1, description="most features that are checked for drift, in the card's order"
    )
    drift_batch_max_rows: int = pydantic.Field(
        128, ge=1, description="of up to 1,024 records of an hour, how many are counted for drift, weighted accordingly"
    )
    drift_days_max: int = pydantic.Field(
        10, ge=2, description="days of hourly counts kept for drift; those that changed longest ago are removed first"
    )
    traffic_interval_s: float = pydantic.Field(
        5.0,
        ge=0.1,
        description="length of a point of latency and failures over time; a coarse point is 120 times as long",
    )
    traffic_points_max: int = pydantic.Field(
        240, ge=2, description="points kept of each of the two lengths; by default 20 minutes and 40 hours"
    )
    retention_days: float = pydantic.Field(90, gt=0, description="observations older than this are removed")
    retention_max_mib: int = pydantic.Field(
        4_096, ge=1, description="size limit of observations; the oldest are removed first"
    )

    check_max_rows: int = pydantic.Field(
        10_000, ge=1, description="most rows of a file that `understudy check --rows` compares the models on"
    )
    webhook_urls: str = pydantic.Field(
        "", description="URLs that get every event of the audit log as a CloudEvent; up to ten, separated by spaces"
    )
    webhook_secret_file: Path | None = pydantic.Field(
        None, description="the secret that signs webhooks; `understudy webhook-secret` creates it"
    )
    webhook_poll_ms: float = pydantic.Field(500, gt=0, description="how often the leader looks for events to send")
    webhook_timeout_s: float = pydantic.Field(10.0, gt=0, description="time limit of a delivery; slower ones fail")
    webhook_retry_max_s: float = pydantic.Field(
        300.0, gt=0, description="longest wait between two attempts; it doubles, starting at one second"
    )
    webhook_give_up_days: float = pydantic.Field(
        3.0, gt=0, description="an event that could not be delivered for this long is dropped and counted"
    )

    def time_limits(self) -> TimeLimits:
        """The limits of plausible times that callers report."""
        return TimeLimits(self.time_ahead_max_s, self.time_earliest_s)

    def resolved_store_url(self) -> str:
        """The store's URL, with the default filled in."""
        return self.store_url or f"sqlite:///{(self.state_dir / 'understudy.db').absolute()}"


def read_settings(**overrides: object) -> Settings:
    """Read the settings from the environment. `overrides` take precedence.

    Raises:
        ConfigurationError: names each invalid variable and what it takes.
    """
    try:
        return Settings(**overrides)  # type: ignore[arg-type]  # pydantic checks them
    except pydantic.ValidationError as error:
        raise ConfigurationError("; ".join(_problem(each) for each in error.errors())) from None


def _problem(error: ErrorDetails) -> str:
    name, message = str(error["loc"][0]), error["msg"]
    expected = message[:1].lower() + message[1:]
    return f"UNDERSTUDY_{name.upper()} is {error['input']!r}: {expected} ({Settings.model_fields[name].description})"
