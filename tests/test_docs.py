"""The pages are true where a machine can tell: links, modules, names, commands, defaults."""

from __future__ import annotations

import ast
import dataclasses
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

from edge import cli
from edge.decision import DecisionSettings
from trainer.analytic import AnalyticSettings
from trainer.pace.settings import PaceSettings

REPOSITORY = Path(__file__).resolve().parent.parent
DOCS = REPOSITORY / "docs"
PACKAGES = ("edge", "trainer", "export")
TOP_PAGES = tuple(REPOSITORY / f"{name}.md" for name in ("README", "CHANGELOG", "CONTRIBUTING", "SECURITY"))
PAGES = (*TOP_PAGES, *sorted(DOCS.rglob("*.md")))

_FENCE = re.compile(r"^ *```.*?^ *```", re.MULTILINE | re.DOTALL)
_INDENTED = re.compile(r"(?:^|\n\n)((?: {4,}.*\n)+)")
_SPAN = re.compile(r"`([^`\n]+)`")
_LINK = re.compile(r"!?\[[^\]]*\]\(<?([^)\s>]+)>?(?: \"[^\"]*\")?\)|<(?:img|a)\b[^>]*\b(?:src|href)=\"([^\"]+)\"")
_HEADING = re.compile(r"^#{1,6} +(.+?)[ #]*$", re.MULTILINE)


def text_of(page: Path) -> str:
    assert page.is_file(), f"{page.relative_to(REPOSITORY)} is missing"
    return page.read_text(encoding="utf-8")


def code_of(page: Path) -> str:
    """All that a page sets as code (fences, indented blocks, spans) or as a heading."""
    text = text_of(page)
    plain = _FENCE.sub("", text)
    return "\n".join((*_FENCE.findall(text), *_INDENTED.findall(text), *_SPAN.findall(plain), *_HEADING.findall(plain)))


def links(text: str) -> list[str]:
    """Targets of links and images outside code."""
    return [first or second for first, second in _LINK.findall(_SPAN.sub("", _FENCE.sub("", text)))]


def anchors(text: str) -> set[str]:
    """The anchors that a renderer makes of a page's headings, as GitHub does."""
    found: set[str] = set()
    for heading in _HEADING.findall(_FENCE.sub("", text)):
        words = re.sub(r"\[([^\]]*)\]\([^)]*\)", r"\1", heading).lower()
        anchor = re.sub(r"[^\w\- ]", "", words).replace(" ", "-")
        n = sum(1 for other in found if re.fullmatch(rf"{re.escape(anchor)}(-\d+)?", other))
        found.add(f"{anchor}-{n}" if n else anchor)
    return found


def broken_links(page: Path, text: str) -> list[str]:
    """Relative links of ``text``, as if it stood in ``page``, that lead nowhere or out of the repository."""
    broken = []
    for link in links(text):
        if re.match(r"[a-z][a-z0-9+.-]*:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        inside = target.is_relative_to(REPOSITORY) and target.exists()
        if not inside or (anchor and target.suffix == ".md" and anchor not in anchors(text_of(target))):
            broken.append(link)
    return broken


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(REPOSITORY)))
def test_every_relative_link_resolves(page: Path) -> None:
    assert broken_links(page, text_of(page)) == []


def test_a_broken_link_would_be_found() -> None:
    page = DOCS / "architecture.md"
    text = "[a](nowhere.md) [b](adr/README.md#nothing) ![c](../../outside.png) [d](#exactness) [e](adr/README.md)\n"
    assert broken_links(page, text) == ["nowhere.md", "adr/README.md#nothing", "../../outside.png"]
    assert broken_links(page, "`[a](nowhere.md)`\n```\n[a](nowhere.md)\n```\n[a](https://nowhere.example)") == []


def modules() -> set[str]:
    """Dotted names of all modules; a package below the top counts as one, ``__main__`` and the tops do not."""
    found = set()
    for package in PACKAGES:
        for path in (REPOSITORY / package).rglob("*.py"):
            name = ".".join(path.relative_to(REPOSITORY).with_suffix("").parts).removesuffix(".__init__")
            if not name.endswith("__main__"):
                found.add(name)
    return found - set(PACKAGES)


def test_the_table_of_modules_is_the_modules() -> None:
    text = text_of(DOCS / "architecture.md")
    rows = re.findall(rf"^\| `((?:{'|'.join(PACKAGES)})\.[\w.]+)` \| \S", text, re.MULTILINE)
    assert len(rows) == len(set(rows)), "a module stands twice in the table"
    assert set(rows) - modules() == set(), "docs/architecture.md names modules that are not there"
    assert modules() - set(rows) == set(), "docs/architecture.md lacks modules"


