"""The field's text of a DARTS genotype: ``Genotype(normal=[…], …)`` enters, its parts as plain values leave.

Published codes evaluate such texts. Here a grammar of strings, whole numbers, lists, tuples and ranges takes them
apart: nothing in a text can run, and what is wrong has a position.
"""

import re
from collections.abc import Iterator
from typing import Any, NoReturn

#: A value of a text; tuples become lists, and so do ranges.
Value = str | int | list[Any]

MOST_CHARACTERS = 20_000
#: ``normal=[[(('operation', …), source, target), …], …]`` is the deepest that any form needs.
MOST_DEPTH = 4
#: Ranges are cut here: cells have few nodes, and a range of a billion is a mistake, not a list to make.
_MOST_NODES = 100
_MOST_DIGITS = 15

_BRACKETS = {"[": "]", "(": ")"}
_TOKEN = re.compile(
    r"""\s*(?:(?P<name>[A-Za-z_]\w*)|(?P<number>-?[0-9]+\b)|(?P<text>'[^'\\\n]*'|"[^"\\\n]*")|(?P<mark>[][(),=]))"""
)
_BEGINNING = re.compile(r"\bGenotype\s*\(")
_BARE = re.compile(r"\s*(?:normal|reduce)(?:_concat)?\s*=")
_MARKED = re.compile(r"(?m)^(\s*)#")
_COMMENT = re.compile(r"#[^\n]*")


class GenotypeTextError(ValueError):
    """What is wrong with a text, and where, as the end of a sentence that began with the text."""


def parts_of(text: str) -> dict[str, Value]:
    """Return the named parts of a genotype's text.

    The text may be what a published code prints or has in its source: with or without ``Genotype(…)`` around the
    parts, with a name, a time or a module before it, over several lines, with comments, or as a comment. Tuples become
    lists, and so do ranges.

    Raises:
        GenotypeTextError: If the text is too long, too deep, or follows another grammar.
    """
    if len(text) > MOST_CHARACTERS:
        raise GenotypeTextError(f"there are {len(text):,} characters, where {MOST_CHARACTERS:,} are the most")
    # Replaced by as many blanks, so that positions stay those of the text as given.
    if all(line.lstrip().startswith("#") for line in text.splitlines() if line.strip()):
        text = _MARKED.sub(r"\1 ", text)
    text = _COMMENT.sub(lambda found: " " * len(found[0]), text).rstrip().rstrip(",;").rstrip()
    beginning = _BEGINNING.search(text)
    if beginning is None:
        if not _BARE.match(text):
            raise GenotypeTextError("the beginning is not 'Genotype('")
        reader = _Reader(text, 0)
        parts = reader.fields(end="")
    else:
        before = text[: beginning.start()].rstrip()
        if before and before[-1] not in "=.:":
            raise GenotypeTextError(f"'{shown(before[-20:])}' stands before 'Genotype(' without an equals sign")
        reader = _Reader(text, beginning.end())
        parts = reader.fields(end=")")
    reader.close()
    return parts


def shown(text: str, most: int = 200) -> str:
    """Return the beginning of a text, fit to be printed: what is no printable character is spelled as an escape."""
    cut = text if len(text) <= most else text[: most - 3] + "..."
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in cut)


class _Reader:
    """Reads a text from a position on, word by word."""

    def __init__(self, text: str, start: int) -> None:
        self._text = text
        self._words = self._split(start)
        self._before = ""
        self._kind, self._word, self._start = next(self._words)

    def fields(self, *, end: str) -> dict[str, Value]:
        """Read ``name=value, …`` up to a closing mark, or the end of the text."""
        found: dict[str, Value] = {}
        while self._word != end:
            if found:
                self._take(",", f"',' or {_named(end)}")
                if self._word == end:
                    break
            if self._kind != "name":
                self._expected("a part such as normal=[...]")
            name = self._word
            if name in found:
                raise GenotypeTextError(f"{name} stands twice, at character {self._start + 1} again")
            self._next()
            self._take("=", "'='")
            found[name] = self._value(name, 1)
        self._next()
        return found

    def close(self) -> None:
        """Refuse anything that is left."""
        if self._kind != "end":
            self._expected("nothing more")

    def _value(self, part: str, depth: int) -> Value:
        kind, word = self._kind, self._word
        if kind == "text":
            self._next()
            return word[1:-1]
        if kind == "number":
            return self._number()
        if kind == "name" and word == "range":
            return self._range()
        if word not in _BRACKETS or kind != "mark":
            self._expected(f"a list, a range, a name in quotes or a whole number (in {part})")
        if depth > MOST_DEPTH:
            raise GenotypeTextError(
                f"brackets of {part} are nested more than {MOST_DEPTH} deep at character {self._start + 1}"
            )
        end = _BRACKETS[word]
        self._next()
        values: list[Value] = []
        while self._word != end:
            if values:
                self._take(",", f"',' or '{end}'")
                if self._word == end:
                    break
            values.append(self._value(part, depth + 1))
        # Parentheses around one value are no tuple: ('operation') is the operation.
        single = word == "(" and len(values) == 1 and self._before != ","
        self._next()
        return values[0] if single else values

    def _range(self) -> Value:
        start = self._start
        self._next()
        self._take("(", "'('")
        limits: list[int] = []
        while self._word != ")":
            if limits:
                self._take(",", "',' or ')'")
                if self._word == ")":
                    break
            if self._kind != "number":
                self._expected("a whole number in range(...)")
            limits.append(self._number())
        self._next()
        if not 1 <= len(limits) <= 3 or limits[2:] == [0]:
            raise GenotypeTextError(
                f"the range at character {start + 1} has no first and last node, as range(2, 5) has"
            )
        return list(range(*limits)[:_MOST_NODES])

    def _number(self) -> int:
        # Longer ones are none of a cell, and beyond some length no number at all for Python.
        if len(self._word) > _MOST_DIGITS:
            raise GenotypeTextError(f"the number at character {self._start + 1} has {len(self._word)} digits")
        value = int(self._word)
        self._next()
        return value

    def _take(self, mark: str, expected: str) -> None:
        if self._word != mark:
            self._expected(expected)
        self._next()

    def _next(self) -> None:
        self._before = self._word
        self._kind, self._word, self._start = next(self._words)

    def _expected(self, what: str) -> NoReturn:
        if self._kind == "end":
            raise GenotypeTextError(f"the text ends where {what} was expected")
        raise GenotypeTextError(
            f"{shown(repr(self._word), 30)} stands at character {self._start + 1}, where {what} was expected"
        )

    def _split(self, start: int) -> Iterator[tuple[str, str, int]]:
        while start < len(self._text):
            found = _TOKEN.match(self._text, start)
            kind = found and found.lastgroup
            if found is None or kind is None:
                rest = self._text[start:].lstrip()
                yield "other", rest[:1], len(self._text) - len(rest)
                # Whatever reads it refuses it, so that nobody asks for what follows.
                return
            yield kind, found[kind], found.start(kind)
            start = found.end()
        while True:
            yield "end", "", len(self._text)


def _named(end: str) -> str:
    return f"'{end}'" if end else "the end"
