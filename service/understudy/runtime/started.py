"""What a service was started with: the text of its rollout file, and the digests and cards of its models.

The supervisor reads the rollout file and checks the models once. It passes both to its processes in their environment and in a file
of the service's run folder. So a process that is restarted after somebody has edited the rollout file or replaced a model uses the
same policy, and rejects the other model.
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
"""Set by BentoML in the environment of its supervisor's processes."""


class Started(msgspec.Struct, frozen=True):
    """What the supervisor has read.

    Attributes:
        supervisor: its process id.
        file: the absolute path of the rollout file.
        text: the content of the rollout file.
        digests: of the checked models, by variant; empty before the check.
        tags: the sources of models with a tag of BentoML's store, and the same with the version that the tag meant.
        cards: the path of a file with the models' cards, as JSON by variant; empty if there is none.
        away: why the candidate is not opened; empty if it is.
    """

    supervisor: int
    file: str
    text: str
    digests: dict[str, str] = {}
    cards: str = ""
    tags: dict[str, str] = {}
    away: str = ""

    def expected(self, variant: str) -> str | None:
        """The digest that a variant's model must have; None if it was not checked."""
        return self.digests.get(variant)


def supervisor() -> int:
    """The process id of this service's supervisor, in each of its processes."""
    return os.getppid() if CHILD in os.environ else os.getpid()


def read() -> Started | None:
    """In a process of a service, what its supervisor has read; None in supervisors and commands."""
    packed = os.environ.get(VARIABLE)
    if packed is None or CHILD not in os.environ:
        return None
    started = _unpacked(packed)
    # Otherwise it belongs to a service that started this one's supervisor.
    return started if started.supervisor == supervisor() else None


def tags() -> Mapping[str, str]:
    """In a supervisor and its processes: the `bentoml:` sources of the rollout file, and which version each is served as."""
    packed = os.environ.get(VARIABLE)
    if packed is None:
        return {}
    started = _unpacked(packed)
    return started.tags if started.supervisor == supervisor() else {}


def hand_on(file: Path, text: str, tags: Mapping[str, str]) -> None:
    """In the supervisor: pass this rollout file, and the versions of its `bentoml:` sources, to its processes.

    Raises:
        ConfigurationError: the file is too large.
    """
    _set(Started(supervisor(), str(file.absolute()), text, tags=dict(tags)))


def hand_on_models(text: str, digests: Mapping[str, str], cards: Path, away: str = "") -> None:
    """In the supervisor, before its processes start: pass the checked models to them.

    Args:
        text: the content of the rollout file at the check.
        away: why the candidate must not be opened; empty if it may be.

    Raises:
        ConfigurationError: the rollout file was changed meanwhile.
    """
    started = _unpacked(os.environ[VARIABLE])
    if started.text != text:
        raise ConfigurationError(f"the rollout file {started.file} was changed during the start; start again")
    _set(msgspec.structs.replace(started, digests=dict(digests), cards=str(cards), away=away))


def models_handed_on() -> bool:
    """In the supervisor: whether the models were passed to its processes."""
    return bool(_unpacked(os.environ[VARIABLE]).digests)


def _unpacked(packed: str) -> Started:
    return msgspec.json.decode(zlib.decompress(base64.b64decode(packed)), type=Started)


def _set(started: Started) -> None:
    packed = base64.b64encode(zlib.compress(msgspec.json.encode(started))).decode()
    if len(packed) > VARIABLE_MAX_BYTES:
        raise ConfigurationError(
            f"the rollout file {started.file} has {len(started.text):,} characters, more than a service can hand to its processes; "
            "shorten its comments"
        )
    os.environ[VARIABLE] = packed
