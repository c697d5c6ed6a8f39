"""What a command shows while it works: in words, on a terminal of its own, and in tmux."""

import contextlib
import fcntl
import io
import itertools
import json
import os
import re
import shlex
import shutil
import struct
import subprocess
import sys
import termios
import threading
import time

import pytest

from jobs import _live_line, _terminal, stylize
from jobs._live_line import ASCII, UNICODE, live_line, pieces
from jobs._terminal import Live
from pipeline.engine.progress import (
    LOADING_LIBRARIES,
    PACKING,
    STARTING_ACTORS,
    STARTING_RAY,
    STYLIZING,
    Progress,
)
from pipeline.settings import JobSettings
from tests.conftest import equal_pairs, wait_until, write_parquet
from tests.doc_commands import named

MANY = Progress(
    activity=STYLIZING, total=1_281_167, done=731_402, failed=1234, share=0.571, rate=1380.0,
    seconds_left=24_060.0, actors=7, most_actors=8, gpu_percent=86.6, cache_hits=0.953,
)  # fmt: skip

FEW = Progress(
    activity=STYLIZING, total=12, done=5, share=0.5, rate=14.2, seconds_left=29.6, actors=2,
    most_actors=2, cache_hits=0.5,
)  # fmt: skip


def drawn(progress, width, seconds=75.0, marks=UNICODE, *, verbose=False):
    return live_line(progress, seconds, width, marks, marks.spinner[0], verbose=verbose)


def test_there_is_room_for_what_matters_at_every_width():
    assert drawn(FEW, 79) == (
        "⠋ ━━━━━━━━━━━━━━━───────────────  5/12 pairs · 30 s left · 14 a minute"
    )
    assert drawn(FEW, 59) == "⠋ ━━━━━━━━━──────────  5/12 pairs · 30 s left · 14 a minute"
    assert drawn(FEW, 79, marks=ASCII) == (
        "| ###############---------------  5/12 pairs, 30 s left, 14 a minute"
    )
    assert drawn(MANY, 119) == (
        "⠋ ━━━━━━━━━━━━━━────────────  731402/1281167 pairs · 1234 failed · 6.7 h left · "
        "1380 a minute · 7 of 8 actors · GPU 87%"
    )
    assert drawn(MANY, 79).endswith(
        "731402/1281167 pairs · 1234 failed · 6.7 h left · 1380 a minute"
    )
    for progress in (FEW, MANY, Progress(activity=STARTING_ACTORS, most_actors=10_000)):
        for width in range(1, 130):
            for verbose in (False, True):
                assert len(drawn(progress, width, verbose=verbose)) <= width


def test_the_time_left_is_said_once_it_is_known_and_the_cache_to_those_who_ask():
    early = Progress(activity=STYLIZING, total=12, actors=1, most_actors=1)
    assert pieces(early, 7.0, verbose=False) == (["0/12 pairs", "7 s"], [])
    assert "style cache 95%" not in pieces(MANY, 1.0, verbose=False)[1]
    assert "style cache 95%" in pieces(MANY, 1.0, verbose=True)[1]
    all_done = Progress(activity=STYLIZING, total=12, done=12, seconds_left=0.0, rate=20.0)
    (wanted, _) = pieces(all_done, 7.0, verbose=False)
    assert wanted == ["12/12 pairs", "saving the last", "20 a minute"]


@pytest.mark.parametrize(
    ("seconds", "text"), [(0, "1 s"), (59, "59 s"), (600, "10 min"), (7300, "2.0 h")]
)
def test_times_left(seconds, text):
    assert _live_line._about(seconds) == text


def test_style_actors_are_counted_as_they_start():
    some = Progress(activity=STARTING_ACTORS, actors=1, most_actors=2)
    assert drawn(some, 79) == "⠋ starting style actors (1 of 2) · 1 min 15 s"
    some = Progress(activity=PACKING, done=3, total=40)
    assert drawn(some, 79) == "⠋ packing shards (3 of 40) · 1 min 15 s"


class Terminal:
    """A pseudo-terminal of so many columns, and all that was written to it."""

    def __init__(self, columns):
        self.master, slave = os.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.stream = os.fdopen(slave, "w", encoding="utf-8")
        self.text = ""
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self):
        with contextlib.suppress(OSError):
            while data := os.read(self.master, 4096):
                self.text += data.decode()

    def lines(self):
        """What stands there at the end, without colours."""
        found = []
        for line in self.text.replace("\r\n", "\n").split("\n"):
            found.append(line.rpartition("\r\x1b[K")[2])
        return found


