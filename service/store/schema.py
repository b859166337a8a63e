"""The tables, as SQLAlchemy Core metadata. `migrations/` makes them; a test keeps the two equal.

Every table is keyed by `rollout`, a small number that stands for the rollout's text id in `rollouts`: as text in every
row and index it took a fifth of the file. What is written once per prediction is kept small; see `observations`.
"""

from sqlalchemy import (
    BigInteger,
    Column,
    Double,
    ForeignKey,
    Index,
    Integer,
    MetaData,
    Table,
    Text,
    UniqueConstraint,
    text,
)

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

# SQLite gives out numbers by itself only to a column whose type is exactly INTEGER.
_Serial = BigInteger().with_variant(Integer, "sqlite")


def _rollout(*, primary_key: bool = False) -> Column[int]:
    return Column("rollout", Integer, ForeignKey("rollouts.id"), primary_key=primary_key, nullable=False)


def _answer(variant: str) -> list[Column[str] | Column[float]]:
    """One model's answer: `label` and `probabilities` as JSON, so that 1, 1.0, true and "1" stay what they were."""
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
)

plans = Table(
    "plans",
    metadata,
    _rollout(primary_key=True),
    Column("phase", Text, nullable=False),
    Column("weight", Integer, nullable=False),
    Column("shadow", Integer, nullable=False),
    Column("salt", Text, nullable=False),  # 64 bits without a sign do not fit any database's integer
    Column("step", Integer, nullable=False),
    Column("revision", BigInteger, nullable=False),
    Column("updated_at", Double, nullable=False),
)

# On SQLite two triggers (in the migration) refuse to change or remove a row.
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
    # No foreign key: it would be looked up once per row, and nothing ever removes a rollout.
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
    # `rollout` comes second: if first, SQLite would read a rollout through this index and sort it by `seq`.
    UniqueConstraint("prediction_id", "rollout"),
    Index(None, "at"),
    sqlite_autoincrement=True,
)

OBSERVATION_COLUMNS = tuple(column for column in observations.c if column.name != "seq")
"""The columns of `codec.observation_row`, in its order."""

labels = Table(
    "labels",
    metadata,
    Column("prediction_id", Text, primary_key=True),
    _rollout(primary_key=True),
    Column("label", Text, nullable=False),
    Column("at", Double, nullable=False),
    Column("received_at", Double, nullable=False),
    Column("state", Text, nullable=False),
    sqlite_with_rowid=False,
)
# Only what waits is in it: asking whether there is anything to join costs nothing while labels come after predictions.
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

counters = Table(
    "counters",
    metadata,
    _rollout(primary_key=True),
    Column("name", Text, primary_key=True),
    Column("value", Double, nullable=False),
    sqlite_with_rowid=False,
)

# Who may move the rollout; whoever finds it expired takes it.
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

# Once per rollout: what `rollouts.name` is a hash of.
identities = Table(
    "identities",
    metadata,
    _rollout(primary_key=True),
    Column("value", Text, nullable=False),
)

# What retention took: no row of the rollout with a greater `seq` than `up_to` is gone.
prunings = Table(
    "prunings",
    metadata,
    _rollout(primary_key=True),
    Column("up_to", BigInteger, nullable=False),
    Column("rows", BigInteger, nullable=False),
    Column("at", Double, nullable=False),
)
