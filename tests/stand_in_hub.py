"""A stand-in on loopback for what the Hugging Face Hub does when files are uploaded."""

import base64
import contextlib
import hashlib
import json
from urllib.parse import urlsplit

from tests.web_server import Handler, serving

TOKEN = "hf_MARKEDSECRET"


class UploadHandler(Handler):
    protocol_version = "HTTP/1.1"

    def do_POST(self):
        hub, path, data = self.server, urlsplit(self.path).path, self.body()
        hub.seen.append(f"POST {path}")
        if hub.refuses and hub.refuses in path:
            return self.answer({"error": "you may not"}, 403)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer({"error": "Invalid user token"}, 401)
        if path == "/api/repos/create":
            asked = json.loads(data)
            name = f"{asked['organization']}/{asked['name']}"
            exists, _ = name in hub.created, hub.created.setdefault(name, asked)
            return self.answer({"url": f"{hub.url}/datasets/{name}"}, 409 if exists else 200)
        if path.endswith("/preupload/main"):
            names = [file["path"] for file in json.loads(data)["files"]]
            modes = {True: "lfs", False: "regular"}
            return self.answer({"files": [
                {"path": name, "shouldIgnore": False, "oid": None,
                 "uploadMode": modes[name.endswith((".parquet", ".tar"))]}
                for name in names
            ]})  # fmt: skip
        if path.endswith("/info/lfs/objects/batch"):
            link = {"upload": {"href": f"{hub.url}/lfs", "header": {}}}
            asked = json.loads(data)["objects"]
            return self.answer({"transfer": "basic", "objects": [
                {**one, "actions": {"upload": {**link["upload"], "href":
                 f"{hub.url}/lfs/{one['oid']}"}}} for one in asked
            ]})  # fmt: skip
        if path == "/api/validate-yaml":
            return self.answer({"errors": [], "warnings": []})
        assert path.endswith("/commit/main"), path
        for line in data.splitlines():
            self.commit(**json.loads(line))
        link = f"{hub.url}/datasets/me/set/commit/0"
        return self.answer({"success": True, "commitOid": "0", "commitUrl": link})

    def commit(self, key, value):
        hub = self.server
        if key == "file":
            hub.files[value["path"]] = base64.b64decode(value["content"])
        elif key == "lfsFile":
            hub.files[value["path"]] = hub.large[value["oid"]]
        elif key == "deletedFile":
            del hub.files[value["path"]]

    def do_PUT(self):
        data, name = self.body(), self.path.rpartition("/")[2]
        assert hashlib.sha256(data).hexdigest() == name
        self.server.seen.append("PUT /lfs")
        self.server.large[name] = data
        self.answer({})

    def do_GET(self):
        path = urlsplit(self.path).path
        self.server.seen.append(f"GET {path}")
        if self.server.refuses and self.server.refuses in path:
            return self.answer({"error": "you may not"}, 403)
        if "/resolve/" in path:
            return self.send(self.server.files[path.partition("/main/")[2]])
        if "/tree/" in path:
            return self.answer([self.entry(*file) for file in sorted(self.server.files.items())])
        return self.answer({})

    def entry(self, name, data):
        git = hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
        found = {"type": "file", "path": name, "oid": git, "size": len(data)}
        if name.endswith((".parquet", ".tar")):
            sha256 = hashlib.sha256(data).hexdigest()
            found["lfs"] = {"oid": sha256, "size": len(data), "pointerSize": 1}
        return found

    def body(self):
        return self.rfile.read(int(self.headers.get("Content-Length") or 0))

    def answer(self, value, status=200):
        self.send(json.dumps(value).encode(), status)

    def send(self, data, status=200):
        self.send_response(status)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Content-Type", "application/json")
        self.send_header("ETag", '"0"')
        self.send_header("X-Repo-Commit", "0" * 40)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data)


@contextlib.contextmanager
def running():
    """Yield the server: ``url``, ``files``, ``created`` repositories, requests ``seen``.

    It answers 403 to paths that hold the text ``refuses``.
    """
    state = {"files": {}, "large": {}, "created": {}, "seen": [], "refuses": ""}
    with serving(UploadHandler, **state) as server:
        yield server
