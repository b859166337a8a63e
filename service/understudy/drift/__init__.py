"""Whether requests still look like the training data: distances, windows and alarms.

::

    training data ──learn──▶ profile on the card (deciles or categories; the distance of its own windows from the rest)
                                   │
    rows, answers ──sketch──▶ counts per hour ──sum of 24──▶ alarms.read: distance and threshold ──▶ AlarmState: on, off

Counts are additive: each process counts the rows that it records, and the leader adds the counts up. Time is request time.
"""

SLOT_S = 3600
"""Counts are kept by the hour."""
WINDOW_SLOTS = 24
"""A window is a day, the shortest that contains the daily cycle. With a shorter one, every night would look like drift."""
SPAN_SLOTS = WINDOW_SLOTS * 3 // 4
"""Hours that a window must span from its first rows to its end. The first hours after a start or a gap are not yet a day."""
WINDOW_S = SLOT_S * WINDOW_SLOTS
WEEK_SLOTS = 7 * WINDOW_SLOTS
"""Features whose card has no training windows are compared over a week."""
WEEK_SPAN_SLOTS = 5 * WINDOW_SLOTS
"""Hours that the rows of such a week must span."""
