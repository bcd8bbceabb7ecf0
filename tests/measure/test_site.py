"""The documentation site: every page and every term is in it, and it asks for nothing from elsewhere."""

import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import rfx
from rfx.settings.terms import available

ROOT = Path(__file__).resolve().parents[2]
pytestmark = pytest.mark.e2e


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    """The site, built as make docs builds it: a warning is an error."""
    pytest.importorskip("mkdocs", reason="needs the extra docs")
    folder = tmp_path_factory.mktemp("site")
    done = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    return folder


def test_every_page_is_listed(site):
    listed = set(re.findall(r'href="([\w/]+)\.html"', (site / "index.html").read_text()))
    assert {path.stem for path in (ROOT / "docs").glob("*.md")} <= listed
    assert {"keys", "reference/rfx", "reference/nn", "reference/train", "reference/terms"} <= listed


def test_every_term_and_every_exported_name_is_in_the_reference(site):
    from measure.docs.pages import TERMS

    terms = (site / "reference" / "terms.html").read_text()
    for module in TERMS.values():
        names = available(importlib.import_module(module))
        assert names and not [name for name in names if f'id="{module}.{name}"' not in terms]
    shown = (site / "reference" / "rfx.html").read_text()
    assert not [name for names in rfx.EXPORTS.values() for name in names if f"rfx.{name}" not in shown]


def test_every_commands_options_are_told(site):
    text = (site / "keys.html").read_text()
    assert all(option in text for option in ("env.num_envs", "--velocity", "--no-card", "suite", "num_minibatches"))


def test_nothing_comes_from_elsewhere(site):
    for path in site.rglob("*.html"):
        assert not re.findall(r'<(?:script|img|iframe)[^>]*\ssrc="(?:https?:)?//[^"]*"', path.read_text()), path
        assert not re.findall(r'<link[^>]*stylesheet[^>]*href="(?:https?:)?//[^"]*"', path.read_text()), path
