"""The rollout file: what it takes, what it refuses and in which words, and what its key and its first plan depend on."""

from pathlib import Path
from typing import Any

import jsonschema
import pydantic
import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from understudy.domain import SHARE_ONE, Phase
from understudy.errors import ConfigurationError
from understudy.rollout.goals import Cost, Errors, Goals, Labels, Latency, Load, Quality, Ratio
from understudy.rollout.policy import CanaryStep, Policy, ShadowStep, json_schema, parse

EXAMPLE = Path(__file__).parents[3] / "rollout.yaml"
SCHEMA = jsonschema.Draft202012Validator(json_schema())
BASE = "model: m\ntask: regression\nprimary: a\ncandidate: b\n"


def example() -> Policy:
    return parse(EXAMPLE.read_text(encoding="utf-8"))


def changed(change: dict[str, Any]) -> Policy:
    """The example with some keys replaced; a dotted key goes into a mapping."""
    data = yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    for dotted, value in change.items():
        *folders, name = dotted.split(".")
        place = data
        for folder in folders:
            place = place[folder]
        place[name] = value
    return Policy.model_validate(data)


def on_base(text: str) -> str:
    """`BASE` and `text`, which may say some of its keys otherwise."""
    said = {line.partition(":")[0] for line in text.splitlines()}
    return "".join(f"{line}\n" for line in BASE.splitlines() if line.partition(":")[0] not in said) + text


def refused(text: str) -> list[str]:
    with pytest.raises(ConfigurationError) as caught:
        parse(text, "mine.yaml")
    assert caught.value.detail.startswith("mine.yaml ")
    return caught.value.detail.splitlines()


def test_the_example_is_read_in_the_units_of_the_code() -> None:
    """Percentages are hundredths of a percent, durations are seconds."""
    policy = example()
    shadow, *canaries, last = policy.steps

    assert (policy.model, policy.task, policy.route_by, policy.unit) == (
        "flight-delay",
        "binary-classification",
        "tailnum",
        "tailnum",
    )
    assert isinstance(shadow, ShadowStep)
    assert shadow.shadow == SHARE_ONE
    assert shadow.until is not None
    assert shadow.until.labels == 500
    assert [step.canary for step in canaries if isinstance(step, CanaryStep)] == [500, 2_500, 5_000]
    assert [step.require for step in canaries if isinstance(step, CanaryStep)] == [[], [], ["loadtest"]]
    assert last == "promote"
    assert policy.labels.wait == 72 * 3600
    assert policy.goals.latency.deadline_ms == 250


def test_three_keys_are_enough() -> None:
    """Model, task and primary; everything else has a default."""
    policy = parse("model: m\ntask: other\nprimary: a.onnx\n")

    assert (policy.candidate, policy.device, policy.workers, policy.steps) == (None, "auto", 1, [])
    assert policy.goals.quality is None
    assert policy.goals.error_budget == 0.05


def test_the_harm_line_is_the_margin_unless_it_is_a_number() -> None:
    """`harm: margin` is the default; 0 is a line too."""
    lines = []
    for harm in ("", ", harm: margin", ", harm: 0.02", ", harm: 0"):
        quality = parse(f"{BASE}goals: {{quality: {{margin: 0.005{harm}}}}}").goals.quality
        assert quality is not None
        lines.append(quality.harm_line)
    assert lines == [0.005, 0.005, 0.02, 0.0]


