"""The documentation speaks of everything that there is: metrics, settings, commands, calls; and its links lead somewhere."""

import importlib.util
import pkgutil
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from tests.integration.repository.test_rules import tracked
from understudy import cli
from understudy.api.openapi import paths
from understudy.api.rest import Rest
from understudy.domain import Variant
from understudy.errors import UnderstudyError
from understudy.inference.decoding import Decoder
from understudy.loading import fields_of
from understudy.observability.metrics import TABLE
from understudy.rollout.policy import Policy, parse
from understudy.settings import Settings
from understudy.testing import ManualClock, card

ROOT = Path(__file__).parents[3]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
DOCUMENTED = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
COMMANDS = sorted(c.name or str(c.callback.__name__) for c in cli.app.registered_commands if c.callback is not None)
CALLS = sorted((method.upper(), path) for path, item in paths().items() for method in item)


def mentioned(word: str) -> bool:
    """Whether the docs have the word, and not only a longer one that contains it."""
    return re.search(rf"(?<![\w/-]){re.escape(word)}(?![\w/-])", DOCUMENTED) is not None


def test_a_word_that_is_not_there_is_not_found() -> None:
    """A check that cannot fail is none."""
    assert mentioned("understudy_requests_total")
    assert not mentioned("understudy_requests")
    assert not mentioned("/rollout/no-such-call")


@pytest.mark.parametrize("name", [spec.name for spec in TABLE])
def test_every_metric_is_documented(name: str) -> None:
    """By its full name, with its labels beside it."""
    labels = next(spec.labels for spec in TABLE if spec.name == name)

    assert mentioned(name)
    near = [line for line in DOCUMENTED.splitlines() if re.search(rf"\b{name}\b", line)]
    assert any(all(re.search(rf"\b{label}\b", line) for label in labels) for line in near)


@pytest.mark.parametrize("name", [f"UNDERSTUDY_{name.upper()}" for name in Settings.model_fields])
def test_every_setting_is_documented(name: str) -> None:
    """By the name of its environment variable."""
    assert mentioned(name)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_is_documented(name: str) -> None:
    """As one types it."""
    assert mentioned(f"understudy {name}")


@pytest.mark.parametrize(("method", "path"), CALLS)
def test_every_call_is_documented(method: str, path: str) -> None:
    """With its method."""
    assert mentioned(f"{method} {path}")


@pytest.mark.parametrize("key", Policy.model_fields)
def test_every_key_of_the_rollout_file_is_documented(key: str) -> None:
    """By its name, in code."""
    assert re.search(rf"`{key}`|^\s*{key}:", DOCUMENTED, re.MULTILINE)


def test_the_calls_described_are_the_calls_answered() -> None:
    """The router's table and the OpenAPI document: neither has a path or a method that the other lacks."""
    policy = parse("model: m\ntask: binary-classification\nprimary: a\n")
    cards = {Variant.PRIMARY: card()}
    decoder = Decoder(fields_of(cards[Variant.PRIMARY], None), rows_max=1, key_max_chars=16)
    parts: Any = SimpleNamespace(
        cards=cards,
        decoder=decoder,
        settings=Settings(),
        clock=ManualClock(),
        policy=policy,
        pipeline=None,
        offload=None,
    )
    routes = Rest(parts, lambda: True, dict).routes()
    answered = {(method, each.path) for each in routes for method in each.methods or ()}

    own = {call for call in answered if call[1] == "/docs.json" or call[1].startswith("/dashboard/")}

    assert answered - own == set(CALLS)


def script(name: str) -> Any:
    """A script of `docs/` as a module."""
    spec = importlib.util.spec_from_file_location(name, ROOT / "docs" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_reference_is_what_the_code_says() -> None:
    """`make docs` writes it."""
    assert (ROOT / "docs" / "reference" / "README.md").read_text(encoding="utf-8") == script("generate").reference()
    schema = (ROOT / "docs" / "reference" / "card.schema.json").read_text(encoding="utf-8")
    assert schema == script("generate").card_json_schema()


def test_the_picture_of_the_layers_is_the_contract_s() -> None:
    """`make docs` draws it, from pyproject.toml and the packages' docstrings."""
    page = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")

    assert page == script("structure").page(page)


def test_the_structure_is_measured() -> None:
    """A circle and a chain that are known."""
    structure = script("structure")
    graph = structure.imports({"p.a": "from p import b", "p.b": "import p.c", "p.c": "from p.b import x", "p": ""})

    assert structure.circles(graph) == [["p.b", "p.c"]]
    assert structure.floors({"a": {"b"}, "b": {"c"}, "c": set(), "d": set()}) == 3


LINK = re.compile(r"\]\(([^)\s]+)\)")


def test_relative_links_lead_to_files_and_headings() -> None:
    """In every page of the repository."""
    broken = []
    for page, text in tracked().items():
        if page.suffix != ".md":
            continue
        for target in LINK.findall(re.sub(r"```.*?```", "", text, flags=re.DOTALL)):
            if re.match(r"[a-z]+:", target):
                continue
            place, _, heading = target.partition("#")
            path = (page.parent / place).resolve() if place else page
            if not path.exists() or (heading and heading not in headings(path)):
                broken.append(f"{page.relative_to(ROOT)}: {target}")

    assert broken == []


def headings(page: Path) -> set[str]:
    """The anchors of a page, as GitHub makes them."""
    titles = re.findall(r"^#+ +(.+?) *$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}


def test_every_problem_type_is_documented() -> None:
    """Callers branch on `type`: the kinds are part of the contract."""
    kinds = {kind.kind for kind in descendants(UnderstudyError) if kind.__module__ == "understudy.errors"}

    assert {kind for kind in kinds if not mentioned(kind)} == set()


def descendants(kind: type[UnderstudyError]) -> set[type[UnderstudyError]]:
    return {kind}.union(*(descendants(child) for child in kind.__subclasses__()))


def test_the_walks_in_the_architecture_name_what_exists() -> None:
    """Every dotted name in the tables of ARCHITECTURE.md's walks: a module, and what is in it."""
    walks = (
        (ROOT / "ARCHITECTURE.md")
        .read_text(encoding="utf-8")
        .split("## The life of a prediction")[1]
        .split("## Invariants")[0]
    )
    names = sorted(set(re.findall(r"`([a-z_]+(?:\.\w+)+)`", walks)))
    missing = [name for name in names if not exists(f"understudy.{name}")]

    assert len(names) > 15
    assert missing == []
    assert not exists("understudy.serving.pipeline.NoSuchThing")


def exists(name: str) -> bool:
    """Whether a dotted name is a module, or something in one."""
    try:
        pkgutil.resolve_name(name)
    except (ImportError, AttributeError):
        return False
    return True
