"""Rules of the repository: who may import whom, how long things may be, and what must not be in the repository."""

import ast
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from importlib import metadata
from pathlib import Path

import pytest

import understudy

ROOT = Path(__file__).parents[3]
FOLDERS = ("service", "models", "loadtests")
# A migration is a record of what was done, as long as that was.
CODE = sorted(p for folder in FOLDERS for p in (ROOT / folder).rglob("*.py") if "versions" not in p.parts)
SERVICE = [path for path in CODE if path.is_relative_to(ROOT / "service")]
REQUIREMENTS = sorted((ROOT / "requirements").glob("*.txt"))
FUNCTION_LINES_MAX = 70
MODULE_LINES_MAX = 400


def name(path: Path) -> str:
    return str(path.relative_to(ROOT))


def lint_imports(config: Path, cache: Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "lint-imports", "--config", config, "--cache-dir", cache]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def test_the_import_contract_is_kept(tmp_path: Path) -> None:
    """Layers, the pure core, and one importer for each heavy library, as pyproject.toml says it."""
    result = lint_imports(ROOT / "pyproject.toml", tmp_path)

    assert result.returncode == 0, result.stdout + result.stderr
    assert re.search(r"Contracts: \d+ kept, 0 broken", result.stdout)


def test_a_broken_import_contract_would_be_seen(tmp_path: Path) -> None:
    """A check that cannot fail is none: the policy does import pydantic, so forbidding that must fail."""
    (tmp_path / "pyproject.toml").write_text(
        '[tool.importlinter]\nroot_packages = ["understudy"]\ninclude_external_packages = true\n'
        '[[tool.importlinter.contracts]]\nname = "x"\ntype = "forbidden"\n'
        'source_modules = ["understudy.rollout.policy"]\nforbidden_modules = ["pydantic"]\n',
        encoding="utf-8",
    )
    result = lint_imports(tmp_path / "pyproject.toml", tmp_path)

    assert result.returncode == 1, result.stdout + result.stderr
    assert "understudy.rollout.policy -> pydantic" in result.stdout


@pytest.mark.parametrize("path", CODE, ids=name)
def test_modules_and_functions_fit_a_reader_s_head(path: Path) -> None:
    """No module over 400 lines, no function over 70, its docstring counted."""
    text = path.read_text(encoding="utf-8")
    long = [
        f"{node.name} has {length} lines"
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        and (length := (node.end_lineno or 0) - node.lineno + 1) > FUNCTION_LINES_MAX
    ]

    assert len(text.splitlines()) <= MODULE_LINES_MAX
    assert not long


def public(node: ast.Module | ast.ClassDef, prefix: str = "") -> Iterator[tuple[str, ast.AST]]:
    for child in node.body:
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef) and not child.name.startswith("_"):
            if any(isinstance(each, ast.Name) and each.id == "override" for each in child.decorator_list):
                continue  # documented where it is declared
            yield prefix + child.name, child
            if isinstance(child, ast.ClassDef):
                yield from public(child, f"{prefix}{child.name}.")


@pytest.mark.parametrize("path", SERVICE, ids=name)
def test_every_public_name_says_what_it_is_for(path: Path) -> None:
    """The module, its classes, functions and methods: a docstring that is a sentence."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    found = [("the module", tree), *public(tree)]
    silent = [what for what, node in found if len((ast.get_docstring(node) or "").split()) < 2]

    assert not silent


def tracked() -> dict[Path, str]:
    """The text of every file that git tracks or would track."""
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    found = {}
    for each in filter(None, listed.stdout.split("\0")):
        path = ROOT / each
        data = path.read_bytes() if path.is_file() else b""
        if b"\0" not in data:
            found[path] = data.decode("utf-8")
    return found


def machine_paths() -> re.Pattern[str]:
    """Absolute folders of people and of machines, put together so that this file has none."""
    folders = "home|root|work|Users|mnt|private/var"
    return re.compile(rf"(?<![\w.$}})*<>-])/(?:{folders})/[\w.]")


def registries() -> re.Pattern[str]:
    """Hosts of package indexes and their mirrors."""
    hosts = [
        ("pypi", "org"),
        ("pythonhosted", "org"),
        ("npmjs", "org"),
        ("npmjs", "com"),
        ("yarnpkg", "com"),
        ("jfrog", "io"),
        ("anaconda", "org"),
        ("proxy.golang", "org"),
    ]
    names = "|".join(re.escape(".".join(host)) for host in hosts)
    return re.compile(
        rf"{names}|(?:index|extra-index)-{'url'}\s*[=:]|/{'simple'}/?[\"'\s]|arti{'factory'}", re.IGNORECASE
    )


def unfinished() -> re.Pattern[str]:
    """Notes to oneself."""
    return re.compile(r"\b(" + "|".join(("TO" + "DO", "FIX" + "ME", "X" * 3, "HA" + "CK")) + r")\b")


def found_by(pattern: re.Pattern[str]) -> list[str]:
    return [
        f"{name(path)}:{number}: {line.strip()[:120]}"
        for path, text in tracked().items()
        if not path.name.startswith("LICENSE")
        for number, line in enumerate(text.splitlines(), 1)
        if pattern.search(line)
    ]


def test_no_file_names_a_folder_of_somebody_s_machine() -> None:
    """What is in the repository works for whoever clones it."""
    assert machine_paths().search("cd /" + "home/ada/x")
    assert not machine_paths().search("models/" + "work/x and https://example.org/" + "home/x")
    assert found_by(machine_paths()) == []


def test_no_file_names_a_package_registry() -> None:
    """Where packages come from is the machine's business: pins have versions and hashes, and no addresses."""
    assert registries().search("https://files." + "pythonhosted" + ".org/x")
    assert found_by(registries()) == []