@pytest.mark.parametrize(
    ("text", "key", "word"),
    [
        ("nope: 1", "nope", "not permitted"),
        ("workers: 0", "workers", "greater than or equal to 1"),
        ("workers: 65", "workers", "less than or equal to 64"),
        ("device: gpu", "device", "'cuda'"),
        ("goals: {quality: {margin: 2}}", "goals.quality", "must be less than 1"),
        ("goals: {quality: {margin: 0}}", "goals.quality.margin", "greater than 0"),
        ("goals: {quality: {}}", "goals.quality.margin", "required"),
        ("goals: {quality: {margin: 0.1, loss: auc}}", "goals.quality.loss", "'brier'"),
        ("goals: {quality: {margin: 0.1, typo: 1}}", "goals.quality.typo", "not permitted"),
        ("goals: {quality: {margin: 0.1, harm: never}}", "goals.quality.harm", "`margin`, or a number"),
        ("goals: {quality: {margin: 0.1, harm: 1}}", "goals.quality", "must be less than 1"),
        ("goals: {quality: {margin: 0.1, harm: .nan}}", "goals.quality.harm", "a number"),
        ("goals: {quality: {margin: 0.1, clip: .inf}}", "goals.quality.clip", "finite"),
        ("goals: {error_budget: 0.5}", "goals.error_budget", "less than 0.5"),
        ("goals: {errors: {margin: .nan}}", "goals.errors.margin", ""),
        ("goals: {latency: {p99_ms: -1}}", "goals.latency.p99_ms", "greater than 0"),
        ("goals: {latency: {deadline_ms: 10}}", "goals.latency.p99_ms", "required"),
        ("goals: {throughput_rps: 0}", "goals.throughput_rps", "greater than 0"),
        ("goals: {cost: {machine_per_hour: 1}}", "goals.cost.max_per_million", "required"),
        ("labels: {wait: 3 weeks}", "labels.wait", "500ms, 30s, 15m, 72h, 7d"),
        ("labels: {wait: 0s}", "labels.wait", "greater than 0"),
        ("labels: {wait: .inf}", "labels.wait", "finite"),
        ("labels: {wait: true}", "labels.wait", "a duration"),
        ("labels: {count: sometimes}", "labels.count", "'settled'"),
        ("steps: [{shadow: 101}]", "steps.0.shadow", "0 to 100 percent"),
        ("steps: [{shadow: -1}]", "steps.0.shadow", "0 to 100 percent"),
        ("steps: [{shadow: 100}, {canary: 0.005}]", "steps.1.canary", "two decimals"),
        ("steps: [{canary: 5%}]", "steps.0.canary", "a number of percent"),
        ("steps: [{canary: true}]", "steps.0.canary", "a number of percent"),
        ("steps: [{canary: .nan}]", "steps.0.canary", "0 to 100 percent"),
        ("steps: [{canary: .inf}]", "steps.0.canary", "0 to 100 percent"),
        ("steps: [{canary: 5, require: [luck]}]", "steps.0.require.0", "'loadtest'"),
        ("steps: [{shadow: 5, until: {labels: 0}}]", "steps.0.until.labels", "greater than or equal to 1"),
        ("steps: [{shadow: 5, until: {votes: 1}}]", "steps.0.until.votes", "not permitted"),
        ("steps: [{canary: 5, shadow: 5}]", "steps.0.canary", "not permitted"),
        ("steps: [{canary: 5, typo: 5}]", "steps.0.typo", "not permitted"),
        ("steps: [go]", "steps.0", "a step is `shadow: N`, `canary: N` or `promote`"),
        ("steps: [{}]", "steps.0", "a step is `shadow: N`, `canary: N` or `promote`"),
        ("steps: [{canry: 5}]", "steps.0", "a step is `shadow: N`, `canary: N` or `promote`"),
        ("steps: [5]", "steps.0", "a step is `shadow: N`, `canary: N` or `promote`"),
        ("steps: promote", "steps", "list"),
        ("steps: [promote, {canary: 5}]", "file", "`promote` must be the last step"),
        ("steps: [{canary: 50}, {canary: 5}]", "file", "weights must not decrease"),
        ("candidate: null\nsteps: [{canary: 5}]", "file", "need a `candidate`"),
        ("model: has spaces", "model", "pattern"),
        ("model: " + "x" * 65, "model", "pattern"),
        ("task: clustering", "task", "'regression'"),
        ("primary: s3://b/card.json", "primary", "`#sha256=` and the output of `sha256sum`"),
        (f"candidate: s3://b/card.json#sha256={'0' * 63}", "candidate", "`#sha256=`"),
        (f"primary: ftp://b/card.json#sha256={'0' * 64}", "primary", "not from ftp"),
        (f"primary: s3://b/folder/#sha256={'0' * 64}", "primary", "names a card.json or an .onnx file"),
        (f"primary: https://user:password@h/m.onnx#sha256={'0' * 64}", "primary", "without a query, user or password"),
        (f"primary: https://h/m.onnx?token=x#sha256={'0' * 64}", "primary", "without a query"),
    ],
)
def test_every_error_names_its_key_and_what_it_takes(text: str, key: str, word: str) -> None:
    """One line, `key: what it takes`, and no other: of a choice only the branch that was meant is spoken of."""
    lines = refused(on_base(text))

    assert len(lines) == 2, lines
    assert lines[1].startswith(f"  {key}: ")
    assert word in lines[1]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "must be a mapping"),
        ("- 1", "must be a mapping"),
        ("model", "must be a mapping"),
        ("a: [", "is not YAML"),
        ("a: !!python/object:os.system x", "is not YAML"),
        ("a: 2013-02-31", "is not YAML"),
        ("[" * 5000, "is not YAML"),
    ],
)
def test_what_is_no_rollout_file_at_all_is_said_in_words(text: str, word: str) -> None:
    """Empty, a list, a word, broken YAML, YAML that wants to run code, a day that no month has, and a thousand brackets."""
    assert word in refused(text)[0]


