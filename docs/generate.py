"""Writes docs/reference/ from the code: `make docs`. A test holds the files against what this would write."""

import json
import types
import typing
from collections.abc import Iterator, Sequence
from pathlib import Path

import click
import pydantic
import typer

from understudy import errors
from understudy.api import openapi
from understudy.cli import app
from understudy.domain import JsonObject
from understudy.errors import ConfigurationError, UnderstudyError
from understudy.inference.card_schema import card_schema
from understudy.observability.metrics import TABLE
from understudy.rollout.policy import Policy, json_schema
from understudy.settings import Settings

HERE = Path(__file__).parent
MEANINGS = {
    UnderstudyError: "An unexpected error in the service. Its log has the details.",
    errors.InvalidInput: f"Input that does not match the signature. `errors` has the first {errors.InvalidInput.LISTED} problems.",
    errors.RequestError: "The request is wrong in a way that none of the others names.",
}
"""Meanings for callers, where the docstring of the class is for developers."""


def reference() -> str:
    """The page: calls, problems, commands, the rollout file, settings, metrics."""
    lines = ["# Reference", "", "Written by `make docs` from the code."]
    for part in (calls, problems, commands, rollout_file, settings, metrics):
        lines += ["", *part()]
    return "\n".join(lines) + "\n"


def calls() -> list[str]:
    """Every call of the service."""
    rows = []
    for path, item in openapi.paths().items():
        for method, call in item.items():
            more = f". {call['description']}" if call.get("description") else ""
            rows.append((f"`{method.upper()} {path}`", f"{call['summary']}{more}"))
    rows += [
        ("`GET /metrics`", "Prometheus metrics of all workers"),
        ("`GET /docs.json` · `GET /`", "the OpenAPI document · BentoML's page for it"),
    ]
    return ["## Calls", "", *table(("call", "what it does"), rows)]


def problems() -> list[str]:
    """Every kind of error that an answer may have."""
    kinds = {kind for kind in descendants(UnderstudyError) if kind.__module__ == "understudy.errors"}
    rows = []
    for kind in sorted(kinds, key=lambda kind: (kind is ConfigurationError, int(kind.status), kind.kind)):
        meaning = MEANINGS.get(kind) or " ".join((kind.__doc__ or "").split("\n\n")[0].split())
        status = "" if kind is ConfigurationError else str(int(kind.status))
        rows.append((f"`urn:understudy:problem:{kind.kind}`", status, meaning))
    return [
        "## Problems",
        "",
        "Errors are `application/problem+json` (RFC 9457): `type`, `title`, `status` and `detail`. Bad input is listed in",
        "`errors: [{row, field, problem}]`. The last of these ends the start of a service and is no answer.",
        'Under `/v2` errors are as the Open Inference Protocol has them, and only there: `{"error": detail}` with the same',
        "statuses, but 400 where tensors do not match the model's signature.",
        "",
        *table(("type", "status", "meaning"), rows),
    ]


def commands() -> list[str]:
    """Every command with its options."""
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    rows, options = [], dict[tuple[str, ...], list[str]]()
    for name, command in sorted(group.commands.items()):
        names = [said_of(parameter) for parameter in command.params]
        rows.append((f"`understudy {name}`", (command.help or "").splitlines()[0], ", ".join(f"`{n}`" for n in names)))
        for parameter in command.params:
            help_text, _, env = (parameter.help or "").partition(" [env: ")
            variable = parameter.envvar or env.rstrip("]")
            more = f"; or `{variable}`" if variable else ""
            needed = "needed" if parameter.required else code(parameter.default)
            options.setdefault((said_of(parameter), help_text + more, needed), []).append(name)
    described = [
        (f"`{option}`", ", ".join(f"`{name}`" for name in names), default, meaning)
        for (option, meaning, default), names in sorted(
            options.items(), key=lambda item: item[0][0].lstrip("-").lower()
        )
    ]
    return [
        "## Commands",
        "",
        *table(("command", "what it does", "arguments and options"), rows),
        "",
        "### Arguments and options",
        "",
        *table(("name", "of", "default", "meaning"), described),
    ]


def rollout_file() -> list[str]:
    """Every key of the rollout file."""
    return [
        "## Rollout file",
        "",
        "YAML; a key that is not here, or that is there twice, is refused. `understudy check --schema` prints the JSON Schema.",
        "",
        *table(("key", "type", "default", "meaning"), dict.fromkeys(keys(Policy, json_schema()["$defs"]))),
    ]


