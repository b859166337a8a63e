"""Detects changes of the files that a service was started from; `GET /rollout` reports them.

A service keeps what it read at its start (`understudy.runtime.started`). If someone edits the rollout file or replaces a
model, the report says that this has no effect yet, and what will happen when a process restarts.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

import structlog

from understudy.domain import Variant
from understudy.errors import UnderstudyError
from understudy.inference.cards import Card, files_of, model_digest
from understudy.inference.graph import external_files
from understudy.inference.locate import locate
from understudy.loading import local, rollout_text
from understudy.rollout.policy import Policy
from understudy.settings import Settings

log = structlog.get_logger(__name__)

ROLLOUT = "rollout"
POLICY_CHANGED = (
    "it was changed since the service was started. The service keeps the version that it read then; restart it to apply "
    "the change"
)
POLICY_GONE = (
    "it cannot be read any more. The service keeps the version that it read at its start; restore the file before the "
    "next start"
)
MODEL_CHANGED = (
    "it is not the model that this service was started with. The loaded model stays in use; a process that restarts will reject "
    "the new file. Restore the old file, or restart the service to serve the new one"
)
FileMark: TypeAlias = tuple[str, int, int, int]
"""A file's path, size, modification time in ns, and inode."""


@dataclass(frozen=True, slots=True)
class Changed:
    """A file that has changed since the start.

    Attributes:
        role: `rollout`, `primary` or `candidate`.
        file: its path.
        problem: what changed, what it means, and what to do.
    """

    role: str
    file: str
    problem: str


class StartFiles:
    """The files that a service was started from. `look` blocks; call it from one thread at a time.

    Args:
        rollout: the rollout file.
        text: its content at the start.
        models: the path of each variant's model on this machine.
        cards: the models' cards at the start.

    Attributes:
        changed: the changed files, as of the last `look`.
    """

    def __init__(self, rollout: Path, text: str, models: Mapping[Variant, str], cards: Mapping[Variant, Card]) -> None:
        looks: dict[str, tuple[Path, Callable[[Path], str | None]]] = {
            ROLLOUT: (rollout, functools.partial(_policy_problem, text=text))
        }
        for variant, source in models.items():
            looks[variant.value] = (Path(source), functools.partial(_model_problem, wanted=cards[variant].digest))
        self._looks = looks
        self._files: dict[str, list[Path]] = {}  # by role: the files whose marks show a possible change
        self._seen: dict[str, tuple[list[FileMark | None], str | None]] = {}
        self.changed: list[Changed] = []

    def look(self) -> list[Changed]:
        """The changed files. A file is read only if its size, time or inode differs from the last look."""
        changes = []
        for role, (path, problem_of) in self._looks.items():
            if role not in self._files:
                self._files[role] = [path] if role == ROLLOUT else _files_of(path)
            mark = [_stat(each) for each in self._files[role]]
            before = self._seen.get(role)
            problem = before[1] if before is not None and before[0] == mark else problem_of(path)
            self._seen[role] = (mark, problem)
            if problem is not None:
                changes.append(Changed(role, str(path), problem))
        self.changed = changes
        return changes

    def look_and_log(self) -> dict[str, bool]:
        """Like `look`, and log each change once. Returns whether the file of each role has changed."""
        before = self.changed
        changes = self.look()
        for each in changes:
            if each not in before:
                log.warning("a file was changed", role=each.role, file=each.file, problem=each.problem)
        changed_roles = {each.role for each in changes}
        for role in dict.fromkeys(each.role for each in before if each.role not in changed_roles):
            log.info("a changed file was restored", role=role)
        return {role: role in changed_roles for role in self._looks}


def start_files(policy: Policy, settings: Settings, cards: Mapping[Variant, Card]) -> StartFiles:
    """The files that this service was started from. A model with a URL is checked in the cache."""
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
    """The files of a model, as far as they exist."""
    try:
        path, described = locate(source)
        beside = external_files(path.read_bytes(), str(path))
    except (UnderstudyError, OSError):
        return [source]
    return [path, *([files_of(described)[0]] if described else []), *(path.parent / name for name in beside)]


def _stat(path: Path) -> FileMark | None:
    try:
        status = path.stat()
    except OSError:
        return None
    return str(path), status.st_size, status.st_mtime_ns, status.st_ino
