"""What all tests share: their order, how they run side by side, and examples that are the same in every run."""

import os

import pytest
from hypothesis import settings

for name in ("COLUMNS", "LINES"):
    # pytest loads readline, which puts the terminal's size there for the processes that pytest-xdist starts.
    os.environ.pop(name, None)
settings.register_profile("house", derandomize=True, deadline=None)
settings.load_profile("house")

ORDER = (
    "test_house_rules.py",
    "unit",
    "test_docs.py",
    "contract",
    "statistics",
    "faults",
    "matrix",
    "browser",
    "acceptance",
)
"""The files and folders below `tests/`, fastest first: a broken unit test is reported within the first minutes."""
ONE_BY_ONE = ORDER.index("acceptance")
"""From here on a test that shares no fixture with its file may run on another worker than the rest of its file."""
WORKERS_MAX = 8


@pytest.hookimpl(tryfirst=True)  # before pytest-xdist reads the groups
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Sort the tests by `ORDER`, and name the group of each for pytest-xdist: one group runs on one worker, in order."""
    items.sort(key=stage)
    for item in items:
        if item.get_closest_marker("xdist_group") is None:
            item.add_marker(pytest.mark.xdist_group(group(item)))


def stage(item: pytest.Item) -> int:
    """The place of a test in `ORDER`; what is not named there comes last."""
    place = item.path.relative_to(item.config.rootpath / "tests").parts[0]
    return ORDER.index(place) if place in ORDER else len(ORDER)


def group(item: pytest.Item) -> str:
    """Tests that share what takes long to start: a folder with a package's fixtures, a file, or one test of its own."""
    fixtures = item._fixtureinfo.name2fixturedefs.values() if isinstance(item, pytest.Function) else ()
    scopes = {definitions[-1].scope for definitions in fixtures}
    if "package" in scopes:
        return item.path.parent.name
    if "module" in scopes or stage(item) < ONE_BY_ONE:
        return item.path.stem
    return f"{item.path.stem}.{item.name}"


def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores, since a test that starts a service mostly waits for it."""
    return min(len(os.sched_getaffinity(0)) + 1, WORKERS_MAX)
