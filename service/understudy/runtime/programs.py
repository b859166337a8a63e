"""Commands that start processes of Understudy, whatever lies in the current folder.

`python -m` puts the current folder first on the path, where an `understudy.py` would take the place of this package: hence `-P`.
"""

import sys


def command_line(*arguments: str) -> list[str]:
    """`understudy` with some arguments."""
    return [sys.executable, "-P", "-m", "understudy.cli", *arguments]


def server(service: str, *options: str) -> list[str]:
    """BentoML's server for one of the services in `understudy.app`."""
    return [sys.executable, "-P", "-m", "understudy.server", "serve", f"understudy.app:{service}", *options]
