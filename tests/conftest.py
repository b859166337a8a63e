"""What all tests share: their order, how they run side by side, and examples that are the same in every run."""

import os
from typing import Any

import pytest
from hypothesis import settings

for name in ("COLUMNS", "LINES"):
    # pytest loads readline, which puts the terminal's size there for the processes that pytest-xdist starts.
    os.environ.pop(name, None)
settings.register_profile("repeatable", derandomize=True, deadline=None)
settings.load_profile("repeatable")

ORDER = (
    "unit",
    "integration",
    "contract",
    "statistics",
    "faults",
    "matrix",
    "browser",
    "acceptance",
)
"""The folders below `tests/`, fastest first: a broken unit test is reported within the first minutes."""
ONE_BY_ONE = ("tests/unit/rollout/", "tests/matrix/", "tests/acceptance/")
"""Each of these plays a rollout or starts a service of its own, and may run on another worker than the rest of its file."""
TOGETHER = {
    "tests/acceptance/test_bad_input.py": "",
    "tests/acceptance/test_loadtest.py": "",
    "tests/acceptance/test_protocol_v2.py": "",
    "tests/browser/": "one browser and one service",
    "tests/integration/models/": "two models that were fitted",
    "tests/unit/drift/": "a year of flights",
}
"""Files and folders whose tests share what takes long to start, and what that is, where it is shared with other files."""
WORKERS_MAX = 8


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests by `ORDER`."""
    items.sort(key=stage)


def stage(item: pytest.Item) -> int:
    """The place of a test in `ORDER`; what is not named there comes last."""
    place = item.path.relative_to(item.config.rootpath / "tests").parts[0]
    return ORDER.index(place) if place in ORDER else len(ORDER)


def group(nodeid: str) -> str:
    """Tests of one group run on one worker, one after the other: as a rule those of a file."""
    file = nodeid.split("::", maxsplit=1)[0]
    for path, shared in TOGETHER.items():
        if file.startswith(path):
            return shared or file
    return nodeid if file.startswith(ONE_BY_ONE) else file


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """By `group`, in the order of the tests. (`--dist loadgroup` of pytest-xdist 3.8 sees no group under pytest 9.2.)"""
    from xdist.scheduler import LoadScopeScheduling

    class Scheduling(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return group(nodeid)

    config.option.loadscopereorder = False
    return Scheduling(config, log)


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores, since a test that starts a service mostly waits for it."""
    return min(len(os.sched_getaffinity(0)) + 1, WORKERS_MAX)
