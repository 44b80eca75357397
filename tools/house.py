"""The house rules that no linter knows: how long a function and a file may be, and words that name nothing.

Run by `tox run -e check`. Prints one line per breach, like a compiler, and exits 1 if there is any.
There is no list of exceptions: what is too long is cut in two, what is named badly gets a better name.
"""

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
FOLDERS = ("src", "tests", "tools", "clients", "web", "stress", "bench")
SOURCES = {".py", ".js", ".mjs", ".ts", ".css", ".html"}
NOT_OURS = {"node_modules", "vendor", "dist", "build", "__pycache__"}
FUNCTION_LINES = 40
FILE_LINES = 400
EMPTY_WORDS = {
    "common", "engine", "handler", "handlers", "helper", "helpers", "manager", "managers", "misc",
    "processor", "processors", "util", "utils",
}  # fmt: skip


def sources(root: Path) -> Iterator[Path]:
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob("*")):
            if path.suffix in SOURCES and not NOT_OURS.intersection(path.relative_to(root).parts):
                yield path


def words(name: str) -> set[str]:
    """`FrameHandler`, `frame_handler` -> {"frame", "handler"}."""
    return {word.lower() for word in re.findall(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+", name)}


def misnamed(name: str, what: str) -> Iterator[str]:
    for word in sorted(words(name) & EMPTY_WORDS):
        yield f"{what} {name}: '{word}' does not say what it is"


def in_text(text: str, name: str) -> Iterator[tuple[int, str]]:
    lines = text.count("\n")
    if lines > FILE_LINES:
        yield 1, f"{lines} lines, the most is {FILE_LINES}"
    for wrong in misnamed(name, "file"):
        yield 1, wrong


def in_python(text: str) -> Iterator[tuple[int, str]]:
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.ClassDef):
            for wrong in misnamed(node.name, "class"):
                yield node.lineno, wrong
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            if length > FUNCTION_LINES:
                yield node.lineno, f"{node.name}() has {length} lines, the most is {FUNCTION_LINES}"


def in_folder(path: Path) -> Iterator[tuple[int, str]]:
    if "src" in path.relative_to(ROOT).parts and not (path.parent / "__init__.py").exists():
        yield 1, "its folder has no __init__.py: it would not ship, and no contract would see it"


def breaches(path: Path) -> Iterator[tuple[int, str]]:
    """(line, what is wrong) for one file."""
    text = path.read_text("utf-8")
    yield from in_text(text, path.stem)
    if path.suffix == ".py":
        yield from in_python(text)
        yield from in_folder(path)


def main() -> int:
    files = list(sources(ROOT))
    found = [(path.relative_to(ROOT), *breach) for path in files for breach in breaches(path)]
    for path, line, wrong in found:
        print(f"{path}:{line}: {wrong}")
    print(f"house: {len(files)} files, {len(found) or 'no'} breaches")
    return 1 if found else 0


if __name__ == "__main__":
    sys.exit(main())
