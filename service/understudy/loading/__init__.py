"""Reads the rollout file and opens the models that it names."""

import contextlib
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path

import pydantic_core

from understudy.domain import Variant
from understudy.errors import ConfigurationError, StoreLost
from understudy.inference import bentoml_store
from understudy.inference.cards import Card
from understudy.inference.decoding import Columns, Field
from understudy.inference.devices import GpuOptions, cpu_quota
from understudy.inference.fetch import ModelCache
from understudy.inference.locate import resolve
from understudy.inference.mapping import check_fit, check_names
from understudy.inference.names import ModelNames, names_of
from understudy.inference.onnx import FOR_ITS_CARD, EngineOptions, OnnxEngine, named
from understudy.inference.tasks import fitted, mismatch
from understudy.loading.trial import Untried, tried_one
from understudy.records.pairs import incomparable, judged_by_agreement
from understudy.rollout import policy as rollout_file
from understudy.rollout.policy import Policy
from understudy.runtime import started
from understudy.settings import Settings

STORE_FILE = "store"
"""A file in the run folder with the identity of the store that this service uses."""


def load_policy(settings: Settings, *, for_a_clip: bool = False) -> Policy:
    """Read the rollout file.

    Args:
        for_a_clip: as in `policy.parse`.

    Raises:
        ConfigurationError: the file is missing or does not fit its schema.
    """
    path, text = rollout_text(settings)
    policy = rollout_file.parse(text, str(path), for_a_clip=for_a_clip)
    sources = {name: _placed(getattr(policy, name), path.parent) for name in ("primary", "candidate")}
    return policy.model_copy(update=sources)


def candidate_away() -> str:
    """In a service's process: why the candidate is not opened, since it hung or died when it was tried; empty if it is."""
    return configuration.away if (configuration := started.read()) is not None else ""


def served_policy(settings: Settings) -> Policy:
    """Like `load_policy`, for a service's process: without a candidate that is away and of which nothing is known."""
    policy, configuration = load_policy(settings), started.read()
    known = configuration is None or configuration.expected(Variant.CANDIDATE) is not None
    return policy if known or not candidate_away() else alone(policy)


def alone(policy: Policy) -> Policy:
    """The policy without its candidate."""
    return policy.model_copy(update={"candidate": None, "steps": []})


def start_policy(settings: Settings) -> Policy:
    """Like `load_policy`. In a supervisor, also pass the text on, so that later changes of the file do not affect its processes.

    The same holds for the versions of `bentoml:` tags: a model that is stored later is served from the next start on.

    Raises:
        ConfigurationError: as for `load_policy`, or the file is too large.
    """
    if started.CHILD not in os.environ:
        path, text = rollout_text(settings)
        policy = rollout_file.parse(text, str(path))
        named = [s for s in (policy.primary, policy.candidate) if s is not None and s.startswith(bentoml_store.PREFIX)]
        started.hand_on(path, text, {source: bentoml_store.fixed(source) for source in named})
    return load_policy(settings)


def rollout_text(settings: Settings) -> tuple[Path, str]:
    """The rollout file's path and text; in a service's process, as its supervisor read them.

    Raises:
        ConfigurationError: the file cannot be read.
    """
    if (configuration := started.read()) is not None:
        return Path(configuration.file), configuration.text
    path = rollout_path(settings)
    try:
        return path, path.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise ConfigurationError(f"the rollout file {path} is not UTF-8: {error}") from error
    except OSError as error:
        raise ConfigurationError(
            f"the rollout file {path} cannot be read ({error.strerror}); name one with UNDERSTUDY_ROLLOUT_FILE, or make "
            "one with `understudy init POC.onnx CANDIDATE.onnx`"
        ) from error


def rollout_path(settings: Settings) -> Path:
    """The rollout file's path: as configured, or beside the package, for a Bento that is served from another folder."""
    path = settings.rollout_file
    if path.is_absolute() or path.exists():
        return path
    package = Path(__file__).parents[1]
    # `service/understudy/` in a checkout and in a Bento, `understudy/` in an image.
    return next((file for folder in (package.parents[1], package.parent) if (file := folder / path).exists()), path)


def _placed(source: str | None, folder: Path) -> str | None:
    """A model's path, relative to the working folder or else to the rollout file's folder; a tag with its version.

    In a service's processes, the version is the one that the tag meant when the service started.
    """
    if source is not None and source.startswith(bentoml_store.PREFIX):
        return started.tags().get(source) or bentoml_store.fixed(source)
    if source is None or "://" in source or Path(source).exists():
        return source
    return str(folder / source) if (folder / source).exists() else source


def run_dir(settings: Settings) -> Path:
    """The folder of one running service, for metrics and readiness files. Its name is the supervisor's process id."""
    return settings.state_dir.absolute() / "run" / str(started.supervisor())


def known_store(settings: Settings) -> str | None:
    """The `uuid` of the store that this service's processes opened; None before one has.

    Raises:
        StoreLost: the run folder was removed while the service runs, and the `uuid` with it.
    """
    try:
        return (run_dir(settings) / STORE_FILE).read_text(encoding="ascii")
    except OSError:
        configuration = started.read()
        if configuration is not None and configuration.cards and not Path(configuration.cards).exists():
            raise StoreLost(
                f"the folder {settings.state_dir.absolute()} was removed while the service runs; restart the service to begin a "
                "new store"
            ) from None
        return None


