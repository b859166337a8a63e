"""Starts BentoML's server so that no file in the current folder shadows this package.

`python -P -m understudy.server serve …` is `bentoml serve …`.

BentoML imports a service by name and puts the current folder first on the path for that, in each of its processes. A file
`understudy.py` there would shadow this package. This module prevents it: a module that is already imported is not searched again,
and a folder that is already on the path, at its end, is not put first.
"""

import importlib
import os
import runpy
import sys
from pathlib import Path


def main() -> None:
    """Run as the supervisor, or as one of the processes that it starts."""
    sys.path.append(str(Path.cwd()))
    if sys.argv[1:2] == ["serve"]:
        os.environ["PYTHONSAFEPATH"] = "1"
        # BentoML has no setting for the module that its processes run.
        vars(importlib.import_module("_bentoml_impl.server.serving"))["_SERVICE_WORKER_SCRIPT"] = "understudy.server"
        runpy.run_module("bentoml", run_name="__main__")
    else:
        runpy.run_module("_bentoml_impl.worker.service", run_name="__main__")


if __name__ == "__main__":
    main()
