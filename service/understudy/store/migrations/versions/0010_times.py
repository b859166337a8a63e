"""Time bases: which replay a request belongs to and when it arrived; batches of labels by number, and corrected times.

Ages count from arrival, so the index on the requests' own time gives way to one on that.

Revision: 0010
Follows: 0009
"""

import sqlalchemy as sa
from alembic import op

revision = "0010"
down_revision = "0009"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("observations", sa.Column("replay", sa.Text(), nullable=True))
    op.add_column("observations", sa.Column("received_at", sa.Double(), nullable=True))
    op.drop_index(op.f("ix_observations_at"), table_name="observations")
    op.create_index("ix_observations_arrived_at", "observations", [sa.text("coalesce(received_at, at)")])
    op.add_column("rollouts", sa.Column("receipts", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("labels", sa.Column("receipt", sa.BigInteger(), server_default="0", nullable=False))
    op.add_column("labels", sa.Column("at_before", sa.Double(), nullable=True))
    op.add_column("labels", sa.Column("corrected", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    for name in ("corrected", "at_before", "receipt"):
        op.drop_column("labels", name)
    op.drop_column("rollouts", "receipts")
    op.drop_index("ix_observations_arrived_at", table_name="observations")
    op.create_index(op.f("ix_observations_at"), "observations", ["at"])
    for name in ("received_at", "replay"):
        op.drop_column("observations", name)
