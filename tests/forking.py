"""Ray workers that fork from a process that has loaded Ray, Ray Data and torch already.

To load them costs a worker two to four seconds of CPU, and the tests start hundreds of workers. Ray
starts a worker by a command. Here the Python of this command is a small program: it hands the
command, the environment and the streams to a process that forks, and lives as long as the worker.
Everything else that Ray starts is a Python as always, and so is a worker whose ``runtime_env`` sets
``OWN_PYTHON``.

Ray reads the environment when it is loaded: the number of the job and the raylet. So each job has a
process that forks, and these fork from one that has loaded all but Ray.
"""

import argparse
import contextlib
import gc
import importlib
import json
import os
import runpy
import select
import signal
import socket
import subprocess
import sys
import traceback
import types
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]

LIBRARIES = ("torch", "pandas", "pyarrow.dataset", "pyarrow.parquet", "fsspec", "PIL.Image")

STARTER = """#!{python} -IS
import json, os, socket, sys

argv = sys.argv[1:]
is_worker = argv and argv[0].endswith(("/setup_worker.py", "/default_worker.py"))
if not is_worker or any("OWN_PYTHON" in text for text in argv):
    os.execv({python!r}, [{python!r}, *argv])
request = json.dumps([argv, dict(os.environ), os.getcwd()]).encode()
with socket.socket(socket.AF_UNIX) as server:
    server.connect({place!r})
    socket.send_fds(server, [len(request).to_bytes(4, "big")], [0, 1, 2])
    server.sendall(request)
    server.recv(1)  # returns when the worker has ended
"""


@contextlib.contextmanager
def forked_workers(folder: Path) -> Iterator[str]:
    """Return the Python that a Ray is to be started with. Its workers fork until the block ends.

    Where ``folder`` is in PYTHONPATH, each Python starts its Ray with it.
    """
    python, place, starter = sys.executable, str(folder / "socket"), folder / "python"
    starter.write_text(STARTER.format(python=python, place=place))
    starter.chmod(0o700)
    (folder / "sitecustomize.py").write_text(f"import sys; sys.executable = {str(starter)!r}\n")
    command = [python, "-m", "tests.forking", place]
    pipe = subprocess.PIPE
    # Popen closes the pipe of stdin at the end of the block, which ends the process.
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe) as server:
        assert server.stdout is not None
        assert server.stdout.readline() == b"ready\n"
        yield str(starter)


def serve(place: str) -> None:
    """Pass each request at the socket on to the process of its job, until stdin is closed."""
    for name in LIBRARIES:
        importlib.import_module(name)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # those that have ended leave nothing
    jobs: dict[str, socket.socket] = {}
    with socket.socket(socket.AF_UNIX) as server:
        server.bind(place)
        server.listen(64)
        print("ready", flush=True)
        while server in select.select([server, sys.stdin], [], [])[0]:
            connection, _ = server.accept()
            request, streams = _received(connection)
            _, environment, _ = json.loads(request)
            job = f"{environment['RAY_RAYLET_PID']} {environment['RAY_JOB_ID']}"
            if job not in jobs:
                jobs[job], other = socket.socketpair()
                if not os.fork():
                    for open_here in (server, connection, *jobs.values()):
                        open_here.close()
                    _serve_job(other, environment)
                    os._exit(0)
                other.close()
            # The connection goes with the streams: it is closed when the worker has ended.
            _send(jobs[job], request, [*streams, connection.fileno()])
            for stream in streams:
                os.close(stream)
            connection.close()


def _serve_job(requests: socket.socket, environment: dict[str, str]) -> None:
    _set_environment(environment)
    _load_ray()
    gc.freeze()  # else a worker's first collections copy all the memory that it shares
    while True:
        request, streams = _received(requests)
        if not request:
            return
        if not os.fork():
            requests.close()
            os.setpgid(0, 0)  # Ray ends a worker's process group, which would be pytest's
            try:
                _become_worker(streams[:3], *json.loads(request))
            except SystemExit:  # Ray has ended its part of the process
                pass
            except BaseException:
                traceback.print_exc()
            finally:  # what the libraries do at the end may wait for threads that did not fork
                os._exit(0)
        for stream in streams:
            os.close(stream)


def _load_ray() -> None:
    """Load Ray and Ray Data without a draw from Ray's generator of ids.

    What forks after the first draw has the same generator: two workers that started at once would
    name their first objects alike, and one of them would crash. A class that becomes an actor draws
    an id.
    """
    import ray.actor

    drawn = ray.actor.ActorClassID
    ray.actor.ActorClassID = types.SimpleNamespace(
        from_random=lambda: drawn(os.urandom(drawn.size()))
    )
    import ray.data

    ray.actor.ActorClassID = drawn


def _send(to: socket.socket, request: bytes, streams: list[int]) -> None:
    socket.send_fds(to, [len(request).to_bytes(4, "big")], streams)
    to.sendall(request)


def _received(source: socket.socket) -> tuple[bytes, list[int]]:
    """Return a request and its streams; nothing if the other side has ended."""
    size, streams, _, _ = socket.recv_fds(source, 4, 4)
    request = b""
    while len(request) < int.from_bytes(size, "big"):
        request += source.recv(int.from_bytes(size, "big") - len(request))
    return request, list(streams)


def _set_environment(environment: dict[str, str]) -> None:
    os.environ.clear()
    os.environ.update(environment)


def _become_worker(
    streams: list[int], argv: list[str], environment: dict[str, str], folder: str
) -> None:
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, stream in enumerate(streams):
        os.dup2(stream, number)
        os.close(stream)
    os.chdir(folder)
    _set_environment(environment)
    if argv[0].endswith("/setup_worker.py"):  # it sets the environment, then runs the others
        parser = argparse.ArgumentParser()
        parser.add_argument("--serialized-runtime-env-context", default="{}")
        parser.add_argument("--language")
        known, argv = parser.parse_known_args(argv[1:])
        os.environ.update(json.loads(known.serialized_runtime_env_context).get("env_vars") or {})
    sys.argv = argv
    places = filter(None, os.environ.get("PYTHONPATH", "").split(os.pathsep))
    sys.path[:1] = [str(Path(argv[0]).parent), *places]
    runpy.run_path(argv[0], run_name="__main__")


if __name__ == "__main__":
    serve(sys.argv[1])
