"""Whether the files that a service was started from are still the same: looked at now and then, and told on `GET /rollout`.

A service goes on with what it read at its start (`understudy.runtime.started`). Somebody who edits the rollout file or copies
another model over the old one should see that this has no effect yet, and what will happen when a process starts again.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import structlog

from understudy.domain import Variant
from understudy.errors import UnderstudyError
from understudy.inference.cards import CARD_FILE, Card, model_digest
from understudy.inference.graph import external_files
from understudy.inference.onnx import locate
from understudy.loading import local, rollout_text
from understudy.rollout.policy import Policy
from understudy.settings import Settings

log = structlog.get_logger(__name__)

ROLLOUT = "rollout"
POLICY_CHANGED = (
    "it was changed since the service was started. The service goes on with what it read then; restart it to apply "
    "the change"
)
POLICY_GONE = (
    "it cannot be read any more. The service goes on with what it read at its start; put it back before the next start"
)
MODEL_CHANGED = (
    "it is not the model that this service was started with. What is loaded stays; a process that has to load it again refuses it. "
    "Restore the file, or restart the service to serve the new one"
)


@dataclass(frozen=True, slots=True)
class Changed:
    """A file that is not what it was.

    Attributes:
        role: `rollout`, `primary` or `candidate`.
    """

    role: str
    file: str
    problem: str


class StartFiles:
    """The files of the start. `look` blocks, and is called by one thread at a time.

    Args:
        rollout: the rollout file; text: what was in it at the start.
        models: where each variant's model lies on this machine; cards: what was read of it at the start.

    Attributes:
        changed: what the last look found.
    """

    def __init__(self, rollout: Path, text: str, models: Mapping[Variant, str], cards: Mapping[Variant, Card]) -> None:
        looks: dict[str, tuple[Path, Callable[[Path], str | None]]] = {
            ROLLOUT: (rollout, functools.partial(_policy_problem, text=text))
        }
        for variant, source in models.items():
            looks[variant.value] = (Path(source), functools.partial(_model_problem, wanted=cards[variant].digest))
        self._looks = looks
        self._files: dict[str, list[Path]] = {}  # those that tell whether something may have changed
        self._seen: dict[str, tuple[Any, str | None]] = {}
        self.changed: list[Changed] = []

    def look(self) -> list[Changed]:
        """What has changed. A file is read only when its size, time or inode has changed since the last look."""
        found = []
        for role, (path, problem_of) in self._looks.items():
            if role not in self._files:
                self._files[role] = [path] if role == ROLLOUT else _files_of(path)
            mark = [_stat(each) for each in self._files[role]]
            before = self._seen.get(role)
            problem = before[1] if before is not None and before[0] == mark else problem_of(path)
            self._seen[role] = (mark, problem)
            if problem is not None:
                found.append(Changed(role, str(path), problem))
        self.changed = found
        return found

    def look_and_tell(self) -> dict[str, bool]:
        """As `look`, with a line in the log for each change; whether each role's file has changed."""
        before = self.changed
        found = self.look()
        for each in found:
            if each not in before:
                log.warning("a file was changed", role=each.role, file=each.file, problem=each.problem)
        gone = {each.role for each in found}
        for role in dict.fromkeys(each.role for each in before if each.role not in gone):
            log.info("a file is that of the start again", role=role)
        return {role: role in gone for role in self._looks}


def start_files(policy: Policy, settings: Settings, cards: Mapping[Variant, Card]) -> StartFiles:
    """The files of this service. A model that was fetched by URL is looked at where it is kept."""
    rollout, text = rollout_text(settings)
    sources = {Variant.PRIMARY: policy.primary} | ({Variant.CANDIDATE: policy.candidate} if policy.candidate else {})
    models = {variant: local(source, settings) for variant, source in sources.items()}
    return StartFiles(rollout, text, models, cards)


def _policy_problem(path: Path, *, text: str) -> str | None:
    try:
        return None if path.read_text(encoding="utf-8") == text else POLICY_CHANGED
    except (OSError, UnicodeDecodeError):
        return POLICY_GONE


def _model_problem(source: Path, *, wanted: str) -> str | None:
    try:
        path, _ = locate(source)
        return None if model_digest(path) == wanted else MODEL_CHANGED
    except UnderstudyError as error:
        return f"{MODEL_CHANGED} ({error.detail})"


def _files_of(source: Path) -> list[Path]:
    """The files that a model is made of, as far as they are there."""
    try:
        path, folder = locate(source)
        beside = external_files(path.read_bytes(), str(path))
    except (UnderstudyError, OSError):
        return [source]
    return [path, *([folder / CARD_FILE] if folder else []), *(path.parent / name for name in beside)]


def _stat(path: Path) -> tuple[str, int, int, int] | None:
    try:
        found = path.stat()
    except OSError:
        return None
    return str(path), found.st_size, found.st_mtime_ns, found.st_ino
