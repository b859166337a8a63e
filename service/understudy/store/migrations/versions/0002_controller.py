"""The controller's lease and its state.

Revision: 0002
Follows: 0001
"""

import sqlalchemy as sa
from alembic import op

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "leases",
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("holder", sa.Text(), nullable=False),
        sa.Column("expires_at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_leases_rollout")),
        sa.PrimaryKeyConstraint("rollout", name=op.f("pk_leases")),
    )
    op.create_table(
        "states",
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("name", sa.Text(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_states_rollout")),
        sa.PrimaryKeyConstraint("rollout", "name", name=op.f("pk_states")),
    )


def downgrade() -> None:
    op.drop_table("states")
    op.drop_table("leases")