@pytest.fixture
def open_terminal(monkeypatch):
    """Makes a terminal of 60 columns, and standard output and error write to it."""

    def open_it():
        found = Terminal(60)
        monkeypatch.setenv("NO_COLOR", "1")
        monkeypatch.setenv("TERM", "xterm")
        monkeypatch.setattr(sys, "stderr", found.stream)
        monkeypatch.setattr(sys, "stdout", found.stream)
        return found

    return open_it


def test_what_is_printed_stands_above_the_line_and_the_line_is_gone_at_the_end(
    open_terminal, monkeypatch
):
    terminal = open_terminal()
    monkeypatch.setattr(_terminal, "WORTH_A_LINE", 0.0)
    with _terminal.shown() as told:
        told(Progress(activity=STARTING_RAY))
        wait_until(lambda: terminal.text.count("starting Ray") >= 3, 20)  # it is drawn again
        print("one\ntwo", file=sys.stderr)
        print("half a ", end="")
        print("line")
        told(FEW)
    print("the end", flush=True)
    wait_until(lambda: "the end" in terminal.text, 10)
    assert [re.sub(r"\d+ s$", "0 s", line) for line in terminal.lines()] == [
        "one", "two", "half a line", "✓ started Ray in 0 s", "✓ 5/12 pairs in 0 s", "the end", "",
    ]  # fmt: skip
    drawn = terminal.text.replace("\r\n", "\n").replace("\x1b[K", "").replace("\r", "\n")
    assert max(map(len, drawn.split("\n"))) < 60
    assert (sys.stderr, sys.stdout) == (terminal.stream, terminal.stream)


def test_another_programs_bar_is_part_of_the_line(open_terminal):
    terminal = open_terminal()
    with _terminal.shown() as told:
        told(Progress(activity=STARTING_RAY))
        sys.stderr.write("\rshards: 1/2   ")
        wait_until(lambda: " shards: 1/2" in terminal.text, 20)
        sys.stderr.write("\rshards: 2/2   \n")
    wait_until(lambda: "shards: 2/2\r\n" in terminal.text, 10)
    assert "shards: 1/2" not in terminal.lines()


def test_a_command_without_figures_is_seen_to_work_too(open_terminal, monkeypatch):
    monkeypatch.setattr(_terminal, "WORTH_A_LINE", 0.0)
    terminal = open_terminal()
    with _terminal.busy("counting", "counted"):
        wait_until(lambda: terminal.text.count("counting") >= 3, 20)
    with _terminal.busy("counting in silence", "counted", quiet=True):
        print("one", flush=True)
    wait_until(lambda: "one" in terminal.text, 10)
    lines = [re.sub(r"\d+ s$", "0 s", line) for line in terminal.lines()]
    assert lines == ["✓ counted in 0 s", "one", ""]
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with _terminal.busy("counting", "counted"):
        pass
    assert sys.stderr.getvalue() == ""


def test_an_error_leaves_no_activity_that_looks_done(open_terminal, monkeypatch):
    terminal = open_terminal()
    monkeypatch.setattr(_terminal, "WORTH_A_LINE", 0.0)

    def job():
        with _terminal.shown() as told:
            try:
                told(Progress(activity=STARTING_RAY))
                raise KeyboardInterrupt
            finally:
                told(Progress(activity=LOADING_LIBRARIES))

    with pytest.raises(KeyboardInterrupt):
        job()
    print("stopped", flush=True)
    wait_until(lambda: "stopped" in terminal.text, 10)
    assert terminal.lines() == ["stopped", ""]


def test_a_terminal_without_these_characters_gets_others(open_terminal, monkeypatch):
    terminal = open_terminal()
    plain = os.fdopen(os.dup(terminal.stream.fileno()), "w", encoding="ascii")
    assert Live(plain, False).marks == ASCII
    assert Live(terminal.stream, False).marks == UNICODE


def test_without_a_terminal_there_is_a_line_for_each_activity_and_one_a_minute(monkeypatch):
    monkeypatch.setattr(_terminal, "LINE_INTERVAL", 0.2)
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with _terminal.shown() as told:
        told(Progress(activity=STARTING_RAY))
        told(FEW)
        told(FEW)
        wait_until(lambda: sys.stderr.getvalue().count("5/12") >= 2, 20)
    first, second, third, *_ = sys.stderr.getvalue().splitlines()
    assert (first, second) == ("starting Ray", "making pictures")
    assert third == "5/12 pairs, 30 s left, 14 a minute"


def test_quiet_says_nothing(monkeypatch):
    monkeypatch.setattr(sys, "stderr", io.StringIO())
    with _terminal.shown(quiet=True) as told:
        told(FEW)
    assert sys.stderr.getvalue() == ""


