"""The rollout file's keys about names: classes, and inputs and outputs that the two models call differently. Pure."""

from collections.abc import Iterable, Mapping

import pydantic

from understudy.rollout.goals import Strict


class InputKeys(Strict):
    """What the graphs do not say about an input. An entry for an input that only the candidate has says that callers send it."""

    nullable: bool | None = pydantic.Field(
        default=None,
        description="whether a value may be missing in both models: null in JSON, NaN in tensors; for floats and strings. Absent: "
        "as the model's card says, and no for a bare file",
    )
    rename: str | None = pydantic.Field(
        default=None, description="the candidate's name for this input of the primary, if it has another"
    )


def checked_classes(classes: object) -> object:
    """The key `classes`, before pydantic reads it.

    Raises:
        ValueError: it has values that are no class names.
    """
    if isinstance(classes, list):
        for name in classes:
            if isinstance(name, bool):
                raise ValueError(
                    f"`classes` has {name}: YAML reads yes, no, on and off as booleans; put them in quotes"
                )
            if not isinstance(name, int | str):
                raise ValueError(f"`classes` has {name!r}; a class is a whole number or a string")
        if len({type(name) for name in classes}) > 1:
            raise ValueError("`classes` has both whole numbers and strings; use one kind, the same as the labels")
        if len(set(classes)) < len(classes):
            raise ValueError("`classes` has a name twice")
        if len(classes) == 1:
            raise ValueError("`classes` has one class; at least two are needed")
    return classes


def checked_names(names: object) -> object:
    """The key `inputs` or `outputs`, before pydantic reads it.

    Raises:
        ValueError: a name is no string.
    """
    for name in names if isinstance(names, dict) else ():
        if not isinstance(name, str):
            raise ValueError(f"YAML reads the name {name} as a {type(name).__name__}: put it in quotes")
    return names


def check_renames(inputs: Mapping[str, InputKeys], outputs: Mapping[str, str], *, has_candidate: bool) -> None:
    """Check the keys `inputs` and `outputs` by themselves.

    Raises:
        ValueError: two names for one thing, or names for a candidate that is not there.
    """
    renames = {name: keys.rename for name, keys in inputs.items() if keys.rename is not None}
    if not has_candidate and (renames or outputs):
        raise ValueError(
            "`inputs.<name>.rename` and `outputs` say what the candidate calls them, and there is no `candidate`"
        )
    for key, names in (("inputs", renames.values()), ("outputs", outputs.values())):
        if twice := _twice(names):
            raise ValueError(f"`{key}` gives the candidate's `{twice}` to two of the primary's; it can stand for one")


def _twice(names: Iterable[str]) -> str | None:
    known = list(names)
    return next((name for name in known if known.count(name) > 1), None)
