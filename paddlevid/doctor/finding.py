"""Findings: what a check says."""

from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True)
class Finding:
    """What a check found, and what to do about it.

    Args:
        level: "ok"; "warning": something may go wrong or is slow; "wrong": something does not work.
        text: what was found.
        advice: what to do; of "ok" it is empty.
    """

    level: Literal["ok", "warning", "wrong"]
    text: str
    advice: str = ""

    def lines(self) -> str:
        """For the page."""
        marks = {"ok": "  ", "warning": "? ", "wrong": "! "}
        name = "" if self.level == "ok" else f"{self.level}: "
        text = f"{marks[self.level]}{name}{self.text}".replace("\n", "\n    ")
        return text + (f"\n    -> {self.advice}" if self.advice else "")


def ok(text: str) -> Finding:
    """All is well."""
    return Finding("ok", text)


def warning(text: str, advice: str) -> Finding:
    """Something may go wrong, or is slow."""
    return Finding("warning", text, advice)


def wrong(text: str, advice: str) -> Finding:
    """Something does not work."""
    return Finding("wrong", text, advice)
