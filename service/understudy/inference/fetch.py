"""Downloads models from an object store or a web server, checks them against the rollout file's digest, and caches them.

A URL names one object and the SHA-256 of its bytes, `s3://bucket/flights/poc/card.json#sha256=…`. The object is a card,
whose digest covers the `model.onnx` beside it, or a bare `.onnx` file. External data files are downloaded from the same
folder; the digest covers them (`cards.model_digest`). Each model has a cache folder named after its digest:

::

    MODEL_CACHE_DIR/sha256-<hex>/   card.json and model.onnx, or a bare file under its own name; external data files

An entry is complete or absent, and each process that opens it checks it again. To make room, entries that no process uses
are removed, the least recently used first. The only importer of obstore, which is an optional extra.
"""

import contextlib
import datetime
import fcntl
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pydantic
import structlog

from understudy.errors import ConfigurationError
from understudy.inference.cards import CARD_FILE, MODEL_FILE, Card, digest_of, model_digest
from understudy.inference.graph import external_files

CHUNK_BYTES = 2**20
CONNECT_S = 5
RETRIES = 5
RETRY_S = 60
"""How long requests for one object are retried; an interrupted download resumes where it stopped."""
PROGRESS_S = 5.0
"""Seconds between two progress lines of a download, if stderr is no terminal."""
UNFINISHED = ".fetching-"
_CREDENTIALS = {
    "s3": "AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, or a role of the machine or pod; AWS_SKIP_SIGNATURE=true: a public bucket",
    "gs": "GOOGLE_APPLICATION_CREDENTIALS, or the pod's own account; GOOGLE_SKIP_SIGNATURE=true: a public bucket",
    "az": "AZURE_STORAGE_ACCOUNT_NAME with AZURE_STORAGE_ACCOUNT_KEY, or a managed identity",
}
_METADATA = ("169.254.169.254", "metadata.google.internal", "169.254.170.2")
"""Metadata servers that are asked for credentials if the environment has none; an error from one means that there are none."""


class ModelCache:
    """A folder of downloaded models. Blocks; safe for several processes on one machine or on a shared volume.

    Args:
        folder: the cache folder; created with the first download.
        max_bytes: the most bytes in the folder.
        timeout_s: how long a server may send nothing before the download fails.
    """

    def __init__(self, folder: Path, *, max_bytes: int, timeout_s: float) -> None:
        self._folder, self._max_bytes, self._timeout_s = folder, max_bytes, timeout_s

    def local(self, source: str) -> str:
        """A model's path on this machine, for `onnx.resolve`. A model with a URL is downloaded unless it is cached.

        Raises:
            ConfigurationError: the model cannot be downloaded, or its digest is wrong. The message says what to do.
        """
        if "://" not in source:
            return source
        url, _, digest = source.partition("#sha256=")
        name = url.rpartition("/")[2]  # a bare file's name is the model's name
        entry = self._folder / f"sha256-{digest}"
        try:
            self._folder.mkdir(parents=True, exist_ok=True)
            with _locked(self._folder / ".lock"):
                if not _complete(entry, name, digest):
                    _release(entry)
                    shutil.rmtree(entry, ignore_errors=True)
                    self._fetch(url, name, digest, entry)
                entry.touch()
                _hold(entry)
        except OSError as error:
            raise ConfigurationError(
                f"{url}: cannot be stored in {self._folder} ({error.strerror or error}); set "
                "UNDERSTUDY_MODEL_CACHE_DIR to another folder"
            ) from error
        return str(entry if name == CARD_FILE else entry / name)

    def _fetch(self, url: str, name: str, digest: str, entry: Path) -> None:
        """Download an entry completely or not at all. The caller holds the folder's lock, so unfinished folders have no owner."""
        for left in self._folder.glob(UNFINISHED + "*"):
            shutil.rmtree(left, ignore_errors=True)
        work = Path(tempfile.mkdtemp(dir=self._folder, prefix=UNFINISHED))
        try:
            model, beside, wanted = work / name, url, f"sha256:{digest}"
            self._download(url, work / name)
            if name == CARD_FILE:
                _check(url, digest_of(work / CARD_FILE), wanted)
                try:
                    card = Card.model_validate_json((work / CARD_FILE).read_bytes())
                except pydantic.ValidationError as error:
                    raise ConfigurationError(f"{url} is not a model card: {error}") from error
                model, beside, wanted = work / MODEL_FILE, url.removesuffix(CARD_FILE) + MODEL_FILE, card.digest
                self._download(beside, model)
            for each in external_files(model.read_bytes(), beside):
                (work / each).parent.mkdir(parents=True, exist_ok=True)
                self._download(f"{beside.rpartition('/')[0]}/{each}", work / each)
            _check(beside, model_digest(model), wanted)
            work.chmod(0o755)
            work.rename(entry)
        finally:
            shutil.rmtree(work, ignore_errors=True)

    def _download(self, url: str, to: Path) -> None:
        base, _, name = url.rpartition("/")
        with _explained(url):
            result = _get(base, name, self._timeout_s)
            size = int(result.meta["size"])
            self._make_room(url, size)
            with to.open("wb") as file, _progress(url, size) as report:
                for chunk in result.stream(min_chunk_size=CHUNK_BYTES):
                    file.write(chunk)
                    if file.tell() > size:  # a server that sends more than announced must not fill the disk
                        break
                    report(file.tell())
        _log("fetched", model=url, bytes=size)

    def _make_room(self, url: str, size: int) -> None:
        """Remove unused entries, the least recently used first, until `size` more bytes fit.

        Raises:
            ConfigurationError: they do not fit.
        """
        entries = sorted(self._folder.glob("sha256-*"), key=lambda path: path.stat().st_mtime)
        kept = sum(map(_bytes_of, self._folder.iterdir()))
        for path in entries:
            if kept + size <= self._max_bytes:
                return
            if not _held(path):
                kept -= _bytes_of(path)
                shutil.rmtree(path)
                _log("a model was removed from the cache, to make room for another", entry=path.name)
        if kept + size > self._max_bytes:
            raise ConfigurationError(
                f"{url} has {size:,} bytes, and {kept:,} of the {self._max_bytes:,} that {self._folder} may have are in use; "
                "UNDERSTUDY_MODEL_CACHE_MAX_MIB sets how much that is"
            )


