"""The calls under /v2, from the router on: who answers, who may ask for it, and the format of errors."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from understudy.api.v2.infer import Infer, protocol_error
from understudy.api.v2.metadata import ProtocolV2
from understudy.domain import Mode, Phase, Plan, Variant
from understudy.http.auth import Tokens, line_for
from understudy.http.router import AppRouter
from understudy.inference.batching import LocalModel
from understudy.inference.decoding import Decoder
from understudy.loading import fields_of, inputs_of
from understudy.rollout.policy import parse
from understudy.serving.slots import ModelSlots
from understudy.settings import Settings
from understudy.testing import FakeEngine, ManualClock, card, pipeline

INFER = "/v2/models/m/infer"
CARDS = {Variant.PRIMARY: card(), Variant.CANDIDATE: card(version="2")}


class Notes:
    """A recorder that only remembers."""

    def __init__(self) -> None:
        self.added: list[Any] = []
        self.refusals: list[tuple[int, list[Any]]] = []
        self.open = lambda exchange: None
        self.add = self.added.append
        self.failed = lambda exchange, status: None

    def refused(self, status: int, problems: Any = ()) -> None:
        self.refusals.append((status, list(problems)))


class Harness:
    """A router with the protocol behind it; both models are fakes whose probability is `x`."""

    def __init__(
        self, *, weight: int = 0, tokens: Path | None = None, cards: Mapping[Variant, Any] = CARDS, **limits: Any
    ) -> None:
        self.notes, self.engines = Notes(), {variant: FakeEngine(one) for variant, one in cards.items()}
        decoder = Decoder(fields_of(*cards.values()), context=["tail"], rows_max=5, key_max_chars=16)
        settings: dict[str, Any] = {"max_rows": 9, "queue_max_rows": 9, "inline_max_s": 1.0} | limits
        primary, candidate = (
            LocalModel(engine, inputs_of(engine.card, decoder.positions), None, **settings)  # type: ignore[arg-type]
            for engine in self.engines.values()
        )
        plan = Plan(Phase.CANARY, weight, 0, 1, revision=4)
        notes: Any = self.notes
        policy = parse("model: m\ntask: binary-classification\nprimary: a\ncandidate: b\nroute_by: tail\n")
        self.slots, clock = ModelSlots(primary, candidate), ManualClock()
        self.pipeline = pipeline(
            notes,
            plan,
            self.slots,
            decoder,
            clock=clock,
            tokens=Tokens(tokens),
            route_by=policy.route_by,
            deadline_s=1.0,
            candidate_timeout_s=0.8,
        )
        self.pipeline.next_id = 7
        parts: Any = SimpleNamespace(
            policy=policy,
            cards=cards,
            decoder=decoder,
            settings=Settings(body_max_bytes=2_000),
            clock=clock,
            body_limits={"max_bytes": 2_000, "timeout_s": 1.0},
            tokens=Tokens(tokens),
            recorder=notes,
            slots=self.slots,
            pipeline=self.pipeline,
            offload=None,
        )
        self.router = AppRouter(SimpleNamespace(routes=[]))
        infer = Infer(parts)
        routes = ProtocolV2(parts, lambda: None, infer).routes()
        self.router.open(routes, {infer.path: infer}, error_formats={"/v2": protocol_error})

    async def call(
        self, path: str, body: bytes | None = None, method: str = "", **headers: str
    ) -> tuple[int, dict[str, str], Any]:
        """Status, headers and JSON of an answer."""
        sent: list[Any] = []
        messages = iter([{"type": "http.request", "body": body or b""}])

        async def receive() -> Any:
            return next(messages)

        async def send(message: Any) -> None:
            sent.append(message)

        names = [(name.replace("_", "-").encode(), value.encode("latin-1")) for name, value in headers.items()]
        method = method or ("GET" if body is None else "POST")
        await self.router(
            {"type": "http", "path": path, "method": method, "headers": names, "client": ("127.0.0.1", 1)},
            receive,
            send,
        )
        head = {name.decode(): value.decode() for name, value in sent[0]["headers"]}
        length = int(head.get("inference-header-content-length", len(sent[1]["body"])))
        return sent[0]["status"], head, json.loads(sent[1]["body"][:length])


def ask(
    house_: Any = None, path: str = INFER, body: bytes | None = None, **more: Any
) -> tuple[int, dict[str, str], Any]:
    async def main() -> tuple[int, dict[str, str], Any]:
        return await Harness(**(house_ or {})).call(path, body, **more)

    return asyncio.run(main())


def about(*x: float | None, **more: Any) -> bytes:
    count = len(x)
    inputs = [
        {"name": "x", "datatype": "FP32", "shape": [count], "data": list(x)},
        {"name": "s", "datatype": "BYTES", "shape": [count], "data": ["s"] * count},
    ]
    return json.dumps({"inputs": inputs + more.pop("more", []), **more}).encode()


def test_the_router_chooses_and_the_answer_says_whom() -> None:
    """Version, variant and the first prediction's id, in the body and in headers."""
    for weight, variant, version in ((0, "primary", "1"), (10_000, "candidate", "2")):
        status, head, said = ask({"weight": weight}, body=about(0.25, 0.75, id="q"))

        assert status == 200
        assert (said["id"], said["model_name"], said["model_version"]) == ("q", "m", version)
        assert said["parameters"] == {"variant": variant, "fallback": False, "prediction_id": "p-7"}
        assert (head["x-rollout-variant"], head["x-prediction-id"]) == (variant, "p-7")
        assert [output["data"] for output in said["outputs"]] == [[0, 1], [0.75, 0.25, 0.25, 0.75]]


