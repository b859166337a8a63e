"""What each process counted of an hour's requests, for drift.

Revision: 0006
Follows: 0004
"""

import sqlalchemy as sa
from alembic import op

revision = "0006"
down_revision = "0004"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "sketches",
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("slot", sa.BigInteger(), autoincrement=False, nullable=False),
        sa.Column("writer", sa.Text(), nullable=False),
        sa.Column("written_at", sa.Double(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_sketches_rollout")),
        sa.PrimaryKeyConstraint("rollout", "slot", "writer", name=op.f("pk_sketches")),
    )


def downgrade() -> None:
    op.drop_table("sketches")
