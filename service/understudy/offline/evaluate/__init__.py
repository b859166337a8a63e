"""Models beside the goals, offline, on data that they have not seen: is it good enough, where, how sure, what is odd.

::

    file or flights ──data──▶ Sample (rows through the serving path, labels, times, segments)
        │                         │
        │ models ──judge──▶ answers ──▶ losses by row ──figures──▶ means with intervals, calibration
        └──────────────────▶ drift beside each card, rows that would be refused, training/serving skew
"""
