"""Each command runs in a folder of its own, without settings from outside."""

from tests.support.commands import alone

__all__ = ["alone"]
