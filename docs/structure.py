"""How the code is put together: `python docs/structure.py [REVISION]` measures a revision beside the working tree.

It also draws the layers of the import contract into ARCHITECTURE.md, from pyproject.toml and the packages' docstrings.
"""

import ast
import io
import re
import subprocess
import sys
import tarfile
import tomllib
from collections.abc import Iterable, Mapping
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
PAGE = ROOT / "ARCHITECTURE.md"
BEGIN, END = "<!-- layers: written by docs/structure.py -->", "<!-- layers end -->"
FOLDERS = ("service", "models", "loadtests", "docs", "k8s")
Graph = Mapping[str, set[str]]


def files(revision: str | None) -> dict[str, str]:
    """Path → text of the Python files of a revision; of the working tree without one."""
    if revision is None:
        paths = (path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
        found = {path.relative_to(ROOT).as_posix(): path.read_text(encoding="utf-8") for path in paths}
    else:
        command = ["git", "archive", "--format=tar", revision, *FOLDERS]
        packed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True).stdout
        with tarfile.open(fileobj=io.BytesIO(packed)) as tar:
            members = ((m.name, tar.extractfile(m)) for m in tar if m.name.endswith(".py"))
            found = {name: file.read().decode() for name, file in members if file is not None}
    return {path: text for path, text in found.items() if "/migrations/versions/" not in path}


def modules(found: Mapping[str, str]) -> dict[str, str]:
    """Dotted name → text of the package's modules, whichever of its two names the package has."""
    folder = "service/understudy/" if any(path.startswith("service/understudy/") for path in found) else "service/"
    package = folder.strip("/").rpartition("/")[2]
    inside = {path.removeprefix(folder): text for path, text in found.items() if path.startswith(folder)}
    names = {path: ".".join([package, *Path(path).with_suffix("").parts]) for path in inside}
    return {names[path].removesuffix(".__init__"): text for path, text in inside.items()}


def imports(code: Mapping[str, str]) -> dict[str, set[str]]:
    """Module → the modules of the package that it imports, in functions as well."""

    def known(name: str) -> str:
        while name and name not in code:
            name = name.rpartition(".")[0]
        return name

    graph: dict[str, set[str]] = {name: set() for name in code}
    for name, text in code.items():
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.Import):
                graph[name] |= {known(alias.name) for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                graph[name] |= {known(f"{node.module}.{alias.name}") for alias in node.names}
        graph[name] -= {"", name}
    return graph


def by_package(graph: Graph) -> dict[str, set[str]]:
    """The same between the entries of the package: its packages and the modules beside them."""
    top = {name: name.split(".")[1] for name in graph if "." in name}
    found: dict[str, set[str]] = {entry: set() for entry in top.values()}
    for name, targets in graph.items():
        if name in top:
            found[top[name]] |= {top[t] for t in targets if t in top} - {top[name]}
    return found


def reachable(graph: Graph, start: str) -> set[str]:
    """What is imported from a node, directly or not."""
    seen: set[str] = set()
    todo = [start]
    while todo:
        new = graph[todo.pop()] - seen
        seen |= new
        todo += new
    return seen


def circles(graph: Graph) -> list[list[str]]:
    """Groups of nodes that import each other."""
    far = {name: reachable(graph, name) for name in graph}
    groups = {tuple(sorted({o for o in far[n] if n in far[o]})) for n in graph if n in far[n]}
    return [list(group) for group in sorted(groups)]


def floors(graph: Graph) -> int:
    """The longest chain of imports; what is in a circle counts once."""
    far = {name: reachable(graph, name) for name in graph}
    height: dict[str, int] = {}
    for name in sorted(graph, key=lambda n: len(far[n])):
        height[name] = 1 + max((height[o] for o in far[name] if name not in far[o] and o in height), default=0)
    return max(height.values())


PREDICTION_PATH = ("understudy.http.connection", "understudy.api.predict", "understudy.api.v2.infer")


def framework_lines(code: Mapping[str, str], graph: Graph) -> str:
    """Lines of our own web framework outside the prediction path, and its modules.

    It is what is in `understudy.http` and is not imported, directly or not, by the connection and the handlers of predictions.
    """
    if not code.keys() >= set(PREDICTION_PATH):
        return "-"
    path = set(PREDICTION_PATH).union(*(reachable(graph, name) for name in PREDICTION_PATH))
    cold = sorted(name for name in code if name.startswith("understudy.http.") and name not in path)
    return f"{sum(len(code[name].splitlines()) for name in cold)} ({', '.join(cold)})"


def measured(revision: str | None) -> dict[str, str]:
    """What is measured → its value."""
    found = files(revision)
    code = modules(found)
    graph = imports(code)
    packages = by_package(graph)
    defined = (
        ((node.end_lineno or 0) - node.lineno + 1, f"{name}.{node.name}")
        for name, text in code.items()
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    )
    text = "\n".join(found.values())
    return {
        "modules": str(len(code)),
        "packages and modules at the top": str(len(packages)),
        "floors: the longest chain of these": str(floors(packages)),
        "arrows between them": str(sum(map(len, packages.values()))),
        "circles between them": ", ".join("-".join(c) for c in circles(packages)) or "0",
        "circles between modules": ", ".join("-".join(c) for c in circles(graph)) or "0",
        "longest module": " ".join(map(str, max((len(t.splitlines()), name) for name, t in code.items()))),
        "longest function": " ".join(map(str, max(defined))),
        "web framework outside the prediction path, lines": framework_lines(code, graph),
        "`noqa`": str(len(re.findall(r"#\s*noqa", text))),
        "`fmt: skip`": str(len(re.findall(r"#\s*fmt: skip", text))),
        "`Any`": str(len(re.findall(r"\bAny\b", text))),
    }


def layers() -> list[list[str]]:
    """The layers of the contract, the highest first."""
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    return [line.split(" | ") for line in next(c["layers"] for c in contracts if c["type"] == "layers")]


def picture() -> str:
    """The layers as text, by number: each package with the first sentence of its docstring."""
    code = modules(files(None))
    lines: list[str] = []
    from_the_top = layers()
    for number, layer in zip(range(len(from_the_top), 0, -1), from_the_top, strict=True):
        docs = {
            entry: (ast.get_docstring(ast.parse(code[f"understudy.{entry}"])) or "").split("\n")[0] for entry in layer
        }
        lines += [f"{number:>2}  {entry:<14} {doc.partition('. ')[0].rstrip('.')}" for entry, doc in docs.items()]
    return "\n".join(["```text", *lines, "```"])


def page(text: str) -> str:
    """ARCHITECTURE.md with the picture as it should be."""
    head, _, rest = text.partition(BEGIN)
    return head + f"{BEGIN}\n{picture()}\n{END}" + rest.partition(END)[2]


def table(columns: Mapping[str, Mapping[str, str]]) -> Iterable[str]:
    """A Markdown table: what is measured, and a column for each revision."""
    yield "| | " + " | ".join(columns) + " |"
    yield "|---|" + "---|" * len(columns)
    for what in next(iter(columns.values())):
        yield f"| {what} | " + " | ".join(column[what] for column in columns.values()) + " |"


if __name__ == "__main__":
    PAGE.write_text(page(PAGE.read_text(encoding="utf-8")), encoding="utf-8")
    print("\n".join(table({name: measured(name) for name in sys.argv[1:]} | {"working tree": measured(None)})))
