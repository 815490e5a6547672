"""A SandboxFusion-style endpoint on 127.0.0.1 whose programs run in a jail of this machine."""

from __future__ import annotations

import dataclasses
import importlib
import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from typing import Any

from incentive.verify.sandbox import Limits


class Endpoint(HTTPServer):
    """`faults` are played before anything runs: a status to answer with, or a body."""

    def __init__(self, tier: str, limits: Limits):
        super().__init__(("127.0.0.1", 0), _Handler)
        self.room = importlib.import_module(f"incentive.verify.{tier}")
        self.room.setup(dataclasses.asdict(limits))
        self.faults: list[int | bytes] = []
        self.asked: list[dict[str, Any]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def answer(self, asked: dict[str, Any]) -> dict[str, Any]:
        ran = self.room.run({"source": asked["code"], "entry": None, "inputs": [asked["stdin"]]})
        if "down" in ran:
            return {"status": "SandboxError", "message": ran["down"]}
        kind, text = ran["results"][0]
        result = {
            "status": "Finished",
            "return_code": 0,
            "stdout": text,
            "stderr": "",
            "execution_time": ran["seconds"],
        }
        if kind == "error":
            result.update(return_code=1, stdout="")
        elif kind == "limit":
            result.update(status="TimeLimitExceeded", stdout="")
        return {"status": "Success" if kind == "value" else "Failed", "message": "", "run_result": result}


class _Handler(BaseHTTPRequestHandler):
    server: Endpoint

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        self.server.asked.append(asked)
        fault = self.server.faults.pop(0) if self.server.faults else None
        if isinstance(fault, int):
            self.send_error(fault)
            return
        body = fault if isinstance(fault, bytes) else json.dumps(self.server.answer(asked)).encode()
        self.send_response(200 if self.path == "/run_code" else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


@contextmanager
def endpoint(tier: str, limits: Limits) -> Iterator[Endpoint]:
    server = Endpoint(tier, limits)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
        server.room._jail.stop()