def store_was_open(settings: Settings) -> bool:
    """Whether a process of this service has opened its store before."""
    try:
        return known_store(settings) is not None
    except StoreLost:
        return True


def note_store(settings: Settings, uuid: str) -> None:
    """Record which store this service uses, for its other processes."""
    file = run_dir(settings) / STORE_FILE
    with contextlib.suppress(FileExistsError):
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("x", encoding="ascii") as new:
            new.write(uuid)


def private_metrics_dir(settings: Settings) -> None:
    """Make the workers write their metrics files into this service's own folder. Call it in the supervisor, before workers start.

    BentoML uses one folder per user and empties it at each start, so a second service on the machine would delete the
    metrics of the first.
    """
    from bentoml._internal.configuration.containers import BentoMLContainer

    root = settings.state_dir.absolute() / "run"
    for left in root.glob("*") if root.is_dir() else ():
        if left.name.isdigit() and not Path(f"/proc/{left.name}").exists():
            shutil.rmtree(left, ignore_errors=True)
    BentoMLContainer.prometheus_multiproc_dir.set(str(run_dir(settings) / "metrics"))


def fields_of(primary: Card, candidate: Card | None) -> list[Field]:
    """The fields of a request row: the primary's inputs, then those that only the candidate has, which are optional.

    Raises:
        ConfigurationError: the two models disagree on the kind of a field.
    """
    fields = {spec.name: Field(spec.name, spec.dtype, spec.row_shape, spec.nullable) for spec in primary.inputs}
    for spec in candidate.inputs if candidate else ():
        known = fields.get(spec.name)
        if known is None:
            fields[spec.name] = Field(spec.name, spec.dtype, spec.row_shape, spec.nullable, required=False)
        elif (known.dtype == "string") != (spec.dtype == "string"):
            raise ConfigurationError(f"primary and candidate disagree on {spec.name}: {known.dtype} and {spec.dtype}")
    return list(fields.values())


def check_keys(policy: Policy, fields: Sequence[Field]) -> None:
    """Check that `route_by` and `unit` name fields with one value per row.

    Raises:
        ConfigurationError: one of them names an array.
    """
    arrays = {field.name: field for field in fields if not field.scalar}
    for key, name in (("route_by", policy.route_by), ("unit", policy.unit)):
        if name in arrays:
            raise ConfigurationError(
                f"`{key}: {name}` names an input that takes {arrays[name].describe()}; name a field with one value per row, "
                "or one that no model reads, such as a customer's id"
            )


def inputs_of(card: Card, positions: Mapping[str, int]) -> Columns:
    """The builder of a model's input columns from request rows.

    Args:
        positions: each field's position in a row.
    """
    return Columns([Field(s.name, s.dtype, s.row_shape, s.nullable) for s in card.inputs], positions)


def thread_count(settings: Settings, policy: Policy) -> int:
    """ONNX Runtime threads per process: the CPU quota divided among the processes that run models, at least one."""
    processes = (settings.workers or policy.workers) + (1 if policy.candidate and not settings.candidate_url else 0)
    return settings.threads or max(1, int(cpu_quota()) // processes)


def local(source: str, settings: Settings) -> str:
    """A model's path on this machine. A model with a URL is downloaded unless the cache has it.

    Raises:
        ConfigurationError: the model cannot be downloaded, or its digest differs from the one in the URL.
    """
    folder = (settings.model_cache_dir or settings.state_dir / "models").absolute()
    cache = ModelCache(folder, max_bytes=settings.model_cache_max_mib * 2**20, timeout_s=settings.model_fetch_timeout_s)
    return cache.local(source)


def model_names(policy: Policy, variant: Variant) -> ModelNames:
    """How the service calls the inputs and outputs of one of the rollout file's models."""
    return names_of(policy.inputs, policy.outputs, candidate=variant is Variant.CANDIDATE)


def open_engine(
    source: str,
    settings: Settings,
    policy: Policy,
    expected: str | None = None,
    *,
    variant: Variant = Variant.PRIMARY,
) -> OnnxEngine:
    """Load and warm up one of the rollout file's models.

    Args:
        variant: which one it is. The candidate gets the primary's names of inputs and outputs.
        expected: the digest that the model must have; None accepts any.

    Raises:
        ModelChanged: the model has another digest.
        ConfigurationError: the model cannot be served, or is the candidate that hung or died when it was tried.
    """
    if variant is Variant.CANDIDATE and (why := candidate_away()):
        raise ConfigurationError(why)
    engine = OnnxEngine(local(source, settings), expected=expected, **engine_options(settings, policy, variant))
    engine.card = fitted(engine.card, policy.task)
    return engine


def untried(source: str, settings: Settings, policy: Policy, variant: Variant) -> Untried:
    """One of the rollout file's models, to be tried as `open_engine` opens it.

    Raises:
        ConfigurationError: the model cannot be downloaded.
    """
    return Untried(local(source, settings), engine_options(settings, policy, variant))


def engine_options(settings: Settings, policy: Policy, variant: Variant) -> EngineOptions:
    """How this service opens one of the rollout file's models."""
    return {
        "device": policy.device,
        "threads": thread_count(settings, policy),
        "warm_max_rows": settings.batch_max_rows,
        "classes": policy.classes,
        "task": policy.task,
        "names": model_names(policy, variant),
        "gpu": gpu_options(policy),
    }


def gpu_options(policy: Policy) -> GpuOptions:
    """How the rollout file says to use a GPU."""
    return GpuOptions(**policy.device_options.model_dump())


def open_candidate(settings: Settings, policy: Policy) -> OnnxEngine:
    """Load and warm up the candidate that this service was started with.

    Raises:
        ModelChanged: the file is another model now.
        ConfigurationError: the model cannot be served.
    """
    assert policy.candidate is not None
    configuration = started.read()
    expected = configuration.expected(Variant.CANDIDATE) if configuration is not None else None
    return open_engine(policy.candidate, settings, policy, expected, variant=Variant.CANDIDATE)


def hand_on_models(settings: Settings, cards: Mapping[Variant, Card], away: str = "") -> None:
    """In the supervisor, pass the checked models' cards to its processes, which then reject other models.

    Args:
        away: why the candidate must not be opened; empty if it may be.

    Raises:
        ConfigurationError: the rollout file was changed since the check.
    """
    file = run_dir(settings) / "cards.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(
        pydantic_core.to_json({variant.value: card.model_dump(mode="json") for variant, card in cards.items()})
    )
    digests = {variant.value: card.digest for variant, card in cards.items()}
    started.hand_on_models(rollout_text(settings)[1], digests, file, away)