@pytest.mark.parametrize(
    ("text", "key", "first", "again"),
    [
        ("model: n", "model", 1, 5),
        ("goals:\n  quality:\n    margin: 0.1\n    loss: brier\n    margin: 0.2", "margin", 7, 9),
        ("steps:\n  - shadow: 5\n    shadow: 6", "shadow", 6, 7),
        ("workers: 1\n'workers': 2", "workers", 5, 6),
        ("labels: {count: settled, count: on_arrival}", "count", 5, 5),
    ],
)
def test_a_key_that_is_said_twice_is_refused(text: str, key: str, first: int, again: int) -> None:
    """At every level, with both lines: YAML parsers would quietly take the last, and half of a goal with it."""
    with pytest.raises(ConfigurationError) as caught:
        parse(BASE + text, "mine.yaml")
    assert caught.value.detail == f"mine.yaml: the key `{key}` is in line {first}, and again in line {again}"


def test_the_same_key_in_two_mappings_is_no_repetition() -> None:
    """Steps say `canary` each, and an anchor's key may be overruled where it is merged."""
    text = "steps:\n- &first {canary: 5, until: {labels: 7}}\n- <<: *first\n  canary: 25\n"
    steps = parse(BASE + text).steps

    assert [(s.canary, s.until.labels) for s in steps if isinstance(s, CanaryStep) and s.until] == [
        (500, 7),
        (2_500, 7),
    ]


@pytest.mark.parametrize("missing", ["model", "task", "primary"])
def test_a_key_that_is_needed_is_asked_for(missing: str) -> None:
    """Each of the three by its name."""
    text = "".join(line + "\n" for line in BASE.splitlines() if not line.startswith(missing))
    assert any(f"  {missing}: Field required" in line for line in refused(text))


@given(st.integers(0, SHARE_ONE))
def test_shares_are_exact_to_a_hundredth_of_a_percent(hundredths: int) -> None:
    """Whatever float the decimal number becomes, and the published schema takes it as well."""
    percent = hundredths / 100
    data = {"model": "m", "task": "other", "primary": "a", "candidate": "b", "steps": [{"canary": percent}]}
    step = Policy.model_validate(data).steps[0]

    assert isinstance(step, CanaryStep)
    assert step.canary == hundredths
    SCHEMA.validate(data)


@given(st.integers(0, SHARE_ONE - 1), st.integers(1, 9))
def test_a_third_decimal_is_refused(hundredths: int, thousandth: int) -> None:
    """It would be rounded silently otherwise."""
    assert any(
        "two decimals" in line for line in refused(f"{BASE}steps: [{{canary: {hundredths / 100:.2f}{thousandth}}}]")
    )


