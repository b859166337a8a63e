"""The options of a load test."""

import pytest

from understudy.errors import ConfigurationError
from understudy.loadtest.generator import LoadTest


def test_a_test_says_what_it_is_before_anything_starts() -> None:
    """A shape, a mix or a protocol that there is not is refused at once; workers elsewhere are counted in place of our own."""
    with pytest.raises(ConfigurationError):
        LoadTest("http://h", 1, shape="wave")
    assert LoadTest("http://h", 1, processes=3).generators == 3
    assert LoadTest("http://h", 1, workers_elsewhere=5).generators == 5
