"""Understudy serves a proof-of-concept model, rehearses a candidate on the same requests, and launches it on evidence.

A request is decoded, routed and answered; then its record goes to the store. The judge reads the store and writes the
plan that the router obeys. The request path and the judge meet nowhere else, so that either may restart alone.
"""

from functools import cache
from pathlib import Path


def __getattr__(name: str) -> str:
    """Compute `__version__` when it is first read: most commands do not need it."""
    if name == "__version__":
        return _version()
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


@cache
def _version() -> str:
    """The version in pyproject.toml, from the package's metadata where it is installed.

    A Bento and the container image carry the sources and pyproject.toml instead of an installed package.
    """
    import tomllib
    from importlib import metadata

    for folder in Path(__file__).resolve().parents[1:3]:
        if (file := folder / "pyproject.toml").is_file():
            project = tomllib.loads(file.read_text(encoding="utf-8"))["project"]
            if project["name"] == __name__:
                return str(project["version"])
    return metadata.version(__name__)