@given(st.integers(1, 100_000), st.sampled_from([("ms", 0.001), ("s", 1), ("m", 60), ("h", 3600), ("d", 86400)]))
def test_durations_are_a_number_and_a_unit(number: int, unit: tuple[str, float]) -> None:
    """A number alone is seconds; a blank before the unit is fine."""
    name, seconds = unit

    assert parse(f"{BASE}labels: {{wait: {number}{name}}}").labels.wait == pytest.approx(number * seconds)
    assert parse(f"{BASE}labels: {{wait: '{number}.5 {name} '}}").labels.wait == pytest.approx((number + 0.5) * seconds)
    assert parse(f"{BASE}labels: {{wait: {number}}}").labels.wait == number


JUDGED = [
    {"model": "other-name"},
    {"task": "multiclass-classification"},
    {"unit": None},
    {"goals.error_budget": 0.01},
    {"goals.quality.margin": 0.006},
    {"goals.quality.harm": 0.02},
    {"goals.quality.loss": "log_loss"},
    {"goals.errors.margin": 0.003},
    {"goals.latency.p99_ms": 40},
    {"labels.wait": "71h"},
    {"labels.count": "on_arrival"},
]
NOT_JUDGED = [
    {"steps": [{"shadow": 50}, {"canary": 1}, "promote"]},
    {"workers": 2},
    {"device": "cpu"},
    {"route_by": "carrier"},
    {"primary": "elsewhere/model"},
    {"candidate": "elsewhere/other"},
    {"primary": f"s3://bucket/model.onnx#sha256={'0' * 64}"},
    {"labels.wait": "3d"},
    {"goals.throughput_rps": 501},
    {"goals.cost.max_per_million": 2},
    {"goals.load": {"error_rate": 0.01}},
    {"goals.latency.p50_ms": 5},
]


def test_what_the_launch_is_judged_by_starts_new_evidence() -> None:
    """Every goal, the order of labels, the unit, and each model's digest: all different from the first, and each other."""
    keys = [example().key("p", "c"), example().key("p2", "c"), example().key("p", "c2"), example().key("p", None)]
    keys += [example().key("c", "p"), *(changed(change).key("p", "c") for change in JUDGED)]

    assert len(set(keys)) == len(keys)


@pytest.mark.parametrize("change", NOT_JUDGED, ids=str)
def test_how_the_rollout_is_run_keeps_its_evidence(change: dict[str, Any]) -> None:
    """Steps, workers, the device and where the files lie change no answer to "which model is better"."""
    assert changed(change).key("p", "c") == example().key("p", "c")


class WiderQuality(Quality):
    added: float = 1.0


class WiderGoals(Goals):
    quality: WiderQuality | None = None
    more: WiderQuality | None = None
    flags: tuple[str, ...] = ()


class WiderLabels(Labels):
    later: bool = False


class Wider(Policy):
    """The rollout file of a later version, which has more keys at every level."""

    goals: WiderGoals = WiderGoals()
    labels: WiderLabels = WiderLabels()


@pytest.mark.parametrize(
    "text", [EXAMPLE.read_text(encoding="utf-8"), BASE, f"{BASE}goals: {{quality: {{margin: 0.1}}}}"]
)
def test_a_field_that_a_later_version_adds_changes_no_key(text: str) -> None:
    """The same file text, at every level; and the field starts new evidence when the file says something else."""
    data = yaml.safe_load(text)

    assert Wider.model_validate(data).key("p", "c") == Policy.model_validate(data).key("p", "c")
    other = Wider.model_validate(data | {"labels": {"later": True}})
    assert other.key("p", "c") != Wider.model_validate(data | {"labels": {}}).key("p", "c")


def test_a_default_that_is_said_is_the_same_as_one_that_is_not() -> None:
    """Writing down what holds anyway starts nothing new."""
    said = (
        f"{BASE}labels: {{wait: 72h, count: settled}}\ngoals: {{latency: {{p99_ms: 50, deadline_ms: 250}}}}\nunit: null"
    )
    assert parse(said).key("p", "c") == parse(BASE).key("p", "c")