def hand_on_candidate(settings: Settings, policy: Policy) -> None:
    """Like `hand_on_models`, for the supervisor of a candidate that is served alone; does nothing if that was done already.

    Raises:
        TrialFailed: the candidate hung, died or ran out of memory when it was tried.
        ConfigurationError: the candidate cannot be read, or the rollout file was changed since the check.
    """
    if not started.models_handed_on() and policy.candidate is not None:
        trial = tried_one(untried(policy.candidate, settings, policy, Variant.CANDIDATE), settings)
        hand_on_models(settings, {Variant.CANDIDATE: fitted(trial.card, policy.task)})


def read_cards(policy: Policy, settings: Settings) -> dict[Variant, Card]:
    """The cards of the rollout file's models; in a service's process, those that its supervisor checked.

    Raises:
        ConfigurationError: a model cannot be read.
    """
    if (start := started.read()) is not None and start.cards and Path(start.cards).exists():
        documents: dict[str, object] = pydantic_core.from_json(Path(start.cards).read_bytes())
        return {Variant(name): Card.model_validate(card) for name, card in documents.items()}
    primary = _card_of(policy, settings, Variant.PRIMARY)
    if policy.candidate is None:
        check_names(primary, None, policy.inputs, policy.outputs)
        return {Variant.PRIMARY: primary}
    candidate = _card_of(policy, settings, Variant.CANDIDATE)
    check_together(policy, primary, candidate)
    return {Variant.PRIMARY: primary, Variant.CANDIDATE: candidate}


def check_together(policy: Policy, primary: Card, candidate: Card) -> None:
    """Check that one request fits both models, that callers get the same outputs of both, and that their answers can be compared.

    Raises:
        ConfigurationError: they cannot, with the reason.
    """
    check_names(primary, candidate, policy.inputs, policy.outputs)
    check_fit(primary, candidate, policy.inputs)
    why = incomparable(primary, candidate) if judged_by_agreement(policy) else mismatch(primary, candidate)
    if why is not None and policy.task != "other":
        raise ConfigurationError(why)


def rollout_key(policy: Policy, cards: Mapping[Variant, Card]) -> str:
    """The id under which the store keeps the evidence on these models under this policy."""
    candidate = cards.get(Variant.CANDIDATE)
    return policy.key(cards[Variant.PRIMARY].digest, candidate.digest if candidate else None)


def card_beside(policy: Policy, settings: Settings, variant: Variant) -> Card | None:
    """The card that somebody wrote for a model; None if there is none, or it has to be completed by opening the model."""
    given = policy.primary if variant is Variant.PRIMARY else policy.candidate
    assert given is not None
    _, card = resolve(local(given, settings))
    if card is None or not card.has_layout:
        return None
    return fitted(named(model_names(policy, variant).card(card), policy.classes), policy.task)


def _card_of(policy: Policy, settings: Settings, variant: Variant) -> Card:
    """A model's card. The graph of a bare file, or of one whose card has no layout, is opened for it in a process of its own."""
    if (card := card_beside(policy, settings, variant)) is not None:
        return card
    given = policy.primary if variant is Variant.PRIMARY else policy.candidate
    assert given is not None
    options = engine_options(settings, policy, variant) | FOR_ITS_CARD
    model = Untried(local(given, settings), options)
    return fitted(tried_one(model, settings).card, policy.task)
