"""An HTTP proxy on loopback that spoils some of the requests to a storage server.

Each connection carries one request: it is passed on, and its answer back, unless it is this
request's turn to go wrong. Which ones do depends on a seed and on how many came before, so that
each run has about as many faults of each kind.
"""

import random
import socket
import socketserver
import struct
import threading
import time
from collections import Counter
from contextlib import contextmanager
from urllib.parse import urlsplit

FAULTS = ("500", "503", "reset", "stall", "truncated")

ERROR = (
    "<?xml version='1.0' encoding='UTF-8'?><Error><Code>{code}</Code><Message>{message}</Message>"
    "</Error>"
)


class Proxy(socketserver.ThreadingTCPServer):
    """``rate``: share of requests that fail. ``refuse``: answer all with this status and code.
    ``conditions``: of writes; "ignored", or "refused" as what the server does not know."""

    daemon_threads = True
    allow_reuse_address = True
    request_queue_size = 128

    def __init__(self, target, rate, seed=0, stall=5.0, refuse=None, conditions=None):
        super().__init__(("127.0.0.1", 0), Handler)
        self.target, self.rate, self.stall, self.refuse = target, rate, stall, refuse
        self.conditions = conditions
        self.random, self.lock = random.Random(seed), threading.Lock()
        self.count, self.seen = 0, Counter()

    def fault(self):
        with self.lock:
            self.count += 1
            chosen = None
            if self.random.random() < self.rate:
                chosen = FAULTS[self.seen.total() % len(FAULTS)]
                self.seen[chosen] += 1
            return chosen

    def handle_error(self, request, client_address):
        pass  # clients leave when they please


class Handler(socketserver.BaseRequestHandler):
    def handle(self):
        head, body = read_message(self.request)
        if not head:
            return
        server = self.server
        bare = head.startswith(b"HEAD ")
        if server.refuse:
            server.count += 1
            status, code = server.refuse
            self.answer(status, code, "refused", bare)
            return
        conditional = [
            line
            for line in head.split(b"\r\n")
            if line.lower().startswith((b"if-match", b"if-none"))
        ]
        if conditional and server.conditions == "refused":
            self.answer(501, "NotImplemented", "A header is not implemented.", bare)
            return
        if server.conditions:
            head = b"\r\n".join(line for line in head.split(b"\r\n") if line not in conditional)
        fault = server.fault()
        if fault == "500":
            self.answer(500, "InternalError", "We encountered an internal error.", bare)
        elif fault == "503":
            self.answer(503, "SlowDown", "Please reduce your request rate.", bare)
        elif fault == "reset":
            self.reset()
        else:
            if fault == "stall":
                time.sleep(server.stall)
            self.pass_on(head, body, truncated=fault == "truncated")

    def answer(self, status, code, message, bare):
        text = ERROR.format(code=code, message=message).encode()
        head = f"HTTP/1.1 {status} {code}\r\nContent-Type: application/xml\r\n"
        head += f"Content-Length: {len(text)}\r\nConnection: close\r\n\r\n"
        self.request.sendall(head.encode() + (b"" if bare else text))

    def reset(self):
        self.request.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.request.close()

    def pass_on(self, head, body, truncated):
        with socket.create_connection(self.server.target, 30) as upstream:
            lines = head.split(b"\r\n")
            kept = [
                line for line in lines if not line.lower().startswith((b"connection:", b"expect:"))
            ]
            kept.insert(1, b"Connection: close")
            upstream.sendall(b"\r\n".join(kept) + b"\r\n\r\n" + body)
            parts = []
            while part := upstream.recv(1 << 16):
                parts.append(part)
        reply = b"".join(parts)
        start = reply.find(b"\r\n\r\n") + 4
        if truncated and len(reply) > start + 1:
            self.request.sendall(reply[: start + (len(reply) - start) // 2])
            self.reset()
        else:
            self.request.sendall(reply)


def read_message(connection):
    """The head of a request, without its empty line, and its body."""
    data = b""
    while b"\r\n\r\n" not in data:
        part = connection.recv(1 << 16)
        if not part:
            return b"", b""
        data += part
    head, _, body = data.partition(b"\r\n\r\n")
    length = 0
    for line in head.split(b"\r\n")[1:]:
        name, _, value = line.partition(b":")
        if name.lower() == b"content-length":
            length = int(value)
        if name.lower() == b"expect":
            connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
    while len(body) < length:
        part = connection.recv(1 << 16)
        if not part:
            break
        body += part
    return head, body


@contextmanager
def proxy(endpoint, **options):
    """A running proxy in front of ``endpoint``; ``.url`` is where it listens."""
    parts = urlsplit(endpoint)
    with Proxy((parts.hostname, parts.port), **options) as server:
        server.url = f"http://127.0.0.1:{server.server_address[1]}"
        threading.Thread(target=server.serve_forever, daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
