"""As much of the hub's HTTP interface as a download and an upload need, on the loopback address."""

import base64
import hashlib
import json
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import unquote, urlsplit


@dataclass
class FakeHub:
    """Repositories by name; each has revisions, each revision its files."""

    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    requests: list[str] = field(default_factory=list)
    downloads: list[str] = field(default_factory=list)
    refuse_commits: bool = False
    url: str = ""

    def sha(self, repo, revision):
        return hashlib.sha1(f"{repo}@{revision}".encode()).hexdigest()

    def revision_named(self, repo, name):
        return next((each for each in self.repos[repo] if name in (each, self.sha(repo, each))), None)


class Handler(BaseHTTPRequestHandler):
    """Answers from ``hub``, a class attribute of the server's own subclass."""

    hub: FakeHub
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", headers=()):
        self.send_response(status)
        for name, value in dict(headers).items():
            self.send_header(name, value)
        if "Content-Length" not in dict(headers):
            self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def missing(self, code):
        self.answer(404, b"{}", {"X-Error-Code": code, "X-Error-Message": code})

    def as_json(self, content, status=200):
        self.answer(status, json.dumps(content).encode(), {"Content-Type": "application/json"})

    def route(self):
        path = unquote(urlsplit(self.path).path).strip("/")
        self.hub.requests.append(f"{self.command} {path}")
        return path.split("/")

    def do_HEAD(self):
        self.do_GET()

    def do_GET(self):
        parts = self.route()
        is_api = parts[:2] == ["api", "models"]
        repo = "/".join(parts[2:4] if is_api else parts[:2])
        if repo not in self.hub.repos:
            return self.missing("RepoNotFound")
        name = parts[5] if is_api else parts[3]
        revision = self.hub.revision_named(repo, name)
        if revision is None:
            return self.missing("RevisionNotFound")
        files, sha = self.hub.repos[repo][revision], self.hub.sha(repo, revision)
        if is_api and parts[4] == "tree":
            return self.as_json([{"type": "file", "path": path, "size": 1, "oid": "0"} for path in files])
        if is_api:
            return self.as_json({"id": repo, "sha": sha, "siblings": [{"rfilename": path} for path in files]})
        path = "/".join(parts[4:])
        if path not in files:
            return self.missing("EntryNotFound")
        data = files[path]
        if self.command == "GET":
            self.hub.downloads.append(path)
        etag = hashlib.sha1(data).hexdigest()
        return self.answer(200, data, {"ETag": f'"{etag}"', "X-Repo-Commit": sha, "Content-Length": len(data)})

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        parts = self.route()
        if parts == ["api", "validate-yaml"]:
            return self.as_json({"errors": [], "warnings": []})
        if parts == ["api", "repos", "create"]:
            asked = json.loads(body)
            repo = f"{asked['organization']}/{asked['name']}" if asked.get("organization") else asked["name"]
            self.hub.repos.setdefault(repo, {"main": {}})
            return self.as_json({"url": f"{self.hub.url}/{repo}"})
        repo, action, revision = "/".join(parts[2:4]), parts[4], parts[5]
        if action == "branch":
            if revision in self.hub.repos[repo]:
                return self.answer(409, b"{}")
            self.hub.repos[repo][revision] = dict(self.hub.repos[repo]["main"])
            return self.as_json({})
        if action == "preupload":
            asked = json.loads(body)["files"]
            kept = [{"path": each["path"], "uploadMode": "regular", "shouldIgnore": False} for each in asked]
            return self.as_json({"files": kept})
        if self.hub.refuse_commits:
            return self.answer(403, b'{"error": "no write access"}')
        for line in map(json.loads, body.splitlines()):
            value = line["value"]
            if line["key"] == "file":
                self.hub.repos[repo][revision][value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "deletedFile":
                self.hub.repos[repo][revision].pop(value["path"], None)
        oid = self.hub.sha(repo, revision)
        return self.as_json({"success": True, "commitOid": oid, "commitUrl": f"{self.hub.url}/{repo}/commit/{oid}"})


def serve(hub):
    """Start answering; return the server, to be shut down."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), type("Bound", (Handler,), {"hub": hub}))
    hub.url = f"http://127.0.0.1:{server.server_address[1]}"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    return server
