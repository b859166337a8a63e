"""Python's garbage collector, kept out of the way of imports; `understudy.app` imports this before all that is heavy.

What is imported stays, so looking it over for garbage again and again finds nothing, and a sixth of a process's start went
into that.
"""

import gc

gc.disable()


def resume() -> None:
    """All is imported: the collector works again, and never looks at what is here by now."""
    gc.freeze()
    gc.enable()


def settle() -> None:
    """A process has started: what its start left over goes, and what is here now is not looked at again."""
    gc.collect()
    gc.freeze()
