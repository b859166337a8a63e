"""SQLite keeps no index on arrivals: the oldest rows are those with the lowest numbers.

Revision: 0011
Follows: 0010
"""

import sqlalchemy as sa
from alembic import op

revision = "0011"
down_revision = "0010"
branch_labels = None
depends_on = None


def upgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.drop_index("ix_observations_arrived_at", table_name="observations")


def downgrade() -> None:
    if op.get_bind().dialect.name == "sqlite":
        op.create_index("ix_observations_arrived_at", "observations", [sa.text("coalesce(received_at, at)")])