def test_nothing_is_left_for_later() -> None:
    """Git and its issues remember; the code does not."""
    assert unfinished().search("# " + "TO" + "DO: later")
    assert found_by(unfinished()) == []


def test_every_text_ends_as_a_text_does() -> None:
    """With one line break, and no blanks at the ends of lines of code."""
    bad = [name(path) for path, text in tracked().items() if text and path.suffix != ".svg" and not text.endswith("\n")]
    blanks = [
        f"{name(path)}:{number}"
        for path, text in tracked().items()
        if path.suffix in {".py", ".yaml", ".toml"}
        for number, line in enumerate(text.splitlines(), 1)
        if line != line.rstrip()
    ]

    assert bad + blanks == []


@pytest.mark.parametrize("path", REQUIREMENTS, ids=name)
def test_every_requirement_is_pinned_with_hashes_and_no_address(path: Path) -> None:
    """`pip install --require-hashes` takes it, from whatever index the machine has."""
    text = path.read_text(encoding="utf-8")
    joined = re.sub(r"\\\n\s*", " ", text)
    lines = [line.split("#")[0].strip() for line in joined.splitlines()]
    pins = [line for line in lines if line]

    assert "://" not in text
    assert len(pins) > 20
    for pin in pins:
        assert re.match(r"[A-Za-z0-9._-]+(\[[\w,]+\])?==[^\s;]+", pin), pin
        assert re.search(r"--hash=sha256:[0-9a-f]{64}", pin), pin


def test_the_runtime_s_pins_are_the_developers_pins_too() -> None:
    """What is tested is what is run."""
    runtime, dev = (
        dict(re.findall(r"^([\w.-]+)==(\S+)", (ROOT / "requirements" / f"{kind}.txt").read_text(), re.MULTILINE))
        for kind in ("runtime", "dev")
    )

    assert runtime.items() <= dev.items()
    assert len(runtime) < len(dev)


def test_the_version_is_said_in_pyproject_alone() -> None:
    """The package reads it; the tags of images in `k8s/` and the pages follow it."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]["version"]
    manifests = [text for path, text in tracked().items() if path.is_relative_to(ROOT / "k8s")]
    tags = {tag for text in manifests for tag in re.findall(r"(?:understudy:|newTag: )(\d[\d.]*)", text)}

    assert understudy.__version__ == metadata.version("understudy") == version
    assert tags == {version}
    assert f"\n## {version} - " in (ROOT / "CHANGELOG.md").read_text(encoding="utf-8")


def test_unit_tests_lie_in_the_folders_of_the_package() -> None:
    """`tests/unit/store` holds the unit tests of `understudy.store`; a file beside the folders is that of a module."""
    package = ROOT / "service" / "understudy"
    places = {path.parent for path in (ROOT / "tests" / "unit").rglob("test_*.py")}
    strays = [place for place in places if not (package / place.relative_to(ROOT / "tests" / "unit")).is_dir()]
    modules = {path.stem.removeprefix("test_") for path in (ROOT / "tests" / "unit").glob("test_*.py")} - {"isolation"}

    assert strays == []
    assert modules <= {path.stem for path in package.glob("*.py")}