def test_a_caller_stays_with_a_variant_by_header_or_by_field() -> None:
    """The header goes before the field that `route_by` names."""

    async def main() -> None:
        harness = Harness(weight=5_000)
        by_key = {}
        for key in map(str, range(40)):
            tail = [{"name": "tail", "datatype": "BYTES", "shape": [1], "data": [key]}]
            _, _, by_field = await harness.call(INFER, about(0.5, more=tail))
            _, _, by_header = await harness.call(INFER, about(0.5), x_rollout_key=key)
            by_key[key] = by_field["parameters"]["variant"]
            assert by_header["parameters"]["variant"] == by_key[key]
        assert set(by_key.values()) == {"primary", "candidate"}
        assert [exchange.key for exchange in harness.notes.added[::2]] == list(by_key)

    asyncio.run(main())


def test_a_version_pins() -> None:
    """Whoever the router would have chosen; it is no live request."""

    async def main() -> None:
        harness = Harness(weight=10_000)
        _, _, said = await harness.call("/v2/models/m/versions/1/infer", about(0.5))
        assert said["parameters"]["variant"] == "primary"
        assert [exchange.mode for exchange in harness.notes.added] == [Mode.PINNED]
        status, _, said = await harness.call("/v2/models/m/versions/1/infer", about(0.5), x_rollout_variant="candidate")
        assert (status, "the path's version is the primary's" in said["error"]) == (400, True)

    asyncio.run(main())


def test_versions_that_are_the_same_are_told_apart_by_the_header() -> None:
    """Bare files both have version 0."""
    same = {"cards": {Variant.PRIMARY: card(), Variant.CANDIDATE: card()}}
    path = "/v2/models/m/versions/1/infer"

    assert ask(same, path, about(0.5))[2]["parameters"]["variant"] == "primary"
    assert ask(same, path, about(0.5), x_rollout_variant="candidate")[2]["parameters"]["variant"] == "candidate"


def test_pinning_takes_an_operator_where_there_are_tokens(tmp_path: Path) -> None:
    """As the header of /predict does; the routed model is for everybody."""
    tokens = tmp_path / "tokens"
    tokens.write_text(line_for("vera", "viewer", "v" * 20) + "\n" + line_for("olga", "operator", "o" * 20) + "\n")
    for path in ("/v2/models/m/versions/2/infer", INFER):
        pinned = {} if "versions" in path else {"x_rollout_variant": "candidate"}
        assert ask({"tokens": tokens}, path, about(0.5), **pinned)[0] == 401
        assert ask({"tokens": tokens}, path, about(0.5), authorization="Bearer " + "v" * 20, **pinned)[0] == 403
        status, _, said = ask({"tokens": tokens}, path, about(0.5), authorization="Bearer " + "o" * 20, **pinned)
        assert (status, said["parameters"]["variant"]) == (200, "candidate")
    assert ask({"tokens": tokens}, body=about(0.5))[0] == 200


def test_a_candidate_that_fails_is_covered_by_the_primary_unless_it_was_asked_for_by_name() -> None:
    """The fakes fail on 13; here only the candidate does."""

    async def main() -> None:
        harness = Harness(weight=10_000)
        harness.engines[Variant.PRIMARY].run = FakeEngine().run  # type: ignore[method-assign]
        harness.slots.candidate.engine.run = lambda columns: {}
        _, _, said = await harness.call(INFER, about(0.5))
        status, _, pinned = await harness.call("/v2/models/m/versions/2/infer", about(0.5))
        assert (said["model_version"], said["parameters"]["fallback"]) == ("1", True)
        assert (status, pinned["error"]) == (500, "the candidate was asked for by name, and it failed")

    asyncio.run(main())


