"""Which class each probability belongs to, from labels and answers."""

import numpy as np
import pytest

from understudy.offline.starting import classes as orders

NAMES: list[int | str] = ["a", "b", "c"]


def answered(order: list[str], accuracy: float, rows: int = 600) -> orders.Order:
    """A model whose probabilities are in some order, and whose likeliest class is right that often."""
    chance = np.random.default_rng(3)
    labels = [NAMES[i] for i in chance.integers(0, 3, rows)]
    columns = [
        order.index(str(label)) if chance.random() < accuracy else int(chance.integers(0, 3)) for label in labels
    ]
    return orders.order(orders.counts(columns, labels, NAMES), NAMES)


def test_the_sorted_order_is_kept_where_it_is_right() -> None:
    """And says how often it is."""
    found = answered(["a", "b", "c"], 0.7)
    assert found.classes == NAMES
    assert found.accuracy > 0.7
    assert "in sorted order" in orders.comment(found, "d.csv", "poc")


def test_another_order_is_found() -> None:
    """And the comment says what the sorted one would be."""
    found = answered(["c", "a", "b"], 0.7)
    assert found.classes == ["c", "a", "b"]
    assert found.accuracy > 0.7
    assert found.sorted_accuracy < 0.2
    assert "in sorted order it would be right on" in orders.comment(found, "d.csv", "poc")


def test_an_order_that_is_hardly_better_is_not_taken() -> None:
    """A model that guesses."""
    assert answered(["c", "a", "b"], 0.0).classes == NAMES


def test_many_classes_are_assigned_one_by_one() -> None:
    names: list[int | str] = list("abcdefgh")
    turned = names[3:] + names[:3]
    labels = names * 50
    found = orders.order(orders.counts([turned.index(label) for label in labels], labels, names), names)
    assert found.classes == turned
    assert found.accuracy == 1.0


@pytest.mark.parametrize(
    ("columns", "own", "told"),
    [
        ([0, 1, 2, 0], ["b", "a", "c", "b"], ["b", "a", "c"]),
        ([0, 1], ["b", "a"], None),
        ([0, 1, 2, 0], ["b", "a", "c", "a"], None),
        ([0, 1, 2], ["b", "b", "c"], None),
    ],
)
def test_a_models_own_labels_tell_the_order(
    columns: list[int], own: list[int | str], told: list[int | str] | None
) -> None:
    """If each column has one label of its own."""
    assert orders.told_by_labels(columns, own, 3) == told
