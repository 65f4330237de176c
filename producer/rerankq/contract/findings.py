"""What a check found: one line for people, with its cure where something is wrong."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

Verdict = Literal["ok", "skipped", "warn", "broken"]
_EXIT_CODES: dict[Verdict, int] = {"ok": 0, "skipped": 0, "warn": 1, "broken": 2}


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found."""

    check: str
    verdict: Verdict
    text: str
    """What is so, or why nobody could look; one line."""
    cure: str = ""
    """What to type, or to set, where something is wrong."""


def ok(check: str, text: str) -> Finding:
    """All is well."""
    return Finding(check, "ok", text)


def skipped(check: str, why: str) -> Finding:
    """Nobody could look."""
    return Finding(check, "skipped", why)


def warn(check: str, text: str, cure: str) -> Finding:
    """The service serves; something is at risk, slower or otherwise not as wanted."""
    return Finding(check, "warn", text, cure)


def broken(check: str, text: str, cure: str) -> Finding:
    """Jobs are refused, unanswered or answered wrongly until it is cured."""
    return Finding(check, "broken", text, cure)


def from_message(check: str, message: str, otherwise: str, verdict: Verdict = "broken") -> Finding:
    """Of an error of ours, whose way out stands behind its last semicolon; `otherwise` where it names none."""
    text, _, cure = message.rpartition("; ")
    if cure.startswith("run `") and cure.find("`", 5) == len(cure) - 1:
        cure = cure[5:-1]
    return Finding(check, verdict, text, cure) if text else Finding(check, verdict, message, otherwise)


def exit_code(findings: Iterable[Finding]) -> int:
    """0 all is well, 1 a warning, 2 broken."""
    return max((_EXIT_CODES[finding.verdict] for finding in findings), default=0)


def in_words(finding: Finding) -> str:
    """One line for people; what is to be typed stands behind the arrow."""
    cure = f" → {finding.cure}" if finding.cure else ""
    return f"{finding.verdict:7}  {finding.check:19}  {finding.text}{cure}"
