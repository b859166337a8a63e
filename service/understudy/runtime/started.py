"""What a service was started with: the text of its rollout file and its models' digests and cards.

The supervisor reads the rollout file and checks the models once, and hands both to its processes in their environment and in a file
of the service's run folder. So a process that is started again later, when somebody has edited the rollout file or copied other
models over the old ones, obeys the same policy, and refuses another model.
"""

import base64
import os
import zlib
from collections.abc import Mapping
from pathlib import Path

import msgspec

from understudy.errors import ConfigurationError

VARIABLE = "UNDERSTUDY_STARTED_WITH"
VARIABLE_MAX_BYTES = 120_000
"""The kernel's limit for one variable is 131,072 bytes."""
CHILD = "BENTOML_RUNNER_MAP"
"""What BentoML sets in the environment of its supervisor's processes."""


class Started(msgspec.Struct, frozen=True):
    """What the supervisor read.

    Attributes:
        supervisor: its process id; file: the rollout file's absolute path; text: what was in it.
        digests: of the models that were checked, by variant; empty before that.
        cards: a file with the models' cards, as JSON by variant; empty where there is none.
    """

    supervisor: int
    file: str
    text: str
    digests: dict[str, str] = {}
    cards: str = ""

    def expected(self, variant: str) -> str | None:
        """The digest that a variant's model must have; None: it was not checked."""
        return self.digests.get(variant)


def supervisor() -> int:
    """The process id of this service's supervisor, in each of its processes."""
    return os.getppid() if CHILD in os.environ else os.getpid()


def read() -> Started | None:
    """In a process of a service: what its supervisor read. None in supervisors and commands."""
    packed = os.environ.get(VARIABLE)
    if packed is None or CHILD not in os.environ:
        return None
    found = _unpacked(packed)
    return (
        found if found.supervisor == supervisor() else None
    )  # else it is of a service that started this one's supervisor


def hand_on(file: Path, text: str) -> None:
    """In the supervisor: let its processes have this rollout file.

    Raises:
        ConfigurationError: it is too large.
    """
    _set(Started(supervisor(), str(file.absolute()), text))


def hand_on_models(text: str, digests: Mapping[str, str], cards: Path) -> None:
    """In the supervisor, before its processes start: let them have the models that were checked.

    Args:
        text: the rollout file that they were checked with.

    Raises:
        ConfigurationError: the rollout file was edited meanwhile.
    """
    found = _unpacked(os.environ[VARIABLE])
    if found.text != text:
        raise ConfigurationError(f"the rollout file {found.file} was changed during the start; start again")
    _set(msgspec.structs.replace(found, digests=dict(digests), cards=str(cards)))


def models_handed_on() -> bool:
    """In the supervisor: whether its processes know the models already."""
    return bool(_unpacked(os.environ[VARIABLE]).digests)


def _unpacked(packed: str) -> Started:
    return msgspec.json.decode(zlib.decompress(base64.b64decode(packed)), type=Started)


def _set(found: Started) -> None:
    packed = base64.b64encode(zlib.compress(msgspec.json.encode(found))).decode()
    if len(packed) > VARIABLE_MAX_BYTES:
        raise ConfigurationError(
            f"the rollout file {found.file} has {len(found.text):,} characters, more than a service can hand to its processes; "
            "shorten its comments"
        )
    os.environ[VARIABLE] = packed
