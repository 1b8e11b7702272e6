# Copyright: (c) 2025, vllmd.platform maintainers
# Apache License 2.0 (see LICENSE or https://www.apache.org/licenses/LICENSE-2.0)
"""Read an environment file exactly as systemd's EnvironmentFile= does (systemd.exec(5), src/basic/env-file.c)."""

from __future__ import annotations

import string

_COMMENTS = "#;"
_NEWLINE = "\n\r"
_BLANK = " \t"
_ESCAPABLE = '"\\`$'  # what a backslash escapes inside double quotes; before anything else it stands for itself
_NAME_FIRST = string.ascii_letters + "_"
_NAME_REST = _NAME_FIRST + string.digits


class EnvFileError(ValueError):
    """An environment file that cannot be used: one line that says where and why."""


class _Reader:
    """One pass over the text, character by character, as systemd's state machine makes it."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.position = 0

    def take(self) -> str:
        """Return the next character and step over it; an empty string at the end."""
        character = self.text[self.position : self.position + 1]
        self.position += 1
        return character

    def skip_comment(self) -> None:
        """Step over the rest of the line."""
        while (character := self.take()) and character not in _NEWLINE:
            pass

    def key(self, first: str) -> str | None:
        """Return the name before ``=``; None when the line ends first (systemd ignores such a line)."""
        name = first
        while (character := self.take()) and character not in _NEWLINE:
            if character == "=":
                return name.rstrip(_BLANK)
            name += character
        return None

    def value(self) -> str:
        """Return the value: quoted pieces and then perhaps an unquoted one; blanks outside quotes around them drop."""
        value = ""
        while (character := self.take()) and character not in _NEWLINE:
            if character == "'":
                value += self.until_quote("'")
            elif character == '"':
                value += self.until_quote('"', _ESCAPABLE)
            elif character not in _BLANK:
                self.position -= 1
                return value + self.unquoted()
        return value

    def unquoted(self) -> str:
        """Return the rest of the line without its trailing blanks; quotes in it stand for themselves."""
        piece, kept = "", 0  # piece[:kept] is safe from the trimming
        while (character := self.take()) and character not in _NEWLINE:
            escaped = character == "\\"
            if escaped:
                character = self.take()
                character = "" if character in _NEWLINE else character
            piece += character
            if escaped or character not in _BLANK:
                kept = len(piece)
        return piece[:kept]

    def until_quote(self, quote: str, escapable: str = "") -> str:
        """Return the text up to the closing quote; one that never comes ends with the file, as in systemd."""
        piece = ""
        while (character := self.take()) and character != quote:
            if character == "\\" and escapable:
                escaped = self.take()
                if escaped in escapable:
                    piece += escaped
                elif escaped != "\n":
                    piece += character + escaped
            else:
                piece += character
        return piece


def parse(text: str, source: str = "environment file") -> dict[str, str]:
    """Return the variables of an environment file; the last of several assignments counts.

    ``source`` names the file in the EnvFileError that a name which is no variable's name raises. systemd only logs
    such a line and starts without it, which is how a typing error becomes a puzzle.
    """
    reader, variables = _Reader(text), {}
    while character := reader.take():
        if character in _BLANK + _NEWLINE:
            continue
        if character in _COMMENTS:
            reader.skip_comment()
            continue
        line = text.count("\n", 0, reader.position - 1) + 1
        name = reader.key(character)
        if name is None:
            raise EnvFileError(f"{source} line {line}: no NAME=value and no comment; write one, or remove the line")
        if name[0] not in _NAME_FIRST or any(letter not in _NAME_REST for letter in name):
            raise EnvFileError(f"{source} line {line}: {name!r} is no variable name; use letters, digits and _")
        variables[name] = reader.value()
    return variables
