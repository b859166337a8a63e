"""What each rollout is judged by, and how far its rows were pruned.

Revision: 0003
Follows: 0002
"""

import sqlalchemy as sa
from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.create_table(
        "identities",
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("value", sa.Text(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_identities_rollout")),
        sa.PrimaryKeyConstraint("rollout", name=op.f("pk_identities")),
    )
    op.create_table(
        "prunings",
        sa.Column("rollout", sa.Integer(), nullable=False),
        sa.Column("up_to", sa.BigInteger(), nullable=False),
        sa.Column("rows", sa.BigInteger(), nullable=False),
        sa.Column("at", sa.Double(), nullable=False),
        sa.ForeignKeyConstraint(["rollout"], ["rollouts.id"], name=op.f("fk_prunings_rollout")),
        sa.PrimaryKeyConstraint("rollout", name=op.f("pk_prunings")),
    )


def downgrade() -> None:
    op.drop_table("prunings")
    op.drop_table("identities")
