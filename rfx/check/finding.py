"""What a check of a robot's files finds."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OK, WARNING, MISTAKE = "ok", "warning", "mistake"
VERDICTS = (OK, WARNING, MISTAKE)  # from good to bad


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong (a mistake) or may be (a warning), and what mends it."""

    verdict: str
    text: str
    mend: str


@dataclass(frozen=True, kw_only=True)
class Check:
    """One check: its name, what it measured, and what it found."""

    name: str
    measured: str = ""
    findings: Sequence[Finding] = ()

    @property
    def verdict(self) -> str:
        """That of the worst finding; ok without any."""
        return max((finding.verdict for finding in self.findings), key=VERDICTS.index, default=OK)


def mistake(text: str, mend: str) -> Finding:
    """A finding that must be mended before training."""
    return Finding(verdict=MISTAKE, text=text, mend=mend)


def warning(text: str, mend: str) -> Finding:
    """A finding that may be meant."""
    return Finding(verdict=WARNING, text=text, mend=mend)
