"""Web servers on loopback for tests."""

import contextlib
import http.server
import threading


class Handler(http.server.BaseHTTPRequestHandler):
    """Says nothing on the terminal. ``do_GET`` answers HEAD, too: it must not send a body then."""

    def do_HEAD(self):
        self.do_GET()

    def log_message(self, *_):
        pass


@contextlib.contextmanager
def serving(handler, secured=None, **attributes):
    """Yield a running server with these attributes; ``url`` is where it listens.

    Args:
        handler: class of its requests' handlers.
        secured: an ``ssl.SSLContext`` for https.
        attributes: what handlers find as ``self.server.NAME``.
    """
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        if secured:
            server.socket = secured.wrap_socket(server.socket, server_side=True)
        vars(server).update(attributes)
        server.url = f"http{'s' if secured else ''}://127.0.0.1:{server.server_port}"
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield server
        finally:
            server.shutdown()
