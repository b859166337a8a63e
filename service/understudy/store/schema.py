"""The tables, as SQLAlchemy Core metadata. `migrations/` creates them; a test compares the two.

On PostgreSQL `observations` is partitioned by `seq` (see `partitions.py`), and `observation_keys` has the unique keys.

Every table has a key `rollout`, a small number for the rollout's text id in `rollouts`: as text in every row and index, the id took
a fifth of the file. Rows that are written once per prediction are kept small; see `observations`.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Dialect,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    TypeDecorator,
    UniqueConstraint,
    func,
    text,
)
from sqlalchemy import Text as _PlainText
from typing_extensions import override

metadata = MetaData(
    naming_convention={
        "pk": "pk_%(table_name)s",
        "fk": "fk_%(table_name)s_%(column_0_name)s",
        "uq": "uq_%(table_name)s_%(column_0_name)s",
        "ix": "ix_%(table_name)s_%(column_0_name)s",
    }
)

PENDING, MATCHED = "pending", "matched"
"""The states of a label: waiting for its observation, or joined to it."""


def escaped(words: str) -> str:
    r"""Text that PostgreSQL can store: it allows no NUL, which a caller may send in a name.

    >>> escaped("a\x00b") == "a\x1a0b", unescaped(escaped("\x1a0\x00")) == "\x1a0\x00"
    (True, True)
    """
    if "\x00" in words or "\x1a" in words:
        return words.replace("\x1a", "\x1a1").replace("\x00", "\x1a0")
    return words


def unescaped(words: str) -> str:
    """The inverse of `escaped`."""
    return words.replace("\x1a0", "\x00").replace("\x1a1", "\x1a") if "\x1a" in words else words


class _Escaped(TypeDecorator[str]):
    """PostgreSQL's text, with `escaped` on the way in and `unescaped` on the way out."""

    impl = _PlainText
    cache_ok = True

    @override
    def process_bind_param(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else escaped(value)

    @override
    def process_result_value(self, value: str | None, dialect: Dialect) -> str | None:
        return None if value is None else unescaped(value)


Text = _PlainText().with_variant(_Escaped(), "postgresql")

# SQLite numbers rows automatically only if the column's type is exactly INTEGER.
_Serial = BigInteger().with_variant(Integer, "sqlite")


def _rollout(*, primary_key: bool = False) -> Column[int]:
    return Column("rollout", Integer, ForeignKey("rollouts.id"), primary_key=primary_key, nullable=False)


def _answer(variant: str) -> list[Column[str] | Column[float]]:
    """One model's attempt. `label` and `probabilities` are JSON, so that 1, 1.0, true and "1" keep their types.

    Its `vector` is a later column, because it was added later.
    """
    return [
        Column(f"{variant}_status", Text, nullable=False),
        Column(f"{variant}_label", Text),
        Column(f"{variant}_score", Double),
        Column(f"{variant}_probabilities", Text),
        Column(f"{variant}_seconds", Double, nullable=False),
    ]


rollouts = Table(
    "rollouts",
    metadata,
    Column("id", Integer, primary_key=True),
    Column("name", Text, nullable=False, unique=True),
    # No observation of this rollout has a smaller `seq`: reading it from the start skips its predecessors' rows.
    Column("first_seq", BigInteger, nullable=False),
    # Batches of labels so far. There is one writer at a time, so all smaller numbers are committed.
    Column("receipts", BigInteger, nullable=False, server_default="0"),
)

plans = Table(
    "plans",
    metadata,
    _rollout(primary_key=True),
    Column("phase", Text, nullable=False),
    Column("weight", Integer, nullable=False),
    Column("shadow", Integer, nullable=False),
    Column("salt", Text, nullable=False),  # unsigned 64 bits do not fit into a database's integer
    Column("step", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("updated_at", Double, nullable=False),
    Column("trial", Integer, nullable=False, server_default="1"),
)

# Triggers (in the migrations) reject changes and deletions.
events = Table(
    "events",
    metadata,
    Column("id", _Serial, primary_key=True),
    _rollout(),
    Column("at", Double, nullable=False),
    Column("kind", Text, nullable=False),
    Column("actor", Text, nullable=False),
    Column("reason", Text, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("details", Text, nullable=False),
    sqlite_autoincrement=True,
)

observations = Table(
    "observations",
    metadata,
    Column("seq", _Serial, primary_key=True),
    # No foreign key: it would be looked up for each row, and rollouts are never removed.
    Column("rollout", Integer, nullable=False),
    Column("prediction_id", Text, nullable=False),
    Column("request_id", Text),  # NULL: the same as `prediction_id`, as in every request of one row
    Column("at", Double, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("variant", Text, nullable=False),
    Column("mode", Text, nullable=False),
    Column("share", Integer, nullable=False),
    Column("unit", Text),
    Column("fallback", Text),
    *_answer("primary"),
    *_answer("candidate"),
    Column("point", BigInteger),
    Column("primary_vector", Text),
    Column("candidate_vector", Text),
    Column("agrees", SmallInteger),
    Column("sampled", SmallInteger),  # NULL: the draw for rehearsals chose it
    Column("replay", Text),  # NULL: `at` is the service's clock
    Column("received_at", Double),  # NULL: the same as `at`
    # `rollout` comes second: if first, SQLite would read a rollout through this index and sort it by `seq`.
    # On PostgreSQL, a unique constraint over all partitions would have to include `seq`.
    UniqueConstraint("prediction_id", "rollout").ddl_if(dialect="sqlite"),
    sqlite_autoincrement=True,
)
arrived_at = func.coalesce(observations.c.received_at, observations.c.at)
"""When an observation arrived on the service's clock: what retention counts ages from."""
# SQLite has none: to keep it costs a twentieth of storing a row, and there the oldest rows are found by `seq`.
Index("ix_observations_arrived_at", arrived_at).ddl_if(dialect="postgresql")

# PostgreSQL only: which predictions are stored, and in which row.
postgres_metadata = MetaData(naming_convention=metadata.naming_convention)
observation_keys = Table(
    "observation_keys",
    postgres_metadata,
    Column("prediction_id", Text, primary_key=True),
    Column("rollout", Integer, primary_key=True),
    Column("seq", BigInteger, nullable=False),
)

OBSERVATION_COLUMNS = tuple(column for column in observations.c if column.name != "seq")
"""The columns of `codec.observation_row`, in its order."""
_POINT = next(i for i, column in enumerate(OBSERVATION_COLUMNS) if column.name == "point")
WIDTHS = (_POINT, _POINT + 1, len(OBSERVATION_COLUMNS))
"""How many of them, from the first, the rows of a batch fill: most outside of a canary, most in one, any."""

labels = Table(
    "labels",
    metadata,
    Column("prediction_id", Text, primary_key=True),
    _rollout(primary_key=True),
    Column("label", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("state", Text, nullable=False),
    Column("receipt", BigInteger, nullable=False, server_default="0"),  # the number of its batch
    # If the time was corrected: the time before, and the number of the correcting batch.
    Column("at_before", Double),
    Column("corrected", BigInteger),
    sqlite_with_rowid=False,
)
# A partial index of waiting labels: it is empty, and cheap to check, while labels come after their predictions.
Index(
    "ix_labels_pending",
    labels.c.rollout,
    labels.c.received_at,
    sqlite_where=text(f"state = '{PENDING}'"),
    postgresql_where=text(f"state = '{PENDING}'"),
)

label_conflicts = Table(
    "label_conflicts",
    metadata,
    Column("id", _Serial, primary_key=True),
    _rollout(),
    Column("prediction_id", Text, nullable=False),
    Column("label", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("received_at", Double, nullable=False),
    sqlite_autoincrement=True,
)

# Receipts of the last batches of labels, for a sender whose response was lost and who sends the batch again.
label_batches = Table(
    "label_batches",
    metadata,
    Column("id", _Serial, primary_key=True),
    _rollout(),
    Column("batch_id", Text, nullable=False, unique=True),
    Column("fates", Text, nullable=False),
    sqlite_autoincrement=True,
)

# One row: the identity of this database, by which processes notice that it was replaced.
store_identity = Table(
    "store_identity",
    metadata,
    Column("id", Integer, primary_key=True, autoincrement=False),
    Column("uuid", Text, nullable=False),
)

counters = Table(
    "counters",
    metadata,
    _rollout(primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Double, nullable=False),
    sqlite_with_rowid=False,
)

# The leader of each rollout; an expired lease can be taken.
leases = Table(
    "leases",
    metadata,
    _rollout(primary_key=True),
    Column("holder", Text, nullable=False),
    Column("expires_at", Double, nullable=False),
)

states = Table(
    "states",
    metadata,
    _rollout(primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Text, nullable=False),
)

# Once per rollout: the document that `rollouts.name` is a hash of.
identities = Table(
    "identities",
    metadata,
    _rollout(primary_key=True),
    Column("value", Text, nullable=False),
)

# What retention has removed: no row of the rollout with a greater `seq` than `up_to`.
prunings = Table(
    "prunings",
    metadata,
    _rollout(primary_key=True),
    Column("up_to", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
)

# What each process counted of the requests of an hour (a slot), for drift. The leader adds the documents up.
sketches = Table(
    "sketches",
    metadata,
    _rollout(primary_key=True),
    Column("slot", BigInteger, primary_key=True, autoincrement=False),
    Column("writer", Text, primary_key=True),
    Column("written_at", Double, nullable=False),
    Column("value", Text, nullable=False),
)