def names_in(body: list[ast.stmt]) -> Iterator[tuple[str, list[ast.stmt]]]:
    """Names that statements define, each with the body of a class."""
    for node in body:
        if isinstance(node, ast.ClassDef):
            yield node.name, node.body
        elif isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            yield node.name, []
        elif isinstance(node, ast.ImportFrom | ast.Import):
            yield from ((alias.asname or alias.name, []) for alias in node.names)
        elif isinstance(node, ast.Assign | ast.AnnAssign):
            targets = node.targets if isinstance(node, ast.Assign) else [node.target]
            yield from ((target.id, []) for target in targets if isinstance(target, ast.Name))


def is_there(dotted: str) -> bool:
    """Whether a dotted name is a module, or something defined in one; nothing is imported."""
    parts = dotted.split(".")
    for n in range(len(parts), 0, -1):
        base = REPOSITORY.joinpath(*parts[:n])
        path = base / "__init__.py" if base.is_dir() else base.with_suffix(".py")
        if not path.is_file():
            continue
        body = ast.parse(path.read_text(encoding="utf-8")).body
        for name in parts[n:]:
            inside = dict(names_in(body))
            if name not in inside:
                return False
            body = inside[name]
        return True
    return False


def test_dotted_names_in_the_pages_are_there() -> None:
    wrong = []
    for page in PAGES:
        for span in _SPAN.findall(_FENCE.sub("", text_of(page))):
            name = span.partition("(")[0]
            if re.fullmatch(rf"(?:{'|'.join(PACKAGES)})(?:\.[A-Za-z_]\w*)+", name) and not is_there(name):
                wrong.append(f"{page.relative_to(REPOSITORY)}: {name}")
    assert wrong == []
    assert is_there("edge.bundle.Bundle.prior")
    assert not is_there("edge.bundle.Bundle.priors") and not is_there("edge.bundles") and not is_there("edge.nothing")


def test_paths_of_the_source_in_the_pages_are_there() -> None:
    wrong = []
    for page in PAGES:
        for span in _SPAN.findall(_FENCE.sub("", text_of(page))):
            path = span.rstrip("/")
            is_ours = re.match(r"(?:edge|trainer|export|tests|benchmarks|docs)/[\w./*-]*$", path)
            if is_ours and not any(REPOSITORY.glob(path)):
                wrong.append(f"{page.relative_to(REPOSITORY)}: {path}")
    assert wrong == []


def commands() -> Iterator[str]:
    """Every command as a user types it, those of groups included."""
    main = cli.main
    context = click.Context(main)
    for name in cli.COMMANDS:
        yield name
        command = main.get_command(context, name)
        if isinstance(command, click.Group):
            yield from (f"{name} {inner}" for inner in command.list_commands(context))


def test_every_command_is_in_the_page_of_the_command_line() -> None:
    code = code_of(DOCS / "cli.md")
    missing = []
    for name in commands():
        *group, last = name.split(" ")
        words = "".join(f"{word} " for word in group) + r"(?:[\w-]+\|)*" + last  # `classes enable|disable`
        if not re.search(rf"(?<![\w-]){words}(?![\w-])", code):
            missing.append(name)
    assert missing == []


def test_the_defaults_in_the_page_on_deciding_are_the_defaults() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]+) \|", text_of(DOCS / "how_it_decides.md"), re.MULTILINE)
    said: dict[str, str] = {}
    for names, values in rows:
        said.update(zip(re.findall(r"\w+", names), values.strip().split(", "), strict=True))
    defaults = dataclasses.asdict(DecisionSettings())
    assert said == {name: "none" if value == {} else str(value) for name, value in defaults.items()}


def test_the_defaults_in_the_page_on_pace_are_the_defaults() -> None:
    rows = re.findall(r"^\| ((?:`\w+`(?:, )?)+) \| ([^|]+) \| (?:P|ours)", text_of(DOCS / "pace.md"), re.MULTILINE)
    said: dict[str, str] = {}
    for names, values in rows:
        found = re.findall(r"\w+", names)
        said.update(zip(found, values.strip().split(", "), strict=True))
    defaults = dataclasses.asdict(PaceSettings()) | dataclasses.asdict(AnalyticSettings())
    assert said.keys() == defaults.keys()
    wrong = {name: (said[name], value) for name, value in defaults.items() if not _says(said[name], value)}
    assert wrong == {}


def _says(words: str, value: object) -> bool:
    """Whether a table's word stands for a default: numbers by value, None as none, an empty tuple in words."""
    if isinstance(value, bool) or value is None or isinstance(value, str):
        return words.lower() == str(value).lower()
    return words == "the backbone's" if value == () else float(words) == value


def test_decisions_are_numbered_listed_and_whole() -> None:
    records = sorted((DOCS / "adr").glob("[0-9]*.md"))
    assert [path.name[:4] for path in records] == [f"{n:04d}" for n in range(1, len(records) + 1)]
    listed = links(text_of(DOCS / "adr" / "README.md"))
    for path in records:
        text = text_of(path)
        assert path.name in listed, path.name
        assert text.startswith(f"# {path.name[:4]}: "), path.name
        headings = [name for name in _HEADING.findall(text) if not name.startswith(path.name[:4])]
        assert headings == ["Context", "Decision", "Alternatives", "Consequences"], path.name
