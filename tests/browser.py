"""A real browser for the live page: `python tests/browser.py` brings one into this virtual environment, and Browser
drives it.

npm's package @sparticuz/chromium carries headless Chromium and needs no root; Debian's package chromium needs it.
"""

from __future__ import annotations

import fcntl
import itertools
import json
import os
import select
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

FOLDER = Path(sys.prefix) / "browser"
WHY_NOT = FOLDER / "why_not.txt"
NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
# The package unpacks into the folder for temporary files, and its own libraries (NSS) only where it believes that it
# runs on Amazon Linux.
UNPACK = "(async () => { const chromium = require('@sparticuz/chromium'); await (chromium.default ?? chromium).executablePath(); })()"
PIPES = (
    "import os, sys; os.dup2(int(sys.argv[1]), 3); os.dup2(int(sys.argv[2]), 4); os.execv(sys.argv[3], sys.argv[3:])"
)


def find() -> str | None:
    """Where a Chromium is: what was brought, or what is installed."""
    own = FOLDER / "chromium.sh"
    return str(own) if own.is_file() else next(filter(None, map(shutil.which, NAMES)), None)


def why_not() -> str:
    """Why there is none."""
    return (
        WHY_NOT.read_text() if WHY_NOT.is_file() else "no Chromium: make test, or python tests/browser.py, brings one"
    )


def bring() -> None:
    """Have a Chromium that runs, or a note of why not. Takes seconds, once."""
    if find():
        return
    FOLDER.mkdir(exist_ok=True)
    reasons = [reason for bring_from in (bring_from_npm, bring_from_debian) if not find() and (reason := bring_from())]
    if find():
        return WHY_NOT.unlink(missing_ok=True)
    WHY_NOT.write_text("no Chromium: " + "; ".join(reasons))
    print(f"the live page will not be tested in a browser: {why_not()}")


def bring_from_npm() -> str | None:
    """What was in the way, or None."""
    if not shutil.which("npm"):
        return "npm is not installed"
    print("bringing a browser for the live page, once", flush=True)
    environment = os.environ | {"TMPDIR": str(FOLDER), "AWS_EXECUTION_ENV": "AWS_Lambda_nodejs20.x"}
    for command in (
        ["npm", "install", "--no-audit", "--no-fund", "--prefix", str(FOLDER), "@sparticuz/chromium"],
        ["node", "-e", UNPACK],
    ):
        done = subprocess.run(command, cwd=FOLDER, env=environment, capture_output=True, text=True)
        if done.returncode:
            return f"npm's @sparticuz/chromium: {last_line(done)}"
    script = FOLDER / "chromium.sh"
    script.write_text(f'#!/bin/sh\nLD_LIBRARY_PATH="{FOLDER}/al2023/lib" exec "{FOLDER}/chromium" "$@"\n')
    script.chmod(0o755)
    shutil.rmtree(FOLDER / "node_modules")
    return broken(script)


def broken(script: Path) -> str | None:
    """What a Chromium that does not run says; it is removed then."""
    try:
        done = subprocess.run([script, "--version"], capture_output=True, text=True, timeout=60)
        if not done.returncode:
            return None
        why = last_line(done)
    except subprocess.TimeoutExpired:
        why = "no version within a minute"
    script.unlink()
    return f"npm's @sparticuz/chromium does not run: {why}"


def bring_from_debian() -> str | None:
    """What was in the way, or None."""
    if not shutil.which("apt-get"):
        return "there is no apt-get"
    if os.geteuid():
        return "apt-get install chromium needs root"
    environment = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
    for command in (["update"], ["install", "--yes", "--no-install-recommends", "chromium"]):
        done = subprocess.run(["apt-get", "--quiet", *command], env=environment, capture_output=True, text=True)
    return f"apt-get install chromium: {last_line(done)}" if done.returncode else None


def last_line(done: subprocess.CompletedProcess) -> str:
    return next(iter((done.stderr or done.stdout).strip().splitlines()[-1:]), f"ended with status {done.returncode}")


class Browser:
    """Headless Chromium on one page; a context manager.

    Speaks the DevTools protocol over pipes, which the browser has as 3 and 4.
    """

    def __init__(self, url: str):
        self._profile = tempfile.TemporaryDirectory(ignore_cleanup_errors=True)
        pipes = [*os.pipe(), *os.pipe()]
        theirs = [fcntl.fcntl(pipe, fcntl.F_DUPFD_CLOEXEC, 10) for pipe in (pipes[0], pipes[3])]
        os.close(pipes[0]), os.close(pipes[3])
        options = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--remote-debugging-pipe",
            f"--user-data-dir={self._profile.name}",
        ]
        self._process = subprocess.Popen(
            [sys.executable, "-S", "-c", PIPES, *map(str, theirs), find(), *options],
            pass_fds=theirs,
            stderr=subprocess.DEVNULL,
        )
        os.close(theirs[0]), os.close(theirs[1])
        self._write, self._read, self._said, self._numbers = pipes[1], pipes[2], b"", itertools.count(1)
        target = self.call("Target.createTarget", url=url)["targetId"]
        self._session = {"sessionId": self.call("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]}

    _session: dict[str, str] = {}

    def call(self, method: str, timeout_s: float = 60.0, **parameters: Any) -> dict[str, Any]:
        """One command of the protocol, and its result."""
        number, deadline_s = next(self._numbers), time.monotonic() + timeout_s
        os.write(
            self._write,
            json.dumps({"id": number, "method": method, "params": parameters, **self._session}).encode() + b"\0",
        )
        while True:
            message, end, rest = self._said.partition(b"\0")
            if end:
                self._said, answer = rest, json.loads(message)
                if answer.get("id") == number:
                    assert "error" not in answer, answer
                    return answer["result"]
            else:
                assert select.select([self._read], [], [], max(0.0, deadline_s - time.monotonic()))[0], (
                    f"no answer to {method} in {timeout_s:g} s"
                )
                more = os.read(self._read, 65536)
                assert more, "the browser has ended"
                self._said += more

    def value(self, expression: str) -> Any:
        """Of JavaScript, in the page."""
        return self.call("Runtime.evaluate", expression=expression, returnByValue=True)["result"].get("value")

    def wait_for(self, expression: str, timeout_s: float = 60.0) -> None:
        """Until it is true."""
        deadline_s = time.monotonic() + timeout_s
        while not self.value(expression):
            assert time.monotonic() < deadline_s, (
                f"{expression} not in {timeout_s:g} s; the page: {self.value('document.body.innerText')}"
            )
            time.sleep(0.05)

    def press(self, key: str) -> None:
        """A key, down and up."""
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key)

    def __enter__(self) -> Browser:
        return self

    def __exit__(self, *exception: Any) -> None:
        self._process.kill()
        self._process.wait()
        os.close(self._write), os.close(self._read)
        self._profile.cleanup()


if __name__ == "__main__":
    bring()
