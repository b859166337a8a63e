"""Disables the garbage collector during imports; `understudy.app` imports this module first.

Imported objects are never garbage, but scanning them again and again took a sixth of a process's start.
"""

import gc

gc.disable()


def resume() -> None:
    """After the imports: enable the collector, which ignores all objects that exist now."""
    gc.freeze()
    gc.enable()


def settle(threshold: int | None = None) -> None:
    """After the start of a process: collect once, and ignore all objects that exist now.

    Args:
        threshold: new objects between two collections; None for Python's default. A process that handles thousands of rows at a
            time would otherwise scan them again and again, and they are freed without the collector.
    """
    gc.collect()
    gc.freeze()
    if threshold is not None:
        gc.set_threshold(threshold)
