"""Works out the task and the classes of two models from their outputs, their answers and the labels of the data."""

from collections.abc import Sequence
from dataclasses import dataclass, field

from understudy.domain import Label
from understudy.errors import ConfigurationError
from understudy.inference.cards import MULTILABEL
from understudy.inference.decoding import Decoder, Row
from understudy.inference.tasks import BINARY, MULTICLASS
from understudy.offline.evaluate.data import Sample
from understudy.offline.starting import classes as orders
from understudy.offline.starting.models import Ask, Model, likeliest, raw_outputs
from understudy.offline.starting.rollout_file import Names
from understudy.offline.starting.survey import Survey, label_names
from understudy.rollout.losses import label_classes

SHOWN = 8
TASK_QUESTION = (
    "task: the models give one number from 0 to 1, and the labels have two values; binary-classification or regression"
)


@dataclass(slots=True)
class Naming:
    """The class names of models that do not name them.

    Attributes:
        names: for the rollout file, with a comment.
        own: model's place → its own classes, if the two models have them in different orders: they belong on the cards.
        notes: sentences for the user.
    """

    names: Names = field(default_factory=Names)
    own: dict[int, list[int | str]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)


def scorable(model: Model) -> bool:
    """Whether a label of a model is one class or one number, which a column can hold."""
    several = any(o.role == "value" and o.width != 1 for o in model.card.outputs)
    return model.card.task != MULTILABEL and not several and (model.card.task != "other" or bool(model.engine.unnamed))


def classifies(model: Model) -> bool:
    """Whether a model gives a class or probabilities."""
    return bool(model.engine.unnamed or model.card.classes or model.card.roles & {"label", "probabilities"})


def vocabulary(models: Sequence[Model], found: Survey, source: str) -> list[int | str]:
    """The possible labels: the models' own classes, else the different labels; empty if labels are numbers.

    Raises:
        ConfigurationError: the labels do not fit what the models predict.
    """
    if not any(classifies(model) for model in models):
        pair = label_names(found) if found.whole or not found.numeric else []
        if len(pair) == 2:
            return pair  # the numbers may be probabilities of the second
        if not found.numeric:
            texts = [text for text in found.labels if not text.replace(".", "").isdecimal()] or ["…"]
            raise ConfigurationError(
                f"{source}: the models predict a number, and the labels are texts such as {texts[0]!r}; is --label the right "
                "column?"
            )
        return []
    known = [model.card.classes for model in models if model.card.classes]
    if known:
        return list(known[0] if len(known) == 1 else label_classes(known[0], known[1]))
    names = label_names(found)
    width = max((model.engine.unnamed for model in models), default=0)
    if width == 2 < len(names or range(3)) and found.numeric and _are_numbers(models):
        return []
    if not width or len(names) == width:
        return names
    whole = [name for name in names if isinstance(name, int)]
    if names and len(whole) == len(names) < width and min(whole) >= 0 and max(whole) < width:
        return list(range(width))
    shown = ", ".join(map(str, names[:SHOWN])) + (", …" if len(names) > SHOWN else "")
    count = f"{len(names)} different values ({shown})" if names else "more different values than classes can have"
    raise ConfigurationError(
        f"{source}: the models give {width} probabilities a row, and the labels have {count}; is --label the right column? If it "
        "is, name the classes in the order of the probabilities with --classes"
    )


def _are_numbers(models: Sequence[Model]) -> bool:
    """Whether what looks like the probability of one of two classes may be a predicted number, and if so, open it as that."""
    for model in models:
        model.reopen((), "regression")
    if all("value" in model.card.roles for model in models):
        return True
    for model in models:
        model.reopen(())
    return False


