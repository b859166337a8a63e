"""A supervisor that would not look for an hour starts a process anew when it has died."""

from understudy.runtime.supervisor import AGAIN_MAX_S, AGAIN_S, AT_ONCE_S, FORGIVEN_S, RestartDelay


def test_one_death_is_mended_at_once_and_many_ever_more_slowly() -> None:
    patience, now, waits = RestartDelay(), 1000.0, []
    for _ in range(7):
        waits.append(patience.wait_s(now))
        now += waits[-1]
    assert waits == [AT_ONCE_S, AGAIN_S, 2.0, 4.0, 8.0, AGAIN_MAX_S, AGAIN_MAX_S]
    assert patience.wait_s(now + FORGIVEN_S) == AT_ONCE_S