def settings() -> list[str]:
    """Every environment variable."""
    rows = [
        (f"`UNDERSTUDY_{name.upper()}`", code(field.default), field.description or "")
        for name, field in Settings.model_fields.items()
    ]
    head = ["## Settings", "", "Environment variables of the service's processes.", ""]
    return head + table(("variable", "default", "meaning"), rows)


def metrics() -> list[str]:
    """Every metric."""
    rows = [(f"`{s.name}`", s.kind, ", ".join(f"`{name}`" for name in s.labels), s.help) for s in TABLE]
    said = "Seconds and bytes; `variant` is `primary` or `candidate`, `mode` is `live`, `shadow`, `pinned` or `load`."
    return ["## Metrics", "", said, "", *table(("metric", "kind", "labels", "meaning"), rows)]


def keys(model: type[pydantic.BaseModel], defs: JsonObject, prefix: str = "") -> Iterator[tuple[str, ...]]:
    """One row per key: its name, its type, its default, its meaning; mappings before their keys."""
    properties = defs[model.__name__]["properties"] if prefix else json_schema()["properties"]
    for name, field in model.model_fields.items():
        inner, path = list(models_in(field.annotation)), prefix + name
        is_list = properties[name].get("type") == "array"
        meaning = field.description or " ".join((inner[0].__doc__ or "").split()) if inner else field.description or ""
        default = "needed" if field.is_required() else code(field.default, properties[name])
        kind = "mapping" if inner and not is_list else type_of(properties[name], defs)
        yield f"`{path}`", kind, default, meaning
        for one in inner:
            yield from keys(one, defs, f"{path}[]." if is_list else f"{path}.")


def models_in(annotation: object) -> Iterator[type[pydantic.BaseModel]]:
    """The models that an annotation speaks of."""
    if isinstance(annotation, type) and not isinstance(annotation, types.GenericAlias):
        if issubclass(annotation, pydantic.BaseModel):
            yield annotation
        return
    for part in typing.get_args(annotation):
        yield from models_in(part)


def type_of(schema: JsonObject, defs: JsonObject) -> str:
    """A JSON Schema's type, in words."""
    if "$ref" in schema:
        needed = defs[schema["$ref"].rpartition("/")[2]]["required"]
        return f"mapping with `{'`, `'.join(needed)}`"
    for several in ("anyOf", "oneOf"):
        if several in schema:
            return " or ".join(type_of(part, defs) for part in schema[several] if part.get("type") != "null")
    if "const" in schema or "enum" in schema:
        return " or ".join(f"`{word}`" for word in schema.get("enum", [schema.get("const")]))
    if isinstance(schema["type"], list):
        return "duration: a number and `ms`, `s`, `m`, `h` or `d`, or seconds"
    if schema["type"] == "array":
        return f"list of: {type_of(schema['items'], defs)}"
    signs = (("exclusiveMinimum", ">"), ("minimum", "≥"), ("exclusiveMaximum", "<"), ("maximum", "≤"))
    limits = [f"{sign} {schema[name]:g}" for name, sign in signs if name in schema]
    return ", ".join([{"integer": "whole number"}.get(schema["type"], schema["type"]), *limits])


def code(value: object, schema: JsonObject | None = None) -> str:
    """A default, as one would write it; nothing where there is none."""
    if isinstance(value, pydantic.BaseModel):
        value = ", ".join(f"{name}: {given:g}" for name, given in value.model_dump(exclude_unset=True).items())
    if value in (None, "", False, [], ...):
        return ""
    if schema is not None and isinstance(schema.get("type"), list):
        return f"`{value / 3600:g}h`"
    return f"`{value:g}`" if isinstance(value, float) and schema is not None else f"`{value}`"


def said_of(parameter: click.Parameter) -> str:
    """An option by its long name, an argument in capitals."""
    return str(parameter.opts[0]) if parameter.param_type_name == "option" else str(parameter.name or "").upper()


def descendants(kind: type[UnderstudyError]) -> set[type[UnderstudyError]]:
    """A class and all that come from it."""
    return {kind}.union(*(descendants(child) for child in kind.__subclasses__()))


def table(head: Sequence[str], rows: typing.Iterable[Sequence[str]]) -> list[str]:
    """A Markdown table."""
    lines = [f"| {' | '.join(head)} |", "|" + "---|" * len(head)]
    return lines + [f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |" for row in rows]


def card_json_schema() -> str:
    """The JSON Schema of model cards."""
    return json.dumps(card_schema(), indent=1) + "\n"


if __name__ == "__main__":
    (HERE / "reference" / "card.schema.json").write_text(card_json_schema(), encoding="utf-8")
    (HERE / "reference" / "README.md").write_text(reference(), encoding="utf-8")
