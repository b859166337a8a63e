"""The services under their old name, and for a Bento, in which the package is not installed but lies beside this file."""

import sys
from importlib import import_module
from pathlib import Path

sys.path.append(str(Path(__file__).parent))
Understudy = import_module("understudy.app").Understudy
