"""Disables the garbage collector during imports; `understudy.app` imports this module first.

Imported objects are never garbage, but scanning them again and again took a sixth of a process's start.
"""

import gc

gc.disable()


def resume() -> None:
    """After the imports: enable the collector, which ignores all objects that exist now."""
    gc.freeze()
    gc.enable()


def settle() -> None:
    """After the start of a process: collect once, and ignore all objects that exist now."""
    gc.collect()
    gc.freeze()
