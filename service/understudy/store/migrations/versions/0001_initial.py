"""The first tables.

Revision: 0001
Follows: nothing
"""

import sqlalchemy as sa
from alembic import op

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None

# The audit log is for people who were not there: whoever can write to this file by hand cannot rewrite it by accident.
EVENTS_STAY = """
CREATE TRIGGER events_stay_{verb} BEFORE {verb} ON events
BEGIN SELECT RAISE(ABORT, 'events are never changed or removed'); END
"""

EVENTS_STAY_POSTGRES = """
CREATE FUNCTION events_stay() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN RAISE EXCEPTION 'events are never changed or removed' USING ERRCODE = 'restrict_violation'; END $$;
CREATE TRIGGER events_stay BEFORE UPDATE OR DELETE OR TRUNCATE ON events EXECUTE FUNCTION events_stay();
"""


def upgrade() -> None:
    postgres = op.get_context().dialect.name == "postgresql"
    # Compared byte by byte: faster, and no upgrade of the system's locales makes an index wrong.
    prediction_id = sa.Text().with_variant(sa.Text(collation="C"), "postgresql")
    unique = () if postgres else (
        sa.UniqueConstraint("prediction_id", "rollout", name=op.f("uq_observations_prediction_id")),
    )
    if postgres:
        op.execute("CREATE SEQUENCE observations_seq")
        op.create_table(
            "observation_keys",
            sa.Column("prediction_id", prediction_id, nullable=False),
            sa.Column("rollout", sa.Integer(), nullable=False),
            sa.Column("seq", sa.BigInteger(), nullable=False),
            sa.PrimaryKeyConstraint("prediction_id", "rollout", name=op.f("pk_observation_keys")),
        )
    op.create_table(
        "observations",
        sa.Column("seq", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), autoincrement=not postgres, nullable=False),
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("prediction_id", prediction_id, nullable=False),
        sa.Column("request_id", sa.Text(), nullable=True),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("variant", sa.Text(), nullable=False),
        sa.Column("mode", sa.Text(), nullable=False),
        sa.Column("share", sa.Integer(), nullable=False),
        sa.Column("unit", sa.Text(), nullable=True),
        sa.Column("fallback", sa.Text(), nullable=True),
        sa.Column("primary_status", sa.Text(), nullable=False),
        sa.Column("primary_label", sa.Text(), nullable=True),
        sa.Column("primary_score", sa.Double(), nullable=True),
        sa.Column("primary_probabilities", sa.Text(), nullable=True),
        sa.Column("primary_seconds", sa.Double(), nullable=False),
        sa.Column("candidate_status", sa.Text(), nullable=False),
        sa.Column("candidate_label", sa.Text(), nullable=True),
        sa.Column("candidate_score", sa.Double(), nullable=True),
        sa.Column("candidate_probabilities", sa.Text(), nullable=True),
        sa.Column("candidate_seconds", sa.Double(), nullable=False),
        sa.PrimaryKeyConstraint("seq", name=op.f("pk_observations")),
        *unique,
        sqlite_autoincrement=True,
        postgresql_partition_by="RANGE (seq)",
    )
    op.create_index(op.f("ix_observations_at"), "observations", ["at"], unique=False)
    op.create_table(
        "rollouts",
        sa.Column("id", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("first_seq", sa.BigInteger(), nullable=False),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_rollouts")),
        sa.UniqueConstraint("name", name=op.f("uq_rollouts_name")),
    )
    op.create_table(
        "counters",
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_counters_rollout")),
        sa.PrimaryKeyConstraint("rollout", "name", name=op.f("pk_counters")),
        sqlite_with_rowid=False,
    )
    op.create_table(
        "events",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("kind", sa.Text(), nullable=False),
        sa.Column("actor", sa.Text(), nullable=False),
        sa.Column("reason", sa.Text(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("details", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_events_rollout")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_events")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "label_conflicts",
        sa.Column("id", sa.BigInteger().with_variant(sa.Integer(), "sqlite"), nullable=False),
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("prediction_id", sa.Text(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_label_conflicts_rollout")),
        sa.PrimaryKeyConstraint("id", name=op.f("pk_label_conflicts")),
        sqlite_autoincrement=True,
    )
    op.create_table(
        "labels",
        sa.Column("prediction_id", prediction_id, nullable=False),
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("label", sa.Text(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.Column("received_at", sa.Double(), nullable=False),
        sa.Column("state", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_labels_rollout")),
        sa.PrimaryKeyConstraint("prediction_id", "rollout", name=op.f("pk_labels")),
        sqlite_with_rowid=False,
    )
    op.create_index(
        "ix_labels_pending",
        "labels",
        ["rollout", "received_at"],
        unique=False,
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.create_table(
        "plans",
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("phase", sa.Text(), nullable=False),
        sa.Column("weight", sa.Integer(), nullable=False),
        sa.Column("shadow", sa.Integer(), nullable=False),
        sa.Column("salt", sa.Text(), nullable=False),
        sa.Column("step", sa.Integer(), nullable=False),
        sa.Column("revision", sa.BigInteger(), nullable=False),
        sa.Column("updated_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_plans_rollout")),
        sa.PrimaryKeyConstraint("rollout", name=op.f("pk_plans")),
    )
    if op.get_context().dialect.name == "sqlite":
        for verb in ("UPDATE", "DELETE"):
            op.execute(EVENTS_STAY.format(verb=verb))
    if postgres:
        op.execute(EVENTS_STAY_POSTGRES)


def downgrade() -> None:
    op.drop_table("plans")
    op.drop_index(
        "ix_labels_pending",
        table_name="labels",
        sqlite_where=sa.text("state = 'pending'"),
        postgresql_where=sa.text("state = 'pending'"),
    )
    op.drop_table("labels")
    op.drop_table("label_conflicts")
    op.drop_table("events")
    op.drop_table("counters")
    op.drop_table("rollouts")
    op.drop_index(op.f("ix_observations_at"), table_name="observations")
    op.drop_table("observations")
    if op.get_context().dialect.name == "postgresql":
        op.drop_table("observation_keys")
        op.execute("DROP SEQUENCE observations_seq")
        op.execute("DROP FUNCTION events_stay()")