SUMMARY = {
    "ok": 12, "error": 0, "manifest_rows": 12, "missing": 0, "duplicates": 0, "pairs": 12,
    "first_errors": [], "errors_by_class": {}, "with_warnings": 0,
    "other_pairs": {"ok": 0, "error": 0},
    "last_run": {"pairs": 12, "seconds": 192.0}, "gpu_hours": 0.1,
}  # fmt: skip


def test_the_end_says_what_where_how_long_how_much_and_what_next(capsys):
    job = JobSettings(manifest="my pairs", output="./out/", limit=12)
    stylize.print_summary(SUMMARY, job, 1.2, "out/report.html")
    assert capsys.readouterr().out == (
        "12 pictures and 0 errors from 12 pairs\n"
        "this run:  12 pairs in 3 min 12 s, 3.75 a minute\n"
        "cost:      about 10.00 for 1,000 pairs: 0.1 GPU hours at 1.20, without the machines' "
        "start\n"
        "pictures:  ./out/images\n"
        "look:      open ./out/report.html\n"
        "next:      python -m jobs.verify --manifest 'my pairs' --output ./out/ --limit 12\n"
    )
    nothing = {**SUMMARY, "last_run": {"pairs": 0, "seconds": 1.0}, "gpu_hours": 0.0}
    stylize.print_summary(nothing, job, 1.2, None)
    said = capsys.readouterr().out
    assert "this run:  nothing was left to do\n" in said
    assert "cost" not in said
    failed = {**SUMMARY, "ok": 11, "error": 1, "errors_by_class": {"not_found": 1}}
    stylize.print_summary(failed, job, None, None)
    said = capsys.readouterr().out
    assert "next:      the same command with --retry-errors does what is missing; each" in said
    assert "cost" not in said


def test_the_end_says_what_is_missing_odd_or_packed(capsys):
    job = JobSettings(manifest="pairs", output="out")
    odd = {
        **SUMMARY, "ok": 9, "missing": 2, "with_warnings": 3, "other_pairs": {"ok": 4, "error": 1},
        "packed": {"samples": 9, "shards": 2, "folder": "out/parquet"},
    }  # fmt: skip
    stylize.print_summary(odd, job, None, None)
    said = capsys.readouterr().out.splitlines()
    assert said[0] == "9 pictures and 0 errors from 12 pairs"
    assert "  missing: 2 records; run the same command again" in said
    assert any(line.startswith("  unknown: 3 records with a status that no job") for line in said)
    assert any(line.startswith("  warnings: 3 pairs of damaged pictures") for line in said)
    assert any(line.startswith("beside them 4 ok, 1 errors of other pairs are") for line in said)
    assert "shards:    out/parquet (9 images in 2 shards)" in said
    assert said[-1] == "next:      the same command does what is missing"


def test_costs_for_programs():
    ended = stylize.Ended(0, summary=SUMMARY)
    costs = stylize.costs_of(ended, stylize.Messages(price=1.2))
    assert costs == pytest.approx({"cost": 0.12, "cost_per_1000": 10.0})
    assert set(stylize.costs_of(ended, stylize.Messages()).values()) == {None}


class Tmux:
    """A command in a terminal that draws as those of users do."""

    def __init__(self, folder, columns, command, environment):
        if shutil.which("tmux") is None:
            if os.environ.get("CI") == "true":
                pytest.fail("tmux is not installed")
            pytest.skip("tmux is not installed")
        self.folder = folder
        self.started = time.monotonic()
        words = shlex.join(command)
        shell = f"cd {shlex.quote(str(folder))}; {words}; echo EXIT $?; sleep 600"
        size = ("-x", str(columns), "-y", "40")
        self.tmux("new-session", "-d", "-s", "s", *size, "bash", "-c", shell, **environment)
        self.seen = []  # times, screens

    def tmux(self, *words, **environment):
        command = ["tmux", "-f", "/dev/null", "-S", str(self.folder / "socket"), *words]
        env = {**os.environ, "LC_ALL": "C.UTF-8", "TERM": "xterm", **environment}
        return subprocess.run(command, env=env, capture_output=True, text=True, timeout=60).stdout

    def look(self):
        """The screen, and the same with wrapped lines joined."""
        screen = self.tmux("capture-pane", "-p", "-t", "s").rstrip()
        joined = self.tmux("capture-pane", "-p", "-J", "-t", "s")
        self.seen.append((time.monotonic() - self.started, screen))
        return screen, "\n".join(line.rstrip() for line in joined.splitlines()).rstrip()

    def until(self, text, seconds):
        """Look until the screen has the text; no line of what is seen may wrap."""
        while True:
            screen, joined = self.look()
            again = screen == self.look()[0]
            assert screen == joined or not again, "a line wraps"
            if text in screen:
                return screen
            assert time.monotonic() - self.started < seconds, screen
            time.sleep(0.2)

    def close(self):
        self.tmux("kill-server")


