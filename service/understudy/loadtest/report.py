"""The report of a load test: one self-contained HTML file, JUnit XML, and JSON."""

import datetime
import html
import json
import math
import xml.etree.ElementTree as ET
from collections.abc import Iterable, Sequence
from pathlib import Path

from understudy.domain import JsonObject
from understudy.loadtest.histogram import Histogram
from understudy.loadtest.run import LoadTestOutcome
from understudy.loadtest.svg import chart
from understudy.loadtest.tally import Tally
from understudy.rollout.loadtest import Record

STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --dim: #5b6470; --line: #d8dde3; --paper: #fff; --goal: #b3261e; }
@media (prefers-color-scheme: dark) {
:root { --ink: #e6eaef; --dim: #9aa4b0; --line: #39424d; --paper: #14191f; --goal: #ff8a80; }
}
body { font: 15px/1.5 system-ui, sans-serif; color: var(--ink); background: var(--paper); max-width: 60rem; margin: 2rem auto;
padding: 0 1rem; }
h1 { font-size: 1.4rem; margin-bottom: .2rem; }
h2 { font-size: 1.05rem; margin-top: 2rem; }
.verdict { font-size: 1.2rem; font-weight: 600; padding: .6rem .9rem; border-left: .4rem solid; }
.pass { border-color: #2e7d32; }
.fail { border-color: #b3261e; }
.invalid { border-color: #b07d00; }
table { border-collapse: collapse; width: 100%; }
td, th { text-align: left; padding: .25rem .6rem .25rem 0; border-bottom: 1px solid var(--line); vertical-align: top;
overflow-wrap: anywhere; }
th { font-weight: 600; color: var(--dim); }
figure { margin: 1.2rem 0; }
figcaption { font-weight: 600; }
svg { width: 100%; height: auto; }
svg text { font: 11px system-ui, sans-serif; fill: var(--dim); }
svg .grid { stroke: var(--line); }
svg .goal { stroke: var(--goal); stroke-dasharray: 5 4; }
svg text.goal { fill: var(--goal); stroke: none; }
svg polyline { fill: none; stroke-width: 1.6; }
.none, .dim { color: var(--dim); }
""".replace("\n", " ")
PERCENTILES = (0.0, 0.5, 0.75, 0.9, 0.95, 0.99, 0.995, 0.999, 0.9999)


def write(outcome: LoadTestOutcome, folder: Path) -> dict[str, Path]:
    """Write `record.json`, `junit.xml`, `report.html` and `counts.json` into a folder; returns where they are."""
    folder.mkdir(parents=True, exist_ok=True)
    texts = {
        "record.json": outcome.record.model_dump_json(indent=1) + "\n",
        "junit.xml": junit(outcome.record),
        "report.html": page(outcome),
        "counts.json": json.dumps(outcome.tally.as_json()),
    }
    for name, text in texts.items():
        (folder / name).write_text(text, encoding="utf-8")
    return {name: folder / name for name in texts}


def junit(record: Record) -> str:
    """JUnit XML: each goal is a test case. If the load test is invalid, every goal is an error."""
    failures = sum(not f.met for f in record.findings) if record.verdict == "fail" else 0
    errors = max(1, len(record.findings)) if record.verdict == "invalid" else 0
    suite = ET.Element(
        "testsuite",
        name=f"load test of {record.model}",
        tests=str(len(record.findings)),
        failures=str(failures),
        errors=str(errors),
        time=f"{record.measured.seconds:g}",
        timestamp=_time(record.at).isoformat(),
    )
    for finding in record.findings:
        case = ET.SubElement(suite, "testcase", classname=f"understudy.loadtest.{record.model}", name=finding.goal)
        if record.verdict == "invalid":
            ET.SubElement(case, "error", message="; ".join(record.reasons))
        elif not finding.met:
            ET.SubElement(case, "failure", message=finding.says)
        ET.SubElement(case, "system-out").text = finding.says
    ET.indent(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ET.tostring(suite, encoding="unicode") + "\n"


def page(outcome: LoadTestOutcome) -> str:
    """The HTML report: the verdict, every goal, the charts, and what was tested."""
    record, tally = outcome.record, outcome.tally
    title = f"Load test of {record.model}: {record.verdict}"
    reasons = "".join(f"<li>{html.escape(reason)}</li>" for reason in record.reasons) or "<li>every goal is met</li>"
    goals = _table(
        ("goal", "met", "what was measured"), [(f.goal, "yes" if f.met else "no", f.says) for f in record.findings]
    )
    return (
        f'<!doctype html><html lang="en"><meta charset="utf-8"><meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{STYLE}</style><h1>{html.escape(title)}</h1>"
        f'<p class="dim">{_time(record.at):%Y-%m-%d %H:%M:%S} UTC, {html.escape(str(record.method.get("url", "")))}</p>'
        f'<div class="verdict {record.verdict}">{html.escape(record.summary().partition(";")[0])}</div><ul>{reasons}</ul>'
        f"<h2>Goals</h2>{goals}<h2>Over time</h2>{''.join(pictures(outcome))}"
        f"<h2>Latency</h2>{_latencies(record)}"
        f"<h2>Method</h2>{_facts(record.method)}<h2>The load generator</h2>{_facts(record.generator)}"
        f"<h2>The service during the test</h2>{_facts(record.service)}<h2>What was tested</h2>"
        f"{_facts({**record.setup.model_dump(exclude={'settings'}), 'rollout_file': record.rollout_file})}"
        f"{_facts(record.setup.settings)}<p class='dim'>{tally.due:,} requests were due after the warm-up.</p></html>\n"
    )


def pictures(outcome: LoadTestOutcome) -> list[str]:
    """Charts of latency over time and by percentile, of throughput, and of the service's CPU and memory."""
    record, tally = outcome.record, outcome.tally
    goals = record.goals
    limit = [("p99 goal", goals.p99_ms)] if goals.p99_ms else []
    over_time = []
    for who in sorted(tally.variants):
        for name, share in (("p50", 0.5), ("p99", 0.99)):
            over_time.append((f"{who} {name}", _series(tally, who, share)))
    by_percentile = [
        (who, _percentiles(seen)) for who, seen in (("all", tally.latency), *sorted(tally.variants.items()))
    ]
    by_percentile.append(("from sending", _percentiles(tally.from_send)))
    rates = [
        ("due", [(_moment(tally, n), one.due / tally.interval_s) for n, one in sorted(tally.intervals.items())]),
        ("answered", [(_moment(tally, n), one.ok / tally.interval_s) for n, one in sorted(tally.intervals.items())]),
    ]
    target = [("goal", goals.throughput_rps)] if goals.throughput_rps else []
    names = sorted({name for sample in outcome.samples for name in sample.cores})
    cores = [(name, [(s.at, s.cores.get(name, math.nan)) for s in outcome.samples]) for name in names]
    memory = [(name, [(s.at, s.memory_mib.get(name, math.nan)) for s in outcome.samples]) for name in names]
    seconds = "seconds after the warm-up"
    return [
        chart("Latency over time", over_time, x=seconds, y="ms", goals=limit, log=True),
        chart(
            "Latency by percentile",
            by_percentile,
            x="nines: 1 is p90, 2 is p99, 3 is p99.9",
            y="ms",
            goals=limit,
            log=True,
        ),
        chart("Throughput", rates, x=seconds, y="requests/s", goals=target),
        chart("CPU of the service's processes", cores, x=seconds, y="cores"),
        chart("Memory of the service's processes", memory, x=seconds, y="MiB"),
    ]


def _moment(tally: Tally, number: int) -> float:
    return (number + 0.5) * tally.interval_s


def _series(tally: Tally, who: str, share: float) -> list[tuple[float, float]]:
    empty = Histogram()
    return [
        (_moment(tally, n), one.latency.get(who, empty).quantile(share) * 1000)
        for n, one in sorted(tally.intervals.items())
    ]


def _percentiles(seen: Histogram) -> list[tuple[float, float]]:
    return [(-math.log10(1 - p), seen.quantile(p) * 1000) for p in PERCENTILES if seen.n * (1 - p) >= 1]


def _latencies(record: Record) -> str:
    rows = [("all", record.measured.latency), *sorted(record.measured.variants.items())]
    names = ("requests", "p50_ms", "p95_ms", "p99_ms", "p999_ms", "max_ms")
    return _table(("", *names), [(who, *(_value(getattr(own, n)) for n in names)) for who, own in rows])


def _facts(facts: JsonObject) -> str:
    return _table(("", ""), [(name.replace("_", " "), _value(value)) for name, value in facts.items()])


def _table(head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    top = "".join(f"<th>{html.escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _value(value: object) -> str:
    if value is None:
        return "-"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_value(each)}" for name, each in value.items())
    if isinstance(value, list):
        return ", ".join(map(_value, value))
    return f"{value:,.6g}" if isinstance(value, float) else f"{value:,}" if type(value) is int else str(value)


def _time(at: float) -> datetime.datetime:
    return datetime.datetime.fromtimestamp(at, datetime.UTC)
