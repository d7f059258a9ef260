"""`sectionfour witness`: a witness of another machine's log, over HTTP, with nothing else loaded.

    POST /add-checkpoint    C2SP tlog-witness; answers with a cosignature, or why there is none
    GET  /checkpoints       everything that was cosigned, oldest first
    GET  /vkey              the verifier key of the cosignatures

Whoever reaches it can learn how fast the log grows, and nothing else; only the log's key can add.
"""

from __future__ import annotations

import socket
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from sectionfour.privacy.witness import MOST_BYTES, Refused, Witness


def listen(witness: Witness, host: str, port: int) -> ThreadingHTTPServer:
    """Return a server of `witness`, not yet serving."""

    class Handler(BaseHTTPRequestHandler):
        timeout = 10  # seconds for a request to come in

        def do_POST(self) -> None:
            length = self.headers.get("Content-Length", "")
            if self.path != "/add-checkpoint":
                self._say(404, "there is no such route\n")
            elif not length.isdigit() or int(length) > MOST_BYTES:
                self._say(413, "a request has a length, of at most 64 KiB\n")
            else:
                self._add(self.rfile.read(int(length)))

        def _add(self, data: bytes) -> None:
            try:
                self._say(200, witness.add(data.decode(), int(time.time())))
            except UnicodeDecodeError:
                self._say(400, "a request is UTF-8\n")
            except Refused as error:
                if error.size is not None:
                    self._say(error.status, f"{error.size}\n", "text/x.tlog.size")
                else:
                    self._say(error.status, f"{error.detail}\n")

        def do_GET(self) -> None:
            if self.path == "/checkpoints":
                self._say(200, witness.text())
            elif self.path == "/vkey":
                self._say(200, f"{witness.vkey}\n")
            else:
                self._say(404, "there is no such route\n")

        def _say(self, status: int, text: str, kind: str = "text/plain; charset=utf-8") -> None:
            data = text.encode()
            self.send_response(status)
            self.send_header("Content-Type", kind)
            self.send_header("Content-Length", str(len(data)))
            self.end_headers()
            self.wfile.write(data)

        def log_message(self, format: str, *values: Any) -> None:
            """Say nothing: an access log is nobody's business here."""

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        address_family = socket.AF_INET6 if ":" in host else socket.AF_INET

    return Server((host, port), Handler)


def start(witness: Witness, host: str = "127.0.0.1", port: int = 0) -> ThreadingHTTPServer:
    """Serve in a thread, until `shutdown()` and `server_close()`."""
    server = listen(witness, host, port)
    threading.Thread(target=server.serve_forever, name="witness", daemon=True).start()
    return server