def name_models(
    models: Sequence[Model], decoder: Decoder, sample: Sample, names: list[int | str], source: str, ask: Ask
) -> Naming:
    """Name the classes of models that do not, and open these again with the names.

    Args:
        names: the possible labels, sorted if no model names them; empty if labels are numbers.
        source: the file's name.

    Raises:
        ConfigurationError: the names cannot be worked out, or cannot be written.
    """
    if not any(classifies(model) for model in models):
        pair = as_probabilities(models, decoder, sample.rows, names, source) if names else None
        if pair is not None and isinstance(names[0], int) and ask(TASK_QUESTION, BINARY) == "regression":
            pair = None
            for model in models:
                model.reopen(())
        if pair is None:  # so these are numbers after all
            sample.labels = [float(label) if isinstance(label, int) else label for label in sample.labels]
            return Naming()
        return Naming(pair, notes=[f"classes: {', '.join(map(str, pair.classes))} ({pair.guess})"])
    known = [(row, label) for row, label in zip(sample.rows, sample.labels, strict=True) if label is not None]
    rows, labels = [row for row, _ in known], [label for _, label in known]
    orders_ = {
        place: _order(model, decoder, rows, labels, names) for place, model in enumerate(models) if model.engine.unnamed
    }
    naming = Naming()
    if not orders_:
        return naming
    why = {place: orders.comment(each, source, models[place].source.name) for place, each in orders_.items()}
    place, first = next(iter(orders_.items()))
    if all(each.classes == first.classes for each in orders_.values()):
        naming.names = Names(tuple(first.classes), why[place])
        naming.notes.append(f"classes: {', '.join(map(str, first.classes))} ({why[place]})")
    else:
        naming.own = {place: each.classes for place, each in orders_.items()}
        naming.notes = [
            f"classes of {models[place].source}: {', '.join(map(str, each.classes))} ({why[place]})"
            for place, each in orders_.items()
        ]
        if kept := [models[place].source for place in orders_ if not models[place].is_new]:
            raise ConfigurationError(
                f"the models have their probabilities in different orders ({'; '.join(naming.notes)}), and the card of {kept[0]} "
                "does not say so: write `classes` into that card, or use --force to replace a card beside an .onnx file"
            )
    for place, each in orders_.items():
        models[place].reopen(each.classes)
    return naming


def _order(
    model: Model, decoder: Decoder, rows: Sequence[Row], labels: Sequence[Label], names: list[int | str]
) -> orders.Order:
    """The order of a model's probabilities.

    Raises:
        ConfigurationError: there are more or fewer names than probabilities.
    """
    width = model.engine.unnamed
    answer = likeliest(model, raw_outputs(model, decoder, rows), width) if len(names) == width else None
    if answer is None:
        raise ConfigurationError(
            f"{model.source} gives {width} probabilities without class names, and {len(names)} classes are known: name them in the "
            "order of the probabilities with --classes"
        )
    columns, said = answer
    known = [label for label in labels if isinstance(label, int | str)]
    found = orders.order(orders.counts(columns, known, names), names)
    exact = orders.told_by_labels(columns, said, width) if said is not None else None
    if exact is not None and set(exact) == set(names):
        return orders.Order(exact, found.accuracy, found.sorted_accuracy, exact=True)
    return found


def as_probabilities(
    models: Sequence[Model], decoder: Decoder, rows: Sequence[Row], pair: list[int | str], source: str
) -> Names | None:
    """Open models that give one number from 0 to 1 again as binary classifiers.

    Args:
        pair: the two labels, sorted.

    Returns:
        The class names; None if the numbers are no probabilities.

    Raises:
        ConfigurationError: the labels are texts, so the models can be nothing else.
    """
    why = ""
    for model in models:
        numbers = [each for each in raw_outputs(model, decoder, rows).values() if each.dtype.kind == "f"]
        if not all(bool(((each >= 0) & (each <= 1)).all()) for each in numbers):
            why = f"{model.source} gives numbers below 0 or above 1; if they are logits, end the graph with a Sigmoid"
            break
        try:
            model.reopen(pair)
        except ConfigurationError as error:
            why = error.detail
            break
    if not why:
        both = "both models give a number from 0 to 1"
        return Names(
            tuple(pair), f"a guess: the labels of {source} have two values, and {both}, the probability of {pair[1]}"
        )
    for model in models:
        model.reopen(())
    if isinstance(pair[0], str):
        raise ConfigurationError(f"{source}: the labels are {pair[0]!r} and {pair[1]!r}, and {why}")
    return None


def common_task(models: Sequence[Model]) -> str:
    """What both models do.

    Raises:
        ConfigurationError: they do different things.
    """
    tasks: list[str] = [model.card.task for model in models]
    if set(tasks) == {BINARY, MULTICLASS}:
        return MULTICLASS  # one of the models has only two of the classes
    if tasks[0] != tasks[1] and "other" not in tasks:
        first, second = (model.source for model in models)
        raise ConfigurationError(
            f"{first} is a {tasks[0]} model and {second} a {tasks[1]} model: only models with the same task can be compared"
        )
    return tasks[0]
