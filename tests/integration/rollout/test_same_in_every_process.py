"""The routing hash and the rollout's key depend on nothing of the process that computes them."""

import subprocess
import sys
from pathlib import Path

from understudy.domain import SHARE_ONE, Phase, Plan, Variant
from understudy.rollout import routing
from understudy.rollout.policy import Policy, parse

KEYS = [f"N{i}" for i in range(20_000)]


def plan(weight: int, salt: int = 7, shadow: int = SHARE_ONE) -> Plan:
    return Plan(Phase.CANARY, weight, shadow, salt)


def test_another_process_agrees_on_every_key() -> None:
    """Nothing in the hash depends on the process: no PYTHONHASHSEED, no start time."""
    code = (
        "from understudy.rollout import routing as route; from understudy.domain import *; "
        "p = Plan(Phase.CANARY, 2500, 0, 7); "
        "print(''.join('1' if route.variant(p, f'N{i}') is Variant.CANDIDATE else '0' for i in range(20000)))"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()

    mine = "".join("1" if routing.variant(plan(2_500), key) is Variant.CANDIDATE else "0" for key in KEYS)
    assert told == mine


EXAMPLE = Path(__file__).parents[3] / "rollout.yaml"


def example() -> Policy:
    return parse(EXAMPLE.read_text(encoding="utf-8"))


def test_the_key_is_the_same_in_every_process() -> None:
    """Another hash seed, another process, the same 16 hex digits."""
    code = (
        "import sys; from understudy.rollout.policy import parse; "
        f"print(parse(open({str(EXAMPLE)!r}, encoding='utf-8').read()).key('p', 'c'))"
    )
    key = example().key("p", "c")
    told = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env={"PYTHONHASHSEED": "17"}
    )

    assert told.stdout.strip() == key
    assert len(key) == 16
    assert int(key, 16) < 2**64
