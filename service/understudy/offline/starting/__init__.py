"""What `understudy init` works out: from two models, and from held-out data if there are some, a rollout that can finish.

::

    two models ──signature──▶ fields ─┐
    table ──survey (all rows)─────────┼─▶ task, classes, missing values ──▶ cards beside bare files
          └─a sample──answers─────────┴─▶ loss, clip, margin, waits, deadline ──▶ the rollout file

`run` holds the order of things; `survey`, `classes`, `goals` and `rollout_file` are pure. Whatever is guessed is said in a comment
of the rollout file, with what it was guessed from.
"""