def _get(base: str, name: str, timeout_s: float) -> Any:
    try:
        import obstore
        from obstore.store import from_url
    except ImportError as error:
        raise ConfigurationError(
            f"{base}/{name}: models from a URL need obstore: `pip install 'understudy[objects]'`"
        ) from error
    # The digest is checked, so the only risk of plain HTTP is that others can read the model.
    options: Any = {
        "connect_timeout": f"{CONNECT_S}s",
        "read_timeout": f"{timeout_s:g}s",
        "timeout": "1 day",
        "allow_http": True,
    }
    store = from_url(
        base,
        client_options=options,
        retry_config={"max_retries": RETRIES, "retry_timeout": datetime.timedelta(seconds=RETRY_S)},
    )
    return obstore.get(store, name)


@contextlib.contextmanager
def _explained(url: str) -> Iterator[None]:
    """Turn errors of the object store into messages that say what to do."""
    try:
        yield
    except FileNotFoundError as error:  # which obstore raises for its NotFound
        if error.errno is not None:
            raise  # a file on this machine
        raise ConfigurationError(f"{url} does not exist; check the path, and that the model was uploaded") from error
    except Exception as error:
        if not type(error).__module__.startswith("obstore"):
            raise
        why = str(error).partition("\n\nDebug source")[0].strip()
        needed = _CREDENTIALS.get(urlsplit(url).scheme, "none that this service could send")
        if any(place in why for place in _METADATA):
            raise ConfigurationError(f"{url}: no credentials were found: {needed}") from error
        if type(error).__name__ in {"PermissionDeniedError", "UnauthenticatedError"}:
            raise ConfigurationError(f"{url}: the credentials were rejected ({why[:500]}); needed: {needed}") from error
        raise ConfigurationError(f"{url} cannot be fetched: {why[:500]}") from error


@contextlib.contextmanager
def _progress(url: str, size: int) -> Iterator[Callable[[int], None]]:
    """A callback for the number of received bytes: it shows a progress bar on a terminal, and log lines otherwise."""
    if sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

        columns = (*Progress.get_default_columns(), DownloadColumn(), TransferSpeedColumn())
        with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
            task = bar.add_task(url.rpartition("/")[2], total=size)
            yield lambda done: bar.update(task, completed=done)
        return
    _log("fetching", model=url, bytes=size)
    logged_at = time.monotonic()

    def log_progress(done: int) -> None:
        nonlocal logged_at
        if time.monotonic() - logged_at >= PROGRESS_S:
            logged_at = time.monotonic()
            _log("fetching", model=url, percent=round(100 * done / max(size, 1)))

    yield log_progress


def _log(event: str, **values: object) -> None:
    """Log to stderr, because a command that downloads a model may print JSON to stdout."""
    structlog.wrap_logger(structlog.PrintLogger(sys.stderr)).info(event, **values)


def _check(url: str, there: str, wanted: str) -> None:
    """Check the digest of a download.

    Raises:
        ConfigurationError: the digest is another one.
    """
    if there != wanted:
        raise ConfigurationError(
            f"{url}: what is there is not what the rollout file (or the card beside it) names: its digest is {there}, "
            f"wanted is {wanted}. Nothing was kept. Upload the right file, or name the other digest"
        )


def _complete(entry: Path, name: str, digest: str) -> bool:
    """Whether an entry is complete and has the right digest."""
    try:
        if name != CARD_FILE:
            return model_digest(entry / name) == f"sha256:{digest}"
        card = Card.model_validate_json((entry / CARD_FILE).read_bytes())
        return digest_of(entry / CARD_FILE) == f"sha256:{digest}" and model_digest(entry / MODEL_FILE) == card.digest
    except (OSError, pydantic.ValidationError, ConfigurationError):
        return False


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file, among all processes."""
    with path.open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            _log("waiting for another process that downloads a model", folder=str(path.parent))
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


_held_here: dict[Path, int] = {}


def _hold(entry: Path) -> None:
    """Keep an entry from being removed while this process lives, because `undo` may open it again."""
    if entry not in _held_here:
        _held_here[entry] = os.open(entry, os.O_RDONLY | os.O_DIRECTORY)
        fcntl.flock(_held_here[entry], fcntl.LOCK_SH)


def _release(entry: Path) -> None:
    if entry in _held_here:
        os.close(_held_here.pop(entry))


def _held(entry: Path) -> bool:
    if entry in _held_here:
        return True
    descriptor = os.open(entry, os.O_RDONLY | os.O_DIRECTORY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    finally:
        os.close(descriptor)
    return False


def _bytes_of(path: Path) -> int:
    return sum(each.stat().st_size for each in path.rglob("*") if each.is_file()) if path.is_dir() else 0
