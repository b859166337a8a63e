"""Assigns roles to a model's outputs by the rollout file's task, since a bare graph does not have them. Pure."""

from typing import Literal

from understudy.errors import ConfigurationError
from understudy.inference.cards import MULTILABEL, Card, OutputSpec

BINARY, MULTICLASS = "binary-classification", "multiclass-classification"
UNJUDGED = frozenset({"agreement", "other"})
"""Tasks that need no roles: outputs are compared with each other, or passed on."""


def fitted(card: Card, task: str) -> Card:
    """The card of a model with the roles that the rollout file's `task` needs.

    If the card has the task "other" (as for a bare file) and exactly one output can have the role that the task needs, it
    gets that role.

    Raises:
        ConfigurationError: the model is of another task, or several of its outputs could be meant.
    """
    if task in UNJUDGED or card.task == task or (card.task == BINARY and task == MULTICLASS):
        return card  # a model may know only two of the classes
    if card.task != "other":
        raise ConfigurationError(
            f"{card.name} is a {card.task} model, and the rollout file says `task: {task}`: write `task: {card.task}`, or correct "
            "the model's card.json"
        )
    role: Literal["value", "probabilities"] = "value" if task == "regression" else "probabilities"
    if role in card.roles or (role == "probabilities" and "label" in card.roles):
        return card.model_copy(update={"task": task})
    if task not in {"regression", MULTILABEL}:
        return card  # which class each probability belongs to is said by `classes` or a card, or quality is refused
    numbers = [output for output in card.outputs if output.role == "other" and _could_be(output, role)]
    if len(numbers) != 1:
        given = ", ".join(f"{o.name} ({o.dtype} {o.shape})" for o in card.outputs)
        which = "several outputs could be" if numbers else "no output can be"
        raise ConfigurationError(
            f"{card.name} gives {given}: with `task: {task}` {which} the {role}. Write a card.json beside the model that says "
            f"`role: {role}` of the right one, or write `task: agreement` to compare the answers of the two models without labels"
        )
    outputs = [o.model_copy(update={"role": role}) if o is numbers[0] else o for o in card.outputs]
    return card.model_copy(update={"task": task, "outputs": outputs})


def _could_be(output: OutputSpec, role: str) -> bool:
    """Whether an output's dtype and shape fit a role: a number or vector per row, or a probability per class."""
    if not output.dtype.startswith("float"):
        return False
    return len(output.row_shape) == 1 if role == "probabilities" else len(output.row_shape) <= 1


def mismatch(primary: Card, candidate: Card) -> str | None:
    """Why the answers of two models cannot be compared with the same label; None if they can.

    Multilabel classifiers must have the same classes, because a label has a truth value per class. Regressions must predict
    equally many numbers.
    """
    if MULTILABEL in {primary.task, candidate.task}:
        ours, theirs = set(primary.classes), set(candidate.classes)
        if ours and theirs and ours != theirs:
            only = [
                f"only {card.name} has {', '.join(map(str, sorted(map(str, own - other))))}"
                for card, own, other in ((primary, ours, theirs), (candidate, theirs, ours))
                if own - other
            ]
            return f"the classes of two multilabel models must be the same: {'; '.join(only)}"
    widths = [o.width for card in (primary, candidate) for o in card.outputs if o.role == "value"]
    if len(widths) == 2 and None not in widths and widths[0] != widths[1]:
        return f"{primary.name} predicts {_numbers(widths[0])} a row and {candidate.name} {_numbers(widths[1])}: no label fits both"
    return None


def _numbers(width: int | None) -> str:
    return "1 number" if width == 1 else f"{width} numbers"
