"""Which inputs and outputs of the candidate stand for which of the primary's. Pure: cards in, names or sentences out.

The rollout file's `inputs.<name>.rename` and `outputs` say it where the two graphs have other names (`understudy.inference.names`).
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import TypeVar

from understudy.errors import ConfigurationError
from understudy.inference.cards import Card, InputSpec, OutputSpec
from understudy.inference.names import InputKeys, Renames, listed, quoted, yaml_name

_HOLDS = {"float": {"float", "integer", "bool"}, "integer": {"integer", "bool"}, "bool": {"bool"}, "string": {"string"}}
"""Kinds of outputs that can be answered in the kind of the primary's without cutting anything off."""
_Spec = TypeVar("_Spec", InputSpec, OutputSpec)


def proposed_mapping(primary: Card, candidate: Card) -> tuple[dict[str, str], dict[str, str]]:
    """The names that the rollout file has to give, where only one pairing of names fits.

    An input or output without a partner of its name is paired with one that differs only in case and punctuation, or else with the
    only one of its kind and shape, provided that this one fits no other.

    Returns:
        The primary's input → the candidate's, and the primary's output → the candidate's; both without equal names.
    """
    ours, theirs = ({spec.name for spec in card.inputs} for card in (primary, candidate))
    inputs = _paired(
        [spec for spec in primary.inputs if spec.name not in theirs],
        [spec for spec in candidate.inputs if spec.name not in ours],
        alike,
    )
    used = {found.name for spec in primary.outputs if (found := counterpart(spec, candidate))}
    outputs = _paired(
        [spec for spec in primary.outputs if counterpart(spec, candidate) is None],
        [spec for spec in candidate.outputs if spec.name not in used],
        _may_stand_for,
    )
    return inputs, outputs


def counterpart(spec: OutputSpec, candidate: Card) -> OutputSpec | None:
    """The candidate's output that answers for an output of the primary; None if it has none.

    It is the one of the same role, or of the same name for outputs without a role.
    """
    for own in candidate.outputs:
        same = own.name == spec.name if spec.role == "other" else own.role == spec.role
        if same and _kind(own.dtype) in _HOLDS[_kind(spec.dtype)]:
            return own
    return None


def alike(a: InputSpec | OutputSpec, b: InputSpec | OutputSpec) -> bool:
    """Whether two inputs or outputs hold the same kind of values in the same shape per row; sizes that vary fit any size."""
    one, other = (spec.row_shape for spec in (a, b))
    if _kind(a.dtype) != _kind(b.dtype):
        return False
    if all(size == 1 for size in (*one, *other)):
        return True
    return len(one) == len(other) and all(x == y or x is None or y is None for x, y in zip(one, other, strict=True))


def only_read_by(candidate: Card, primary: Card) -> list[str]:
    """The inputs that only the candidate has. Requests may leave them out."""
    own = {spec.name for spec in primary.inputs}
    return [spec.name for spec in candidate.inputs if spec.name not in own]


def check_names(primary: Card, candidate: Card | None, inputs: Mapping[str, InputKeys], outputs: Renames) -> None:
    """Check that the keys `inputs` and `outputs` name what the models have.

    Args:
        primary: the primary's card.
        candidate: the candidate's card under the service's names.
        inputs: the key `inputs` of the rollout file.
        outputs: the key `outputs` of the rollout file.

    Raises:
        ConfigurationError: a key names nothing; the message names what there is.
    """
    own = [spec.name for spec in primary.inputs]
    others = [spec.name for spec in candidate.inputs if spec.name not in own] if candidate else []
    for name, keys in inputs.items():
        if name not in own and (keys.rename is not None or name not in others):
            also = f", and only the candidate has {listed(others)}" if others and keys.rename is None else ""
            raise ConfigurationError(
                f"`inputs.{name}`: the primary has no input {quoted(name)}: it has {listed(own)}{also}"
            )
    given = [spec.name for spec in primary.outputs]
    for name in outputs:
        if name not in given:
            raise ConfigurationError(
                f"`outputs.{name}`: the primary has no output {quoted(name)}: it has {listed(given)}"
            )


def check_fit(primary: Card, candidate: Card, declared: Iterable[str]) -> None:
    """Check that every request gives the candidate its inputs, and that the candidate gives callers every output of the primary.

    Args:
        primary: the primary's card.
        candidate: the candidate's card under the service's names.
        declared: the inputs that the rollout file names. Callers give them.

    Raises:
        ConfigurationError: it does not; the message has the lines to write.
    """
    for problem in (*_unmatched_inputs(primary, candidate, declared), *_unmatched_outputs(primary, candidate)):
        raise ConfigurationError(problem)


