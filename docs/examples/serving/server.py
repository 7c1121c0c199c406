"""Serves an exported model over HTTP: a JSON list of rows in, a JSON list of click probabilities out.

    pip install onnxruntime
    python server.py model.onnx 8000
    curl 127.0.0.1:8000 -d '[{"user_id": "u17", "item": "i10", "device": "phone", "unit price": 12.5, "age": null}]'

The standard library's server, for a trial: one process, no password, on this machine alone. A service of your own takes
`client.Model`, as here.
"""

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from client import Model


def server(model: Model, port: int) -> ThreadingHTTPServer:
    """A server on 127.0.0.1 that is ready to `serve_forever`; port 0 takes a free one."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            try:
                rows = json.loads(self.rfile.read(int(self.headers.get("Content-Length", 0))))
                if not isinstance(rows, list) or not rows:
                    raise ValueError("expected a JSON list of rows")
                status, answer = 200, [float(p) for p in model.predict(rows)]
            except (ValueError, TypeError, KeyError, AttributeError) as error:  # the sender's mistake
                status, answer = 400, {"error": str(error)}
            body = json.dumps(answer).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

    return ThreadingHTTPServer(("127.0.0.1", port), Handler)


if __name__ == "__main__":
    path, port = sys.argv[1], int(sys.argv[2])
    print(f"serving {path} on http://127.0.0.1:{port}", flush=True)
    server(Model(path), port).serve_forever()
