"""One load test from end to end: runs the generator, watches the service meanwhile, and makes the record."""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import msgspec

from understudy.domain import JsonObject
from understudy.errors import ConfigurationError
from understudy.loadtest import gates, generator
from understudy.loadtest.generator import PROGRESS_PREFIX, LoadTest, Progress
from understudy.loadtest.shapes import mean_share
from understudy.loadtest.tally import Tally
from understudy.loadtest.watching import Counts, RecordsWatch, ServiceState, ServiceWatch, UsageSample
from understudy.offline.client import Client
from understudy.rollout.loadtest import LaunchGoals, Record, Setup

REASONS_MAX = 12
"""Reasons that are kept in a record."""
ERRORS_LISTED = 10
ERROR_CHARS = 1_500
"""How much of the generator's own output is quoted when it fails."""


@dataclass(frozen=True)
class LoadTestOutcome:
    """A record, with the counts and the samples of the service's usage that its report draws."""

    record: Record
    tally: Tally
    samples: Sequence[UsageSample]


OnProgress: TypeAlias = Callable[[Progress], None]


def run(
    test: LoadTest,
    *,
    goals: LaunchGoals | None = None,
    rollout_file: Path | None = None,
    on_progress: OnProgress = lambda _: None,
) -> LoadTestOutcome:
    """Run a load test of the service at `test.url`.

    Args:
        goals: judge by these instead of the service's own goals.
        rollout_file: its digest goes into the record.
        on_progress: called about once a second.

    Raises:
        CallFailed: the service does not answer.
        ConfigurationError: the generator failed; the message has its output.
    """
    with Client(test.url, test.token, timeout_s=5.0) as client:
        before = ServiceState.read(client)
        counts_before = Counts.read(client)
        launch_goals = goals or LaunchGoals.model_validate(before.goals)
        watch = ServiceWatch(client, before)
        result = _generate(test, before.deadline_ms, watch, on_progress)
        after = ServiceState.read(client)
        records = RecordsWatch.after(client, watch.counts or counts_before, watch.ends_at(test.seconds))
    tally = Tally.of(result["tally"])
    use = watch.use(after, tally)
    shadow_loss, candidate = _candidate(before, records, tally)
    measured = gates.measure(
        tally,
        test.seconds,
        shadow_loss=shadow_loss,
        records_loss=records.loss,
        machine_per_hour=launch_goals.machine_per_hour,
    )
    verdict, reasons, findings = gates.verdict(
        launch_goals, measured, tally, use, lost=result["lost"], candidate=candidate
    )
    record = Record(
        at=time.time(),
        model=before.model,
        verdict=verdict,
        reasons=reasons[:REASONS_MAX],
        setup=Setup.model_validate(before.setup),
        rollout_file=_digest(rollout_file),
        goals=launch_goals,
        measured=measured,
        findings=findings,
        method=_method(test, before),
        generator=_generator(tally),
        service=_service(use),
    )
    return LoadTestOutcome(record, tally, watch.samples(test.seconds))


def _generate(test: LoadTest, deadline_ms: float, watch: ServiceWatch, on_progress: OnProgress) -> JsonObject:
    """Run the generator while the service is watched; what the generator wrote."""
    with generator.running(test, deadline_ms) as running:
        watch.start()
        for line in running.process.stdout or ():
            if line.startswith(PROGRESS_PREFIX):
                progress = msgspec.json.decode(line.removeprefix(PROGRESS_PREFIX), type=Progress)
                watch.progressed(progress.at)
                on_progress(progress)
        code = running.process.wait()
        watch.stop()
        if not running.result.exists():
            output = running.log.read_text(encoding="utf-8")[-ERROR_CHARS:]
            raise ConfigurationError(
                f"the load generator failed with exit code {code}. Its output ends with:\n{output}"
            )
        result: JsonObject = json.loads(running.result.read_text(encoding="utf-8"))
    return result


def _candidate(before: ServiceState, records: RecordsWatch, tally: Tally) -> tuple[float, str | None]:
    """The share of rehearsals that were lost, and why the candidate took no part, if it should have."""
    added = {name: records.last.since(f"shadow/{name}", records.before) for name in _SHADOW}
    sent = added["sent"]
    loss = (added["dropped"] + added["failed"] + added["late"]) / sent if sent else 0.0
    answered = tally.variants["candidate"].n if "candidate" in tally.variants else 0
    if before.setup["candidate"] is None or sent or answered:
        return loss, None
    return loss, f"the candidate took no part: the phase is {before.phase}; test it in shadow or canary"


_SHADOW = ("sent", "dropped", "failed", "late")


def _method(test: LoadTest, before: ServiceState) -> JsonObject:
    options = dataclasses.asdict(test)
    del options["token"]
    return options | {
        "mean_rate": test.rate * mean_share(test.shape),
        "plan": before.plan,
        "locust": importlib.metadata.version("locust"),
    }


def _generator(tally: Tally) -> JsonObject:
    def ms(seconds: float) -> float | None:
        return None if math.isnan(seconds) else round(seconds * 1000, 3)

    most_frequent = sorted(tally.errors.items(), key=lambda item: -item[1])[:ERRORS_LISTED]
    return {
        "processes": len(tally.generators),
        "cpu_share": [round(each.cpu_share, 3) for each in tally.generators],
        "waited_share": [round(each.waited_share, 3) for each in tally.generators],
        "lag_p50_ms": ms(tally.lag.quantile(0.5)),
        "lag_p99_ms": ms(tally.lag.quantile(0.99)),
        "lag_max_ms": ms(tally.lag.highest),
        "loop_lag_p99_ms": ms(tally.loop.quantile(0.99)),
        "waited_for_a_connection": tally.starved,
        "late_answers": tally.late,
        "errors": dict(most_frequent),
        "feedback": {
            "posts": tally.feedback.n,
            "errors": tally.feedback_errors,
            "p99_ms": ms(tally.feedback.quantile(0.99)),
        },
        "closed_loop_p99_ms": ms(tally.from_send.quantile(0.99)),
    }


def _service(use: gates.ServiceUse) -> JsonObject:
    return {
        "cores": dict(use.processes),
        "memory_mib": dict(use.memory_mib),
        "machine_busy": round(use.busy, 3),
        "machine_cores": use.cores,
        "others": round(use.others, 3),
        "stolen": round(use.stolen, 3),
        "same_machine": use.here,
    }


def _digest(path: Path | None) -> str | None:
    return None if path is None or not path.is_file() else "sha256:" + hashlib.sha256(path.read_bytes()).hexdigest()
