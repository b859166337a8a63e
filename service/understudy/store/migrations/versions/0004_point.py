"""Where a request's routing key fell: for evidence about what was served, which counts a key once.

Revision: 0004
Follows: 0003
"""

import sqlalchemy as sa
from alembic import op

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("observations", sa.Column("point", sa.BigInteger(), nullable=True))


def downgrade() -> None:
    op.drop_column("observations", "point")
