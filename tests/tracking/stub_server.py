"""A W&B server on loopback with what the real client needs; it records what it receives."""

import gzip
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


class StubServer:
    """Receives runs and their history; clear `answering` to make it stop responding."""

    def __init__(self) -> None:
        self.runs: dict[str, dict[str, Any]] = {}
        self.answering = threading.Event()
        self.answering.set()
        self._http = ThreadingHTTPServer(("127.0.0.1", 0), self._handler())
        self._http.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._http.server_address[1]}"
        threading.Thread(target=self._http.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True).start()

    def close(self) -> None:
        self.answering.set()
        self._http.shutdown()
        self._http.server_close()

    def history(self, run_id: str) -> list[dict[str, Any]]:
        """The lines of a run's history, without W&B's own keys."""
        lines = self.runs[run_id]["history"]
        return [{key: value for key, value in lines[n].items() if not key.startswith("_")} for n in sorted(lines)]

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        server = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def log_message(self, *args: object) -> None:
                pass

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                if self.headers.get("Content-Encoding") == "gzip":
                    body = gzip.decompress(body)
                server.answering.wait(60)
                if self.path == "/graphql":
                    self._answer(server.graphql(json.loads(body)))
                elif self.path.endswith("/file_stream"):
                    server.stream(self.path.split("/")[4], json.loads(body))
                    self._answer({})
                else:
                    self._answer({}, 404)

            def do_PUT(self) -> None:
                self.rfile.read(int(self.headers.get("Content-Length", 0)))
                self._answer({})

            def _answer(self, value: object, status: int = 200) -> None:
                data = json.dumps(value).encode()
                self.send_response(status)
                self.send_header("Content-Type", "application/json")
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

        return Handler

    def graphql(self, request: dict[str, Any]) -> dict[str, Any]:
        variables = request.get("variables") or {}
        match request.get("operationName"):
            case "RunResumeStatus":
                return {"data": {"model": self._project() | {"bucket": self._resume_status(variables["name"])}}}
            case "UpsertBucket":
                return {"data": {"upsertBucket": self._upsert(variables)}}
            case "CreateRunFiles":
                files = [{"name": name, "uploadUrl": f"{self.url}/upload/{name}"} for name in variables["files"]]
                return {"data": {"createRunFiles": {"runID": variables["run"], "uploadHeaders": [], "files": files}}}
            case "Viewer":
                return {
                    "data": {
                        "viewer": {"id": "1", "entity": "us", "username": "us", "flags": "{}", "teams": {"edges": []}}
                    }
                }
        return {"data": {}}

    def stream(self, run_id: str, body: dict[str, Any]) -> None:
        run = self.runs[run_id]
        history = (body.get("files") or {}).get("wandb-history.jsonl")
        if history:
            for number, line in enumerate(history["content"]):
                run["history"][history["offset"] + number] = json.loads(line)
        summary = (body.get("files") or {}).get("wandb-summary.json")
        if summary:
            run["summary"] = json.loads(summary["content"][-1])
        run["complete"] = bool(body.get("complete"))
        run["exitcode"] = body.get("exitcode")

    def _project(self) -> dict[str, Any]:
        return {"id": "P", "name": "w2s_ray", "entity": {"id": "E", "name": "us"}}

    def _resume_status(self, run_id: str) -> dict[str, Any] | None:
        run = self.runs.get(run_id)
        if run is None:
            return None
        lines = [run["history"][n] for n in sorted(run["history"])]
        return {
            "id": run_id,
            "name": run_id,
            "summaryMetrics": json.dumps(run.get("summary", {})),
            "displayName": run["displayName"],
            "logLineCount": 0,
            "historyLineCount": len(lines),
            "eventsLineCount": 0,
            "historyTail": json.dumps([json.dumps(line) for line in lines[-1:]]),
            "eventsTail": "[]",
            "config": run["config"],
            "tags": run.get("tags", []),
            "notes": None,
            "wandbConfig": '{"t": 1}',
        }

    def _upsert(self, variables: dict[str, Any]) -> dict[str, Any]:
        inserted = variables["name"] not in self.runs
        run = self.runs.setdefault(variables["name"], {"history": {}, "complete": False, "starts": 0})
        run["starts"] += bool(variables.get("displayName"))
        run.update({key: value for key, value in variables.items() if value is not None})
        run.setdefault("displayName", None)
        bucket = {
            "id": variables["name"],
            "name": variables["name"],
            "displayName": run["displayName"],
            "description": None,
            "config": run["config"],
            "sweepName": None,
            "project": self._project(),
            "historyLineCount": len(run["history"]),
        }
        return {"bucket": bucket, "inserted": inserted}