def test_errors_are_told_as_the_protocol_has_them_and_counted() -> None:
    """Bad tensors are 400 and counted by field; a model's failure is 500; what is too much is 413, or 429 with a time."""

    async def main() -> None:
        harness = Harness()
        answers = [
            await harness.call(INFER, b"{"),
            await harness.call(INFER, about("hot")),
            await harness.call(INFER, about(13.0)),  # type: ignore[arg-type]
            await harness.call(INFER, about(*[0.5] * 6)),
            await harness.call(INFER, b" " * 3_000),
            await harness.call(INFER),
            await harness.call("/v2/models/other/infer", about(0.5)),
            await harness.call("/v2/nothing"),
            await harness.call(INFER, about(0.5), content_type="text/csv"),
        ]
        assert [status for status, _, _ in answers] == [400, 400, 500, 413, 413, 405, 404, 404, 415]
        for _, head, said in answers:
            assert head["content-type"] == "application/json"
            assert list(said) == ["error"]
        assert answers[5][1]["allow"] == "POST"
        assert [(status, [p["field"] for p in problems]) for status, problems in harness.notes.refusals] == [
            (400, []),
            (400, ["x"]),
            (413, []),
            (413, []),
            (404, []),
            (415, []),
        ]
        busy = Harness(queue_max_rows=1)
        held = [busy.slots.primary.infer([(0.5, "s", None)]) for _ in range(1)]
        status, head, said = await busy.call(INFER, about(0.5))
        assert (status, head["retry-after"], "rows are waiting" in said["error"]) == (429, "1", True)
        await asyncio.gather(*held)

    asyncio.run(main())


def test_elsewhere_errors_stay_problem_details() -> None:
    """The protocol's form is for its own paths, and for no longer word that begins like them."""
    for path in ("/v22", "/predict", "/", "v2"):
        status, head, said = ask(path=path)
        assert (status, head["content-type"], said["status"]) == (404, "application/problem+json", 404)


def test_health_and_metadata_of_what_is_not_ready() -> None:
    """The candidate's version is ready when its process is; the routed model does not wait for it."""

    async def main() -> None:
        harness = Harness()
        harness.slots.candidate = SimpleNamespace()
        harness.slots.remote = SimpleNamespace(up=False)
        assert (await harness.call("/v2/models/m/ready"))[2] == {"name": "m", "ready": True}
        assert (await harness.call("/v2/models/m/versions/2/ready"))[0] == 503
        harness.slots.remote.up = True
        assert (await harness.call("/v2/models/m/versions/2/ready"))[0] == 200
        assert (await harness.call("/v2"))[2]["name"] == "understudy"
        assert (await harness.call("/v2/health/live"))[2] == {"live": True}
        assert (await harness.call("/v2/models/m/versions/2"))[2]["versions"] == ["1", "2"]

    asyncio.run(main())


NAMES = [
    "x-rollout-variant",
    "x-rollout-key",
    "x-rollout-at",
    "inference-header-content-length",
    "content-type",
    "authorization",
]
VALUES = st.text(st.characters(max_codepoint=255, exclude_characters="\r\n"), max_size=12) | st.sampled_from(
    ["primary", "candidate", "application/octet-stream", "0", "17", "1e400", "nan"]
)
PIECES = st.lists(
    st.sampled_from([*"{}[]:,", '"inputs"', '"x"', '"shape"', '"data"', "1", "null", "\x00", "\xff"]), max_size=30
)


@given(
    st.sampled_from(
        [INFER, "/v2/models/m/versions/2/infer", "/v2/models/m/versions/%/infer", "/v2/models//infer", "/v2/"]
    )
    | st.text(max_size=10).map("/v2/models/".__add__),
    st.binary(max_size=50) | PIECES.map(lambda parts: "".join(parts).encode("latin-1")) | st.just(about(0.5)),
    st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4),
    st.sampled_from(["POST", "GET", "PUT", ""]),
)
def test_nothing_that_is_sent_is_a_bug(path: str, body: bytes, headers: dict[str, str], method: str) -> None:
    """An answer or an error that the caller can mend, always in the protocol's form."""
    status, head, said = ask(path=path, body=body, method=method, **headers)

    assert status < 500, said
    assert head["content-type"] in {"application/json", "application/octet-stream"}
    assert status == 200 or (list(said) == ["error"] and said["error"])


def test_the_fuzz_would_see_a_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """A check that cannot fail is none: an exception in a handler is 500, without a stack trace."""
    monkeypatch.setattr("understudy.api.v2.infer.read_body", lambda *args, **limits: 1 // 0)
    status, _, said = ask(body=b"")
    assert (status, said) == (500, {"error": "an unexpected error; the log has the details"})
