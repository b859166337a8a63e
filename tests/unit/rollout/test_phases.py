"""The table of phases: what leads where, what is refused and in which words, and the picture that is drawn of it."""

import importlib.util
from pathlib import Path
from types import ModuleType

import pytest

from tests.unit.rollout.world import policy
from understudy.domain import SHARE_ONE, Phase, Plan
from understudy.errors import NotAllowedNow
from understudy.rollout.controller import move
from understudy.rollout.phases import TABLE, Order, after, diagram

ROOT = Path(__file__).parents[3]
EVERY = [(phase, order) for phase in Phase for order in Order]
FORBIDDEN = [(phase, order) for phase, order in EVERY if order not in TABLE[phase]]
TRAFFIC = [phase for phase in Phase if phase not in {Phase.SERVING, Phase.ABORTED}]


def test_every_phase_has_a_row_and_every_order_is_somewhere_allowed():
    assert set(TABLE) == set(Phase)
    assert {order for row in TABLE.values() for order in row} == set(Order)
    assert {phase for row in TABLE.values() for phase in row.values()} == set(Phase) - {Phase.SERVING}


@pytest.mark.parametrize(("phase", "order"), FORBIDDEN, ids=str)
def test_what_the_table_does_not_list_is_refused_with_what_it_does_and_changes_nothing(phase, order):
    plan = Plan(phase, weight=500, shadow=SHARE_ONE, salt=7, step=1, revision=3)
    with pytest.raises(NotAllowedNow) as caught:
        move(policy(), plan, order, 9.0, weight=100)

    said = caught.value.detail
    assert said.startswith(f"{order.value} is not allowed while the rollout is {phase.value}; allowed: ")
    named = said.partition("allowed: ")[2]
    if TABLE[phase]:
        assert named.split(", ") == sorted(each.value for each in TABLE[phase])
    else:
        assert named == "nothing: there is no candidate"
    assert plan == Plan(phase, weight=500, shadow=SHARE_ONE, salt=7, step=1, revision=3)


def test_a_service_without_a_candidate_has_nothing_to_order():
    assert TABLE[Phase.SERVING] == {}
    assert len([order for phase, order in FORBIDDEN if phase is Phase.SERVING]) == len(Order)


def test_the_ends_are_left_only_by_a_person_or_by_harm():
    assert TABLE[Phase.ABORTED] == {Order.RETRY: Phase.SHADOW}
    assert {phase for order, phase in TABLE[Phase.PROMOTED].items() if order is not Order.RELEASE} == {Phase.ABORTED}


@pytest.mark.parametrize("phase", TRAFFIC, ids=str)
def test_wherever_the_candidate_sees_requests_it_can_be_taken_off_at_once(phase):
    assert after(phase, Order.ROLL_BACK) is Phase.ABORTED
    taken_off = move(policy(), Plan(phase, weight=500, shadow=SHARE_ONE, salt=7, step=1), Order.ROLL_BACK, 9.0)
    assert (taken_off.phase, taken_off.weight, taken_off.shadow) == (Phase.ABORTED, 0, 0)


@pytest.mark.parametrize("phase", [Phase.WAITING, Phase.PAUSED], ids=str)
def test_the_judge_does_not_move_on_past_a_person(phase):
    assert not {Order.ADVANCE, Order.FINISH, Order.WAIT} & set(TABLE[phase])


def test_the_diagram_has_every_arrow_of_the_table_and_no_other():
    begins, start, *lines = diagram().splitlines()
    drawn = {
        (source, target, order)
        for line in lines
        for arrow, _, orders in [line.strip().partition(": ")]
        for source, target in [arrow.split(" --> ")]
        for order in orders.split(", ")
    }

    assert (begins, start) == ("stateDiagram-v2", "    [*] --> shadow")
    assert drawn == {(p.value, t.value, o.value) for p, row in TABLE.items() for o, t in row.items()}


def generator() -> ModuleType:
    spec = importlib.util.spec_from_file_location("state_machine", ROOT / "docs" / "state_machine.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_page_is_what_the_table_says():
    """`python docs/state_machine.py` writes it."""
    page = (ROOT / "docs" / "reference" / "state-machine.md").read_text(encoding="utf-8")

    assert page == generator().page()
    assert diagram() in page
