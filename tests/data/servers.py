"""A web server for the tests, which does as badly as it is told."""

import re
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


@contextmanager
def serving(folder, ways=None):
    """The URL of a server of a folder's files, and a list of the requests as they come: (file, first byte asked for).

    ways: {file: a list of what it does for the first request, the second, ...}; then, and for other files, "whole":
    "half" sends half of what it announced; "stall" does, and keeps the connection; "whole file" ignores the byte that was
    asked for; a number is an answer such as 500.
    """
    ways, requests, over = {name: list(of) for name, of in (ways or {}).items()}, [], threading.Event()

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            name, asked = self.path.lstrip("/").split("?")[0], re.match(r"bytes=(\d+)-$", self.headers.get("Range", ""))
            first = int(asked[1]) if asked else 0
            requests.append((name, first))
            way = ways[name].pop(0) if ways.get(name) else "whole"
            if isinstance(way, int):
                return self.send_error(way)
            if not (folder / name).is_file():
                return self.send_error(404)
            if way == "whole file":
                first = 0
            content = (folder / name).read_bytes()[first:]
            self.send_response(206 if first else 200)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content[: len(content) // 2] if way in ("half", "stall") else content)
            if way == "stall":
                self.wfile.flush()
                over.wait(20)

        def log_message(self, *args):
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}", requests
    finally:
        over.set()
        server.shutdown()
        thread.join()
        server.server_close()
