"""Command lines that start processes of Understudy, independent of files in the current folder.

`python -m` puts the current folder first on the path, where an `understudy.py` would shadow this package; `-P` prevents that.
"""

import sys


def command_line(*arguments: str) -> list[str]:
    """The command line of `understudy` with arguments."""
    return [sys.executable, "-P", "-m", "understudy.cli", *arguments]


def module(name: str) -> list[str]:
    """The command line of a module of this package."""
    return [sys.executable, "-P", "-m", name]


def server(service: str, *options: str) -> list[str]:
    """The command line of BentoML's server for a service of `understudy.app`."""
    return [sys.executable, "-P", "-m", "understudy.server", "serve", f"understudy.app:{service}", *options]
