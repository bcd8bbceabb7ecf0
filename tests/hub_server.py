"""A stand-in for the Hugging Face Hub on this machine: the endpoints that its client uses to make a repository, commit
to it and read it.
"""

from __future__ import annotations

import base64
import hashlib
import json
import re
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit

TOKEN = "hf_of_the_test"


class Hub:
    """Repositories in memory; a commit for each change, `main` being the last.

    A context manager. requests: method and path of each.
    """

    def __init__(self) -> None:
        self.commits: dict[str, dict[str, dict[str, bytes]]] = {}  # repository -> commit -> file -> content
        self.tags: dict[str, dict[str, str]] = {}
        self.private: dict[str, bool] = {}
        self.listed_sizes: dict[str, int | None] = {}  # told instead of a file's real size
        self.requests: list[tuple[str, str]] = []
        hub = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *arguments) -> None:
                pass

            def do_GET(self) -> None:
                hub.answer(self)

            do_HEAD = do_POST = do_GET

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Hub:
        threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()

    def commit(self, repository: str, files: dict[str, bytes]) -> str:
        """Let main be these files. Returns the commit."""
        history = self.commits.setdefault(repository, {})
        digest = hashlib.sha1(repr((len(history), sorted(files.items()))).encode()).hexdigest()
        history[digest] = dict(files)
        return digest

    def find(self, repository: str, revision: str) -> tuple[str, dict[str, bytes]]:
        history = self.commits[repository]
        commit = {"main": list(history)[-1], **self.tags.get(repository, {})}.get(revision, revision)
        return commit, history[commit]

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path, body = (
            unquote(urlsplit(request.path).path),
            request.rfile.read(int(request.headers.get("Content-Length") or 0)),
        )
        self.requests.append((request.command, path))
        if request.command == "POST" and request.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.say(request, 401, {"error": "Invalid username or password."})
        try:
            for pattern, method in (
                (r"/api/repos/create", self._create),
                (r"/api/validate-yaml", self._validate),
                (r"/api/models/([^/]+/[^/]+)/preupload/(.+)", self._preupload),
                (r"/api/models/([^/]+/[^/]+)/commit/(.+)", self._commit),
                (r"/api/models/([^/]+/[^/]+)/tree/([^/]+)", self._tree),
                (r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", self._info),
            ):
                if match := re.fullmatch(pattern, path):
                    return self.say(request, 200, method(body, *match.groups()))
            match = re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path)
            if match is None:
                return self.say(request, 404, {"error": "no such endpoint"})
            commit, files = self.find(match[1], match[2])
            content = files[match[3]]
            self.say(request, 200, content, {"ETag": f'"{_oid(content)}"', "X-Repo-Commit": commit})
        except KeyError:
            self.say(request, 404, {"error": "Repository not found"}, {"X-Error-Code": "RepoNotFound"})

    def say(
        self,
        request: BaseHTTPRequestHandler,
        status: int,
        content: bytes | dict | list,
        headers: dict[str, str] | None = None,
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        request.send_response(status)
        for name, value in {
            "Content-Type": "application/json",
            "Content-Length": str(len(data)),
            **(headers or {}),
        }.items():
            request.send_header(name, value)
        request.end_headers()
        if request.command != "HEAD":
            request.wfile.write(data)

    def _create(self, body: bytes) -> dict:
        values = json.loads(body)
        repository = f"{values['organization']}/{values['name']}"
        if repository not in self.commits:
            self.private[repository] = values.get("visibility") == "private" or values.get("private") is True
            self.commit(repository, {".gitattributes": b"*.safetensors filter=lfs\n"})
        return {"url": f"{self.url}/{repository}", "name": repository, "id": repository}

    def _validate(self, body: bytes) -> dict:
        assert json.loads(body)["content"].startswith("---\n")
        return {"errors": [], "warnings": []}

    def _preupload(self, body: bytes, repository: str, revision: str) -> dict:
        files = self.find(repository, revision)[1]
        return {
            "files": [
                {
                    "path": file["path"],
                    "uploadMode": "regular",
                    "shouldIgnore": False,
                    "oid": _oid(files[file["path"]]) if file["path"] in files else None,
                }
                for file in json.loads(body)["files"]
            ]
        }

    def _commit(self, body: bytes, repository: str, revision: str) -> dict:
        files = dict(self.find(repository, revision)[1])
        for line in map(json.loads, body.splitlines()):
            if line["key"] == "file":
                files[line["value"]["path"]] = base64.b64decode(line["value"]["content"])
            elif line["key"] == "deletedFile":
                del files[line["value"]["path"]]
            else:
                assert line["key"] == "header", line
        commit = self.commit(repository, files)
        return {"success": True, "commitOid": commit, "commitUrl": f"{self.url}/{repository}/commit/{commit}"}

    def _tree(self, body: bytes, repository: str, revision: str) -> list:
        return [
            {"type": "file", "path": name, "size": len(content), "oid": _oid(content)}
            for name, content in self.find(repository, revision)[1].items()
        ]

    def _info(self, body: bytes, repository: str, revision: str | None) -> dict:
        commit, files = self.find(repository, revision or "main")
        siblings = [
            {"rfilename": name, "size": self.listed_sizes.get(name, len(content)), "blobId": _oid(content)}
            for name, content in files.items()
        ]
        return {
            "_id": repository,
            "id": repository,
            "modelId": repository,
            "sha": commit,
            "private": self.private.get(repository, False),
            "tags": [],
            "siblings": siblings,
        }


def _oid(content: bytes) -> str:
    """As git names content."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
