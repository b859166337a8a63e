"""Whether requests still look like the training data: distances, windows and alarms.

::

    training data ──learn──▶ profile on the card (deciles or categories; how far its own windows were from the rest)
                                   │
    rows, answers ──sketch──▶ counts per hour ──add up 24──▶ alarms.read: distance beside its line ──▶ AlarmState: on, off

Counts are additive: every worker counts what it sees, and whoever leads adds them up. Time is the requests' own.
"""

SLOT_S = 3600
"""Counts are kept by the hour."""
WINDOW_SLOTS = 24
"""A window is a day: the shortest that holds the daily cycle, so that a night is not taken for drift."""
SPAN_SLOTS = WINDOW_SLOTS * 3 // 4
"""From its first rows to its end a window must span so many hours: the first hours after a start or a gap are no day."""
WINDOW_S = SLOT_S * WINDOW_SLOTS
WEEK_SLOTS = 7 * WINDOW_SLOTS
"""Features whose card says nothing about single days are read over a week."""
WEEK_SPAN_SLOTS = 5 * WINDOW_SLOTS
"""The rows of such a week must span so many hours."""
