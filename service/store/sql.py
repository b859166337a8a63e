"""The Store on SQLAlchemy Core: a SQLite file in WAL mode, or PostgreSQL by URL (not run against one yet).

Writers are alone (see `Database.writing`), so a label and its observation never miss each other, and whoever brings the
second of the two joins them, applies the tally and adds up the counters in the same transaction.
"""

import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import batched_polyfill
