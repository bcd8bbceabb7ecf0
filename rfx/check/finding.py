"""Results of the checks of a robot's files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OK, WARNING, MISTAKE = "ok", "warning", "mistake"
VERDICTS = (OK, WARNING, MISTAKE)  # from best to worst


@dataclass(frozen=True, kw_only=True)
class Finding:
    """One thing that is wrong (a mistake) or may be wrong (a warning), and how to mend it."""

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
        """Verdict of the worst finding; ok without findings."""
        return max((finding.verdict for finding in self.findings), key=VERDICTS.index, default=OK)


def mistake(text: str, mend: str) -> Finding:
    """Make a finding that must be mended before training."""
    return Finding(verdict=MISTAKE, text=text, mend=mend)


def warning(text: str, mend: str) -> Finding:
    """Make a finding that may be intended."""
    return Finding(verdict=WARNING, text=text, mend=mend)
