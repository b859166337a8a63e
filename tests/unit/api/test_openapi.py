"""The OpenAPI document holds together, and what it says of bodies and statuses is what the service does."""

import copy
import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from models import build
from models.data import replay_rows
from understudy import errors
from understudy.api import openapi
from understudy.api.feedback import FeedbackDecoder
from understudy.domain import Phase, Variant
from understudy.errors import InvalidInput, UnderstudyError
from understudy.inference.cards import Card, InputSpec, OutputSpec, read_card
from understudy.inference.decoding import Decoder, Field
from understudy.loading import fields_of
from understudy.rollout.policy import Policy, parse
from understudy.testing import card

BENTO = {
    "openapi": "3.0.2",
    "info": {"title": "Understudy", "version": "None", "contact": {"name": "BentoML"}},
    "paths": {
        "/livez": {"get": {"responses": {"200": {"description": "theirs"}}}},
        "/metrics": {"get": {"responses": {"200": {"description": "metrics"}}}},
    },
    "components": {"schemas": {"InternalServerError": {"type": "object"}}},
    "tags": [{"name": "Infrastructure"}],
}
"""BentoML's own document, in little."""
METHODS = {"get", "put", "post", "delete", "options", "head", "patch", "trace"}
PLAIN = parse("model: m\ntask: binary-classification\nprimary: a\ncandidate: b\nroute_by: user\nunit: user\n")


def document(own: Card | None = None, policy: Policy = PLAIN) -> dict[str, Any]:
    own = own or card()
    return openapi.document(BENTO, policy, fields_of(own, None), {Variant.PRIMARY: own})


CARDS = {
    "binary": card(),
    "words": card(task="multiclass-classification", classes=["a", "b"], positive=None),
    "regression": card(task="regression", classes=[], positive=None),
    "nameless": card(classes=[], positive=None),
    "other": card(task="other", classes=[], positive=None, outputs=[OutputSpec(name="o", dtype="bool", shape=[None])]),
}


def walk(node: Any, path: str = "#") -> Iterator[tuple[str, Any]]:
    yield path, node
    for key, value in node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ():
        yield from walk(value, f"{path}/{key}")


