"""The documentation as tests see it: pages, fenced blocks, commands, links, headings."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = (ROOT / "README.md", *sorted(DOCS.rglob("*.md")))
_FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
_LINK = re.compile(r"\[[^\]]+\]\(([^)\s]+)\)")


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, text and first line number."""

    page: Path
    line: int
    language: str
    text: str

    def __str__(self) -> str:
        return f"{page_name(self.page)}:{self.line}"


def page_name(page: Path) -> str:
    """The page's path from the repository's root."""
    return str(page.relative_to(ROOT))


def blocks(page: Path, *languages: str) -> list[Block]:
    """The blocks of a page in these languages, in order."""
    text = page.read_text(encoding="utf-8")
    return [
        Block(page, text.count("\n", 0, match.start()) + 1, match[1], match[2])
        for match in _FENCE.finditer(text)
        if match[1] in languages
    ]


def commands(block: Block) -> Iterator[str]:
    """What a reader would paste: a ``bash`` block whole, of a ``console`` block each ``$ `` line with what belongs to
    it (an open quote or a backslash goes on in the next line); its other lines are output."""
    if block.language == "bash":
        yield block.text
        return
    lines = iter(block.text.splitlines())
    for line in lines:
        if line.startswith("$ "):
            command = line[2:]
            while not _complete(command):
                command += "\n" + next(lines)
            yield command


def words(command: str) -> list[str]:
    """A command's words without its comment."""
    return shlex.split(command, comments=True)


def _complete(command: str) -> bool:
    try:
        words(command)
    except ValueError:
        return False
    return not command.endswith("\\")


def prose(page: Path) -> str:
    """A page without its fenced blocks."""
    return _FENCE.sub("", page.read_text(encoding="utf-8"))


def links(page: Path) -> list[str]:
    """The targets of a page's links that lead to files or headings of the repository."""
    return [target for target in _LINK.findall(prose(page)) if "://" not in target]


def anchors(page: Path) -> set[str]:
    """The anchors that GitHub gives a page's headings."""
    titles = re.findall(r"^#+ (.+)$", prose(page), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
