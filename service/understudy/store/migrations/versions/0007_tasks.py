"""Answers that are vectors, and whether two answers agree: for regressions of several numbers and for `disagreement`.

Revision: 0007
Follows: 0006
"""

import sqlalchemy as sa
from alembic import op

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("observations", sa.Column("primary_vector", sa.Text(), nullable=True))
    op.add_column("observations", sa.Column("candidate_vector", sa.Text(), nullable=True))
    op.add_column("observations", sa.Column("agrees", sa.SmallInteger(), nullable=True))


def downgrade() -> None:
    for name in ("agrees", "candidate_vector", "primary_vector"):
        op.drop_column("observations", name)
