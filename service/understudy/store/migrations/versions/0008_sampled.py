"""Whether the draw for rehearsals chose a request, and which trial a plan belongs to.

Revision: 0008
Follows: 0007
"""

import sqlalchemy as sa
from alembic import op

revision = "0008"
down_revision = "0007"
branch_labels = None
depends_on = None


def upgrade() -> None:
    op.add_column("observations", sa.Column("sampled", sa.SmallInteger(), nullable=True))
    op.add_column("plans", sa.Column("trial", sa.Integer(), server_default="1", nullable=False))


def downgrade() -> None:
    op.drop_column("plans", "trial")
    op.drop_column("observations", "sampled")