def resolved(node: Any, whole: dict[str, Any]) -> Any:
    """A schema with every reference filled in, and OpenAPI 3.0's `nullable` as JSON Schema says it."""
    if isinstance(node, list):
        return [resolved(item, whole) for item in node]
    if not isinstance(node, dict):
        return node
    if "$ref" in node:
        target: Any = whole
        for part in node["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return resolved(target, whole)
    made = {key: resolved(value, whole) for key, value in node.items() if key != "nullable"}
    return {"anyOf": [made, {"type": "null"}]} if node.get("nullable") is True else made


def fits(value: Any, schema: str, whole: dict[str, Any]) -> bool:
    checker = jsonschema.Draft202012Validator(resolved({"$ref": f"#/components/schemas/{schema}"}, whole))
    return bool(checker.is_valid(value))


def operations(whole: dict[str, Any]) -> list[tuple[str, str, dict[str, Any]]]:
    return [(path, method, item[method]) for path, item in whole["paths"].items() for method in item.keys() & METHODS]


@pytest.mark.parametrize("kind", CARDS)
def test_every_reference_resolves_and_every_schema_is_one(kind: str) -> None:
    """For every kind of model; the schemas are valid JSON Schema once `nullable` is translated."""
    whole = document(CARDS[kind])
    references = [node["$ref"] for _, node in walk(whole) if isinstance(node, dict) and "$ref" in node]

    assert len(references) > 20
    for reference in references:
        resolved({"$ref": reference}, whole)
    for name in whole["components"]["schemas"]:
        jsonschema.Draft202012Validator.check_schema(resolved({"$ref": f"#/components/schemas/{name}"}, whole))


def test_no_part_of_ours_is_described_and_never_used() -> None:
    """Each schema is referred to from somewhere."""
    whole = document()
    used = {node["$ref"].rpartition("/")[2] for _, node in walk(whole) if isinstance(node, dict) and "$ref" in node}

    assert whole["components"]["schemas"].keys() - BENTO["components"]["schemas"].keys() <= used  # type: ignore[attr-defined]


def test_the_document_has_the_form_of_openapi_3_0() -> None:
    whole = document()

    assert whole["openapi"].startswith("3.0.")
    assert whole["info"].keys() >= {"title", "version"}
    for path, item in whole["paths"].items():
        assert path.startswith("/")
        assert item.keys() <= METHODS


def test_every_response_has_a_status_a_description_and_a_schema() -> None:
    for path, method, operation in operations(document()):
        assert operation["responses"], (path, method)
        for status, response in operation["responses"].items():
            assert 100 <= int(status) < 600
            assert response["description"]
            assert all("schema" in content for content in response.get("content", {}).values())


def test_every_parameter_has_a_place_a_type_and_a_name_of_its_own() -> None:
    """Those in the path are the path's."""
    for path, _, operation in operations(document()):
        parameters = operation.get("parameters", [])
        names = [(p["name"], p["in"]) for p in parameters]
        assert len(set(names)) == len(names)
        assert all(p["in"] in {"query", "header", "path"} and "type" in p["schema"] for p in parameters)
        assert {name for name, place in names if place == "path"} == set(re.findall(r"{(\w+)}", path))


def test_bodies_are_posted_as_json_and_tensors_also_raw() -> None:
    for path, method, operation in operations(document()):
        if "requestBody" in operation:
            assert method == "post"
            raw = {"application/octet-stream"} if path.startswith("/v2") else set()
            assert operation["requestBody"]["content"].keys() == {"application/json"} | raw


def test_every_security_scheme_that_is_required_is_defined() -> None:
    whole = document()
    for _, _, operation in operations(whole):
        schemes = {name for choice in operation.get("security", []) for name in choice}
        assert schemes <= whole["components"]["securitySchemes"].keys()


def test_types_are_those_of_openapi_3_0() -> None:
    """One word, never a list, and no `null` among them."""
    for _, node in walk(document()["components"]["schemas"]):
        if isinstance(node, dict) and isinstance(node.get("type"), str | list):
            assert node["type"] in {"object", "array", "string", "number", "integer", "boolean"}


def test_operations_have_names_of_their_own() -> None:
    """Client generators make functions of them."""
    names = [operation["operationId"] for path, _, operation in operations(document()) if path != "/metrics"]

    assert len(set(names)) == len(names) > 5
    assert all(name.isidentifier() for name in names)


def test_every_documented_error_is_one_that_the_service_raises() -> None:
    """A status that `errors` has, as problem details, with the words of that error; under /v2 as the protocol has it."""
    raised = {
        int(kind.status)
        for kind in vars(errors).values()
        if isinstance(kind, type) and issubclass(kind, UnderstudyError)
    }
    for path, _, operation in operations(document()):
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert int(status) in raised, path
                told = "application/json" if path.startswith("/v2") else "application/problem+json"
                assert response["content"].keys() == {told}
            else:
                conditional = any(each.get("name") == "If-None-Match" for each in operation.get("parameters", ()))
                assert status == "200" or (status == "304" and conditional)


def test_problem_details_fit_their_schema() -> None:
    """With row and field, and without them."""
    whole = document()

    assert fits(errors.NotReady("a worker is still loading").problem(), "Problem", whole)
    listed = [{"row": 0, "field": "x", "problem": "is missing"}, {"row": None, "field": None, "problem": "odd"}]
    assert fits(InvalidInput(listed).problem(), "Problem", whole)
    assert not fits({"detail": "x"}, "Problem", whole)


def test_bentoml_s_own_paths_stay_and_its_health_checks_are_ours() -> None:
    """The base document is not changed in passing."""
    before = copy.deepcopy(BENTO)
    whole = document()

    assert before == BENTO
    assert whole["paths"]["/metrics"] == BENTO["paths"]["/metrics"]  # type: ignore[index]
    assert whole["paths"]["/livez"]["get"]["operationId"] == "livez"
    assert whole["tags"] == BENTO["tags"]
    assert whole["info"]["contact"] == {"name": "BentoML"}
    assert "InternalServerError" in whole["components"]["schemas"]
    json.dumps(whole)


def decodes(body: Any, own: Card, policy: Policy = PLAIN) -> bool:
    context = [name for name in (policy.route_by, policy.unit) if name]
    decoder = Decoder(fields_of(own, None), context=context, rows_max=100, key_max_chars=256)
    try:
        decoder.decode(json.dumps(body).encode())
    except InvalidInput:
        return False
    return True


ROW = {"x": 1.5, "s": "a"}


@pytest.mark.parametrize(
    ("body", "good"),
    [
        ({"rows": [ROW]}, True),
        ({"rows": [ROW, ROW | {"user": "ada"}], "key": "k"}, True),
        ({"rows": [ROW | {"user": None, "x": None}]}, True),
        ({"rows": [ROW | {"x": 1}]}, True),
        ({"rows": [ROW], "key": None}, True),
        ({"rows": [ROW | {"user": 7}]}, True),
        ({"rows": [ROW | {"user": True}]}, False),
        ({"rows": [ROW | {"user": ["ada"]}]}, False),
        ({"rows": []}, False),
        ({}, False),
        ({"rows": [ROW], "more": 1}, False),
        ({"rows": [ROW | {"y": 1}]}, False),
        ({"rows": [{"x": 1.5}]}, False),
        ({"rows": [ROW | {"x": "1.5"}]}, False),
        ({"rows": [ROW | {"s": None}]}, False),
        ({"rows": [ROW], "key": "k" * 257}, False),
        ({"rows": [ROW], "key": 5}, False),
        ({"rows": [ROW | {"user": 1.5}]}, False),
    ],
)
def test_the_document_and_the_decoder_agree_on_predict_bodies(body: Any, good: bool) -> None:
    """What the schema takes the service takes, and what it refuses the service refuses."""
    assert decodes(body, card()) is good
    assert fits(body, "PredictRequest", document()) is good


def test_arrays_keep_their_shape_in_the_document() -> None:
    """Fixed sizes are fixed, free ones are free."""
    own = card(inputs=[InputSpec(name="pixels", dtype="uint8", shape=[None, 2, None, 3])])
    whole = document(own)

    for value, good in (
        ([[[1, 2, 3]], [[4, 5, 6]]], True),
        ([[[1, 2, 3], [1, 2, 3]], [[4, 5, 6], [1, 2, 3]]], True),
        ([[[1, 2, 3]]], False),
        ([[[1, 2]], [[4, 5]]], False),
        (1, False),
    ):
        assert fits({"rows": [{"pixels": value}]}, "PredictRequest", whole) is good
        assert decodes({"rows": [{"pixels": value}]}, own) is good


def test_what_only_the_candidate_reads_may_be_left_out() -> None:
    """Or be null: the candidate is fed a missing value then."""
    more = card(inputs=[*card().inputs, InputSpec(name="extra", dtype="float32", shape=[None, 1])])
    whole = openapi.document(BENTO, PLAIN, fields_of(card(), more), {Variant.PRIMARY: card(), Variant.CANDIDATE: more})

    for row, good in (
        (ROW, True),
        (ROW | {"extra": 1.0}, True),
        (ROW | {"extra": None}, True),
        (ROW | {"extra": "x"}, False),
    ):
        assert fits({"rows": [row]}, "PredictRequest", whole) is good


@pytest.mark.parametrize(
    ("kind", "label", "good"),
    [("binary", 1, True), ("binary", 2, False), ("words", "a", True), ("words", "c", False), ("regression", 1.5, True)],
)
def test_the_document_and_the_decoder_agree_on_labels(kind: str, label: Any, good: bool) -> None:
    """The model's classes are in the document."""
    body = {"labels": [{"prediction_id": "p", "label": label, "at": "2013-07-01T12:00:00Z"}]}

    assert fits(body, "FeedbackRequest", document(CARDS[kind])) is good
    try:
        FeedbackDecoder(CARDS[kind], 10).decode(json.dumps(body).encode(), 2e9)
    except InvalidInput:
        assert not good
    else:
        assert good


def test_answers_name_what_the_kind_of_model_gives() -> None:
    """A label and probabilities, a value, or outputs by name."""
    item = {
        kind: document(own)["components"]["schemas"]["PredictResponse"]["properties"]["predictions"]["items"][
            "properties"
        ].keys()
        for kind, own in CARDS.items()
    }

    assert item == {
        "binary": {"prediction_id", "label", "probabilities"},
        "words": {"prediction_id", "label", "probabilities"},
        "nameless": {"prediction_id", "label", "probabilities"},
        "regression": {"prediction_id", "value"},
        "other": {"prediction_id", "outputs"},
    }
    assert set(document()["components"]["schemas"]["Phase"]["enum"]) == {p.value for p in Phase}


def test_real_flights_fit_the_example_s_document() -> None:
    """A hundred flights of July, with the example's own card and rollout file."""
    build.build()
    own = read_card(build.HERE / "flight_poc")
    policy = parse((build.HERE.parent / "rollout.yaml").read_text(encoding="utf-8"))
    whole = document(own, policy)
    checker = jsonschema.Draft202012Validator(resolved({"$ref": "#/components/schemas/PredictRequest"}, whole))
    rows = [flight.row for flight in replay_rows(7, 100)]

    assert whole["info"]["title"] == "Understudy: flight-delay"
    checker.validate({"rows": rows})
    assert decodes({"rows": rows}, own, policy)
    assert Field("tailnum", "string").name in whole["components"]["schemas"]["Row"]["properties"]