@pytest.fixture
def terminals(tmp_path, forked_commands):
    opened = []
    rows = equal_pairs(tmp_path, 2)
    write_parquet(tmp_path / "pairs", rows)
    files = ("--manifest", "pairs", "--output", "out", "--weights", "compact")
    command = [sys.executable, "-m", "jobs.stylize", *files, "--image-size", "64"]
    command += ["--actors", "1"]
    environment = {"OMP_NUM_THREADS": "1"}

    def open_terminal(columns, *more, **extra):
        folder = tmp_path
        found = Tmux(folder, columns, [*command, *more], {**environment, **extra})
        opened.append(found)
        return found

    yield open_terminal
    for found in opened:
        found.close()


def test_a_job_in_a_terminal_never_looks_stuck(terminals):
    """A machine under test is slow: all times here are several times what is promised.

    The terminal has 120 columns at first, and 80 from the start of the style actors on.
    """
    shown = terminals(120)
    shown.until("loading PyTorch and Ray", 10)
    assert " · " in shown.until("starting style actors", 200)
    shown.tmux("resize-window", "-t", "s", "-x", "80")
    end = shown.until("EXIT", 280)
    assert max(map(len, end.splitlines())) <= 80
    lines = [line for line in end.splitlines() if line]
    assert lines[-1] == "EXIT 0"
    assert "2 pictures and 0 errors from 2 pairs" in lines
    assert "pictures:  out/images" in lines
    assert lines[-2] == "next:      python -m jobs.verify --manifest pairs --output out"
    assert not set("".join(lines)) & {*UNICODE.spinner, UNICODE.full}, "the live line is gone"
    text = "\n".join(screen for _, screen in shown.seen)
    for part in (
        "starting Ray · ",
        "starting style actors (0 of ",
        "✓ started Ray in ",
        "/2 pairs",
    ):
        assert part in text
    for word in ("style cache", "lane", "slot", "tick"):
        assert word not in text
    changes = [0.0]
    for (_, before), (now, screen) in itertools.pairwise(shown.seen):
        if screen != before:
            changes.append(now)
    gaps = [after - before for before, after in itertools.pairwise(changes)]
    assert max(gaps) < 10
    assert sorted(gaps)[len(gaps) * 9 // 10] < 2, "all but a few: imports hold the interpreter"


def test_ctrl_c_leaves_a_clean_line(terminals):
    shown = terminals(80)
    shown.until("loading PyTorch and Ray", 10)
    shown.tmux("send-keys", "-t", "s", "C-c")
    lines = [line for line in shown.until("EXIT", 60).splitlines() if line]
    assert lines == [
        "stopped; what is recorded stays, the same command does the rest",
        "EXIT 130",
    ]


def test_a_stopped_dry_run_promises_nothing_that_is_recorded(tmp_path, capsys, monkeypatch):
    def stopped(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr("pipeline.engine.dry_run.estimate.dry_run", stopped)
    arguments = ["--manifest", "m", "--output", str(tmp_path / "out"), "--dry-run", "--json"]
    assert stylize.main(arguments) == 130
    said = capsys.readouterr()
    assert said.err == "stopped; a dry run leaves nothing behind\n"
    assert json.loads(said.out)["exit_code"] == 130


def test_a_command_for_programs_ends_with_one_object(tmp_path, weights_file, capsys, monkeypatch):
    monkeypatch.setattr("pipeline.engine.job.run_job", lambda *_: SUMMARY)
    arguments = ["--manifest", "m", "--output", str(tmp_path / "out"), "--no-report", "--json"]
    assert stylize.main([*arguments, "--price-per-gpu-hour", "1.2"]) == 0
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert said.err == ""
    assert {name: found[name] for name in SUMMARY} == SUMMARY
    assert (found["exit_code"], found["message"], found["report"]) == (0, None, None)
    assert found["cost_per_1000"] == pytest.approx(10.0)
    assert found.keys() <= named("docs/formats.md", "Summary")
    monkeypatch.undo()
    assert stylize.main(arguments) == 2
    said = capsys.readouterr()
    assert json.loads(said.out)["message"] == said.err.strip()
