"""Evaluates models offline on held-out data: whether they meet the goals, in which segments, with which certainty.

::

    file or flights ──data──▶ Sample (rows through the serving path, labels, times, segments)
        │                         │
        │ models ──judge──▶ answers ──▶ losses by row ──figures──▶ means with intervals, calibration
        └──────────────────▶ drift beside each card, rows that would be refused, training/serving skew
"""