def _unmatched_inputs(primary: Card, candidate: Card, declared: Iterable[str]) -> Iterable[str]:
    own, proposed = {spec.name: spec for spec in primary.inputs}, proposed_mapping(primary, candidate)[0]
    partner = {theirs: ours for ours, theirs in proposed.items()}
    for spec in candidate.inputs:
        if (same := own.get(spec.name)) is not None:
            if not _kinds_agree(same, spec):
                yield (
                    f"the input {quoted(spec.name)} is {_described(same)} of the primary and {_described(spec)} of the candidate, "
                    "so no value fits both: export both models with the same type and shape, or with different names"
                )
        elif not spec.nullable and spec.name not in declared:
            yield (
                f"the candidate needs the input {quoted(spec.name)} ({_described(spec)}), and no field of a request gives it: the "
                f"primary's inputs are {', '.join(f'{quoted(s.name)} ({_described(s)})' for s in primary.inputs)}. "
                + _way_out_of_input(spec, partner.get(spec.name))
            )


def _way_out_of_input(spec: InputSpec, partner: str | None) -> str:
    name = yaml_name(spec.name)
    of_its_own = f"write `inputs: {{{name}: {{nullable: false}}}}` if callers send it as a field of its own"
    if "float" in spec.dtype or spec.dtype == "string":
        of_its_own += ", or `nullable: true` if some of them leave it out"
    if partner is None:
        return f"If it is one of those, write `inputs: {{<the primary's name>: {{rename: {name}}}}}`; {of_its_own}"
    return f"Write `inputs: {{{yaml_name(partner)}: {{rename: {name}}}}}` if it is the primary's {quoted(partner)}; {of_its_own}"


def _unmatched_outputs(primary: Card, candidate: Card) -> Iterable[str]:
    proposed = proposed_mapping(primary, candidate)[1]
    for spec in primary.outputs:
        if counterpart(spec, candidate) is not None or gives_label(spec, candidate):
            continue
        role = "" if spec.role == "other" else f", its {spec.role}"
        partner = yaml_name(proposed[spec.name]) if spec.name in proposed else "<the candidate's name>"
        yield (
            f"the candidate does not give the output {quoted(spec.name)} ({_described(spec)}{role}), which callers get from the "
            f"primary: it gives {', '.join(f'{quoted(o.name)} ({_described(o)})' for o in candidate.outputs)}. If it is one of "
            f"those, write `outputs: {{{yaml_name(spec.name)}: {partner}}}`; otherwise export the candidate with this output"
        )


def gives_label(spec: OutputSpec, candidate: Card) -> bool:
    """Whether a candidate without a label output gives the label all the same: the likeliest of its named classes."""
    roles = candidate.roles
    return spec.role == "label" and "label" not in roles and "probabilities" in roles and bool(candidate.classes)


def _paired(ours: Sequence[_Spec], theirs: Sequence[_Spec], fits: Callable[[_Spec, _Spec], bool]) -> dict[str, str]:
    """The pairs of names of which only one fits."""
    pairs: dict[str, str] = {}
    for same in (lambda a, b: _letters(a.name) == _letters(b.name) and fits(a, b), fits):
        left = [spec for spec in ours if spec.name not in pairs]
        right = [spec for spec in theirs if spec.name not in pairs.values()]
        for one in left:
            found = [other for other in right if same(one, other)]
            if len(found) == 1 and sum(same(each, found[0]) for each in left) == 1:
                pairs[one.name] = found[0].name
    return pairs


def _may_stand_for(ours: OutputSpec, theirs: OutputSpec) -> bool:
    """Whether the candidate's output may be the primary's under another name: of the same kind and shape, and of no other role."""
    return alike(ours, theirs) and theirs.role in {"other", ours.role}


def _kinds_agree(a: InputSpec, b: InputSpec) -> bool:
    """Like `alike`, but numbers of any type and booleans fit each other, because values are converted and checked."""
    kinds = {_kind(spec.dtype) for spec in (a, b)}
    same = b.model_copy(update={"dtype": a.dtype}) if "string" not in kinds else b
    return alike(a, same)


def _kind(dtype: str) -> str:
    return "float" if "float" in dtype else "integer" if "int" in dtype else dtype


def _letters(name: str) -> str:
    return "".join(each for each in name.casefold() if each.isalnum()) or name


def _described(spec: InputSpec | OutputSpec) -> str:
    """Type and shape for a message.

    >>> _described(InputSpec(name="x", dtype="float32", shape=[None, 3]))
    'float32 [n, 3]'
    """
    sizes = ["any" if size is None else str(size) for size in spec.row_shape]
    return f"{spec.dtype} [{', '.join(['n', *sizes])}]"