DEFAULTS = {
    Quality: {"loss": "brier", "harm": "margin", "evidence": "paired", "poc_target": None, "clip": None},
    Errors: {"ratio": None},
    Latency: {"deadline_ms": 250, "ratio": None, "p50_ms": None, "p95_ms": None},
    Load: {"error_rate": 0.001, "fallback_rate": 0.01, "shadow_loss": 0.01},
    Ratio: {"p50": None, "p95": None, "p99": None},
    Cost: {},
    Goals: {
        "error_budget": 0.05,
        "quality": None,
        "errors": None,
        "latency": Latency(p99_ms=50),
        "throughput_rps": None,
        "load": Load(),
        "cost": None,
    },
    Labels: {"wait": 72 * 3600.0, "count": "settled", "audit": None},
}


@pytest.mark.parametrize("part", DEFAULTS, ids=lambda part: part.__name__)
def test_the_defaults_that_evidence_was_judged_by_stay_as_they_are(part: type[pydantic.BaseModel]) -> None:
    """A key leaves them out, so a changed one would judge old evidence by new rules."""
    now = {name: field.default for name, field in part.model_fields.items() if not field.is_required()}
    assert DEFAULTS[part].items() <= now.items()


def test_the_key_of_a_file_is_the_one_it_was() -> None:
    """Written down, so that no version forgets evidence by accident."""
    assert (
        parse(f"{BASE}goals: {{quality: {{margin: 0.1}}, errors: {{margin: 0.01}}}}\nunit: u").key("p", "c")
        == "001239609179edd6"
    )


def test_what_decisions_follow_goes_through_the_store_unchanged() -> None:
    """Percentages and all: as the file says them, and back."""
    policy = example()

    assert policy.followed()["steps"][1:] == [
        {"canary": 5.0},
        {"canary": 25.0},
        {"canary": 50.0, "require": ["loadtest"]},
        "promote",
    ]
    assert changed({"steps": ["promote"]}).following(policy.followed()) == policy
    assert parse(BASE).following(parse(BASE).followed()) == parse(BASE)
    with pytest.raises(ConfigurationError, match=r"another version wrote.*steps\.0"):
        policy.following({"steps": [{"sprint": 5}]})


@pytest.mark.parametrize(
    ("text", "phase", "weight", "shadow"),
    [
        ("steps: [{shadow: 25}, {canary: 5}]", Phase.SHADOW, 0, 2_500),
        ("steps: [{canary: 0.5}, promote]", Phase.CANARY, 50, SHARE_ONE),
        ("steps: []", Phase.SHADOW, 0, SHARE_ONE),
        ("candidate: null", Phase.SERVING, 0, 0),
    ],
)
def test_the_first_plan_is_the_first_step(text: str, phase: Phase, weight: int, shadow: int) -> None:
    """A candidate with no steps only rehearses; with no candidate the primary serves."""
    plan = parse(on_base(text)).first_plan("00000000000000ff")

    assert (plan.phase, plan.weight, plan.shadow, plan.salt, plan.step) == (phase, weight, shadow, 255, 0)


def test_another_rollout_picks_other_callers() -> None:
    """The salt comes from the rollout's key."""
    policy = example()
    first, second = policy.key("p", "c"), policy.key("p", "c2")

    assert policy.first_plan(first).salt == policy.first_plan(first).salt != policy.first_plan(second).salt


def test_the_published_schema_takes_the_example_and_refuses_unknown_keys() -> None:
    """At every level, so that an editor shows a typo where it is."""
    schema, data = json_schema(), yaml.safe_load(EXAMPLE.read_text(encoding="utf-8"))
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(data, schema)

    places = [
        data,
        data["goals"],
        data["goals"]["quality"],
        data["labels"],
        data["steps"][0],
        data["steps"][0]["until"],
    ]
    for place in places:
        place["typo"] = 1
        with pytest.raises(jsonschema.ValidationError):
            jsonschema.validate(data, schema)
        del place["typo"]
    jsonschema.validate(data, schema)


@pytest.mark.parametrize("step", [{"canary": 101}, {"shadow": -1}, {"canary": "5%"}, "go", {}])
def test_the_published_schema_refuses_steps_that_the_parser_refuses(step: Any) -> None:
    """So that what an editor accepts, the service accepts."""
    data = {"model": "m", "task": "other", "primary": "a", "candidate": "b", "steps": [step]}

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(data, json_schema())
    with pytest.raises(ConfigurationError):
        parse(yaml.safe_dump(data))
