"""`understudy report`: one HTML file for the people who decide. Pure: documents in, text out.

What it says comes from the same documents that the service answers (`GET /rollout`, `/rollout/policy`, `/rollout/evidence`,
`/rollout/events`), so it can be made of a running service or, offline, of its store. `findings` says what they mean,
`pictures` draws the bands, `report.html.j2` is the page: styles and pictures are in it, nothing is fetched when it is read.
"""

from dataclasses import dataclass

import jinja2

from understudy import __version__
from understudy.domain import JsonObject
from understudy.inference.cards import HeldOut
from understudy.offline.report import findings, offline, pictures, words


@dataclass(frozen=True, slots=True)
class Documents:
    """What a report is made of.

    Attributes:
        state: as `GET /rollout` answers; policy, evidence, drift likewise; events: the whole audit log, oldest first.
        drift: None where none is measured. source: where this came from, for the last page.
        evaluation: what `understudy evaluate --json` wrote of these models; None: the months of their cards.
    """

    state: JsonObject
    policy: JsonObject
    evidence: JsonObject
    events: list[JsonObject]
    source: str
    drift: JsonObject | None = None
    evaluation: JsonObject | None = None


def render(documents: Documents, *, now: float, traffic_rps: float | None = None) -> str:
    """The page.

    Args:
        now: Unix seconds, for the date on it.
        traffic_rps: predictions a second over the whole month, for the monthly cost; the throughput goal, if left out.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("understudy.offline.report", "."),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
    )
    environment.filters |= {
        "count": words.count,
        "share": words.share,
        "day": words.day,
        "moment": words.moment,
        "sentence": words.sentence,
        "duration": words.duration,
        "number": words.number,
        "figure": words.figure,
        "interval": words.interval,
    }
    state, policy = documents.state, documents.policy
    load = findings.load_test(documents.events, state)
    months, evaluation = offline.months(policy), documents.evaluation
    evaluated = offline.view(evaluation) if evaluation else None
    verdict = findings.verdict(state, documents.events)
    decided = (verdict["decision"] or {}).get("details", {}).get("metrics")
    return environment.get_template("report.html.j2").render(
        now=now,
        version=__version__,
        source=documents.source,
        state=state,
        policy=policy,
        verdict=verdict,
        decided=bool(decided),
        goals=findings.goals(decided or state["metrics"], policy, load),
        months=months,
        blank=dict.fromkeys(HeldOut.model_fields),
        evaluated=evaluated,
        months_picture=pictures.months(evaluated["drawn"], "loss", evaluated["loss"])
        if evaluated
        else pictures.months(months),
        story=findings.story(documents.events),
        steps=findings.steps(state, policy),
        titles=words.METRICS,
        bands=[
            (metric, pictures.band(metric, documents.evidence.get("bands", []), policy["goals"]))
            for metric in state["metrics"]
        ],
        load=load,
        cost=findings.cost(policy, load, traffic_rps),
        risks=findings.risks(state, policy, documents.drift, documents.events, evaluation),
        deciders=findings.deciders(documents.events),
    )
