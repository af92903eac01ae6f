"""An HTTP server that records every POST, and answers it as the test wants.

    hook_receiver.py ADDRESS PORT FOLDER SECRET

FOLDER/log has one JSON object per line, with the time on CLOCK_BOOTTIME in nanoseconds: `ready`, and `request` with
`path`, `headers` (names in lower case), `body` (JSON, or null), and `signed`: whether the header Twinbox-Signature is that
of the body as it came, by Python's own hmac with SECRET. FOLDER/behaviour is JSON that the test replaces: by path a
status, or null for no answer as long as that stands there. Without an entry, the answer is 204.
"""

import hashlib
import hmac
import http.server
import json
import pathlib
import sys
import threading
import time

address, port, folder, secret = sys.argv[1:]
folder = pathlib.Path(folder)
log = (folder / "log").open("a", encoding="utf-8")
lock = threading.Lock()


def write(event, **fields):
    now = time.clock_gettime_ns(time.CLOCK_BOOTTIME)
    with lock:
        log.write(json.dumps({"event": event, "at": now, **fields}) + "\n")
        log.flush()


def answer_to(path):
    try:
        return json.loads((folder / "behaviour").read_text()).get(path, 204)
    except FileNotFoundError:
        return 204


def is_signed(header, body):
    fields = dict(field.split("=", 1) for field in header.split(",") if "=" in field)
    at = fields.get("t", "")
    if not at.isdigit() or abs(time.time() - int(at)) > 300:
        return False
    expected = hmac.new(secret.encode(), at.encode() + b"." + body, hashlib.sha256).hexdigest()
    return hmac.compare_digest(expected, fields.get("v1", ""))


class Handler(http.server.BaseHTTPRequestHandler):
    """One request."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        try:
            content = json.loads(body)
        except ValueError:
            content = None
        headers = {name.lower(): value for name, value in self.headers.items()}
        signed = is_signed(headers.get("twinbox-signature", ""), body)
        write("request", path=self.path, headers=headers, body=content, signed=signed)
        while (status := answer_to(self.path)) is None:
            time.sleep(0.02)
        try:
            self.send_response(status)
            self.send_header("Content-Length", "0")
            self.end_headers()
        except OSError:
            # The client has gone meanwhile.
            self.close_connection = True

    def log_message(self, *_):
        pass


server = http.server.ThreadingHTTPServer((address, int(port)), Handler)
server.daemon_threads = True
write("ready")
server.serve_forever()
