"""Work that makes no progress ends its process and is told of; what goes on is left alone."""

import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace

import pytest
import ray

from pipeline.engine import board as board_module
from pipeline.engine import following
from pipeline.engine.board import Board
from pipeline.engine.following import followed
from pipeline.engine.job import run_job
from pipeline.engine.runtime.hanging import Watchdog
from pipeline.engine.starting import StyleActor
from pipeline.settings import JobSettings
from tests.conftest import equal_pairs, image_bytes, wait_until, write_parquet
from tests.engine import faults
from tests.outputs import check_images, records_of

ROOT = Path(__file__).parents[3]

WORK = """
import sys, time
from pipeline.engine.runtime.hanging import Watchdog
dog = Watchdog(float(sys.argv[1]), lambda what: print(what, flush=True))
print("begun", flush=True)
for _ in range(int(sys.argv[2])):
    with dog.limited("a piece"):
        time.sleep(float(sys.argv[3]))
print("done")
"""


def working(*arguments) -> "subprocess.Popen[str]":
    command = [sys.executable, "-c", WORK, *map(str, arguments)]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, cwd=ROOT, stdout=pipe, stderr=pipe, text=True)


def test_a_piece_of_work_without_an_end_ends_its_process():
    hanging, going_on, unlimited = working(0.5, 1, 30), working(2, 20, 0.2), working(0, 1, 3)
    said, log = hanging.communicate(timeout=60)
    assert (hanging.returncode, said) == (1, "begun\na piece\n")
    assert "time.sleep" in log or "<string>" in log, "the log does not say where"
    for process in (going_on, unlimited):
        assert process.communicate(timeout=60)[0] == "begun\ndone\n"


def test_a_process_that_was_stopped_goes_on_with_its_work():
    process = working(3, 1, 5)
    assert process.stdout.readline() == "begun\n"
    time.sleep(0.5)
    process.send_signal(signal.SIGSTOP)
    time.sleep(3.5)
    process.send_signal(signal.SIGCONT)  # more than 3 s have passed, and a second is left
    assert process.communicate(timeout=60)[0] == "done\n"


@pytest.mark.usefixtures("local_ray")
def test_work_that_hangs_in_a_task_is_told_of_and_done_by_the_next_process(tmp_path):
    """First among others, then by itself, as what has ended a process."""

    def hang_twice():
        tries = len(list(tmp_path.iterdir()))
        (tmp_path / str(tries)).touch()
        time.sleep(0 if tries == 2 else 20)
        return "done"

    @ray.remote(max_retries=5, num_cpus=0)
    def task(board):
        return board.in_turn("storing", {"p07": hang_twice}, lambda _, fault: str(fault))

    board = Board.create(0.5)
    assert ray.get(task.remote(board), timeout=60) == {"p07": "done"}
    assert board.counts().hung == ("storing pair p07",) * 2


def test_a_style_actor_is_watched_while_it_starts(monkeypatch):
    dog, seen = Watchdog(0, print), []
    board = SimpleNamespace(start_actor=list, add_actor=list, watchdog=lambda: dog)
    monkeypatch.setattr("pipeline.engine.actor.StyleWorker", lambda **_: seen.extend(dog.work))
    StyleActor(board, [], dict)
    assert seen == ["starting a style actor"]
    assert dog.closed.is_set()


@pytest.mark.usefixtures("local_ray")
def test_only_where_nothing_is_under_way_and_an_actor_is_ready_a_job_is_idle():
    board = Board.create()
    here = ray.get_runtime_context().get_node_id()

    def idles() -> bool:
        before = board.idle_seconds()
        time.sleep(0.2)
        return board.idle_seconds() >= before + 0.2

    assert not idles(), "it waits for its first node"
    ray.get(board.actor.add_actor.remote("a", "a lost node"))
    assert not idles(), "it waits for another node"
    ray.get(board.actor.add_actor.remote("b", here))
    assert idles()
    with board.working(["pair"]):
        assert not idles(), "a pair is under way"
    assert idles()


@pytest.mark.usefixtures("local_ray")
def test_a_job_in_which_nothing_happens_ends_with_a_line(monkeypatch, capsys):
    said = []
    monkeypatch.setattr(following.watcher, "give_up", said.append)
    board = Board.create(0.4)
    here = ray.get_runtime_context().get_node_id()
    ray.get(board.actor.add_actor.remote("a", here))
    ray.get(board.actor.add_hung.remote("loading pair p07"))
    with followed(board, 3):
        wait_until(lambda: said, 20)
    assert "though a style actor is ready: storage that does not answer" in said[0]
    assert "note: loading pair p07 made no progress for 0.4 s" in capsys.readouterr().err


@pytest.mark.parametrize("patience", [pytest.param(6.0, marks=pytest.mark.soak)])
def test_what_hangs_in_each_stage_is_begun_again_or_given_up(
    ray_address, quick, tmp_path, capsys, patience
):
    """A load and a store that hang each time, an evaluation that hangs once."""
    runtime_env = faults.runtime_env("hang", tmp_path / "marks")
    ray.init(address=ray_address, log_to_driver=False, runtime_env=runtime_env)
    try:
        (tmp_path / "deadly.png").write_bytes(image_bytes(2, 64, 80))
        rows = equal_pairs(tmp_path, 8)
        changes = {1: {"image_size": 96}, 3: {"image_size": 112}, 6: {"content_uri": "deadly.png"}}
        rows = [row | {"image_size": 64} | changes.get(i, {}) for i, row in enumerate(rows)]
        job = JobSettings(
            manifest=write_parquet(tmp_path / "m.parquet", rows), output=str(tmp_path / "out"),
            batch_size=4, rows_per_block=4, stall_timeout=patience,
        )  # fmt: skip
        summary = run_job(quick, job)
    finally:
        ray.shutdown()
    assert (summary["ok"], summary["error"], summary["missing"]) == (6, 2, 0), summary
    found = records_of(job.output)
    check_images(job.output, found)
    failed = {name: row["error_message"] for name, row in found.items() if row["error_class"]}
    assert failed.keys() == {"p03", "p06"}
    assert failed["p03"].startswith(f"storing this pair ended {board_module.TRIES} processes")
    assert failed["p06"].startswith(f"loading this pair ended {board_module.TRIES} processes")
    said = capsys.readouterr().err
    for what in ("loading pair p06", "storing pair p03", "an evaluation on cpu"):
        assert f"note: {what}" in said
