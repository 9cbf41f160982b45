"""A page taken apart, so that tests can ask what is in it."""

from collections.abc import Iterator
from html.parser import HTMLParser
from pathlib import Path

VOID = {"meta", "link", "br", "hr", "img", "input"}


class Page(HTMLParser):
    """What a page holds; every element must be closed in its turn."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[tuple[str, dict[str, str | None]]] = []
        self.texts: list[str] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert self._open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self._open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element that is closed at once."""
        self.tags.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        """Close the innermost element."""
        assert self._open.pop() == tag

    def handle_data(self, data: str) -> None:
        """Note a text."""
        self.texts.append(data)

    def count(self, name: str) -> int:
        """Return how many elements have a name."""
        return sum(tag == name for tag, _ in self.tags)

    def attributes(self, name: str) -> Iterator[str]:
        """Yield an attribute of every element that has it."""
        yield from (value or "" for _, attributes in self.tags for key, value in attributes.items() if key == name)


def page_of(path: Path) -> Page:
    """Return a file's page."""
    return Page(path.read_text(encoding="utf-8"))
