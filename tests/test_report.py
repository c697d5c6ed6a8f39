"""The report: what it says, what it must not say, and the page itself in headless Chromium."""

import base64
import datetime
import io
import json
import os
import re
import shutil
import sys
import tracemalloc
from typing import NoReturn

import numpy as np
import pyarrow as pa
import pytest
from PIL import Image

from jobs import report as job_report
from pipeline.data.output import records
from pipeline.data.schemas import RECORD_SCHEMA
from pipeline.data.storage import files, tables, uris
from pipeline.report import curves, describe, facts, pairs, shrinking, speed
from pipeline.report import grid as grids
from pipeline.report import sample as sampling
from pipeline.report.page import ReportError, make_report, write_report
from pipeline.report.render import to_json
from pipeline.report.thumbnails import Wanted, make_thumbnails
from pipeline.settings import JobSettings, StyleSettings
from tests.conftest import image_bytes

SECRET = "MARKEDSECRET"
HOSTILE = [
    "</script><script>window.hacked = 1</script>",
    '"><img src=x onerror="window.hacked = 1">',
    "<!--<script>window.hacked = 1",
    "{{data}} $& \u2028 \\u003c é 木",
]
WARNING = "content c0.png: was read, but its end is missing or broken"
START = datetime.datetime(2026, 3, 1, 12, tzinfo=datetime.timezone.utc)
SETTINGS = {
    **vars(StyleSettings(weights="compact", image_size=64)),
    "image_format": "png",
    "quality": 95,
}


def ok_record(index: int, **changes) -> dict:
    history = np.geomspace(2 + index, (2 + index) / 20, 30)
    return {
        "pair_id": f"pair-{index}",
        "manifest_row": index,
        "status": "ok",
        "file_name": f"images/pair-{index}.png",
        "style_blend": [1.0],
        "label": ("cat", "dog")[index % 2],
        "width": 64,
        "height": 48,
        "total_loss": float(history[-1]),
        "content_loss": 0.01,
        "style_loss": 0.02,
        "loss_history": history,
        "evaluations": len(history),
        "stop_reason": "iterations",
        "load_seconds": 0.1,
        "optimize_seconds": 1.0 + (index * 7) % 5,
        "store_seconds": 0.05,
        "batch_size": 1,
        "settings": json.dumps(SETTINGS),
        "weights": "compact",
        "weights_digest": "5e09230cfee5",
        "versions": json.dumps({"torch": "2.15.0"}),
        "device": "cpu",
        "finished_at": START + datetime.timedelta(seconds=20 * index),
        **changes,
    }


def error_record(index: int, error_class: str, message: str, **changes) -> dict:
    gone = dict.fromkeys(("file_name", "width", "height", "total_loss", "loss_history"))
    return ok_record(index, status="error", error_class=error_class, error_message=message) | {
        **gone,
        **changes,
    }


def write_output(output: str, recorded: list[dict], options=None, **job) -> str:
    """What a job leaves behind, without its images."""
    table = pa.Table.from_pylist(recorded, schema=RECORD_SCHEMA)
    tables.write_table(uris.join(output, records.RECORDS, "a.parquet"), table, options or {})
    described = {"settings": SETTINGS, "fingerprint": "f00", "rows": len(recorded)} | job
    records.write_json(uris.join(output, records.JOB), described, options or {})
    return output


@pytest.fixture(scope="module")
def sample(tmp_path_factory) -> str:
    """30 pairs of 3 contents and 2 styles, with images, and one error of each of 4 kinds."""
    folder = tmp_path_factory.mktemp("sample")
    for seed, name in enumerate(("c0.png", "c1.png", "c2.png", "monet.png", "munch.png")):
        (folder / name).write_bytes(image_bytes(seed, 48, 64))
    rows = []
    for index in range(26):
        uris = {
            "content_uri": str(folder / f"c{index % 3}.png"),
            "style_uri": [str(folder / ("monet.png", "munch.png")[index % 2])],
        }
        rows.append(ok_record(index, **uris))
        files.write_bytes(
            str(folder / "out" / "images" / f"pair-{index}.png"), image_bytes(index, 48, 64), {}
        )
    rows[3]["settings"] = json.dumps({**SETTINGS, "iterations": 7})
    rows[3]["warnings"] = [WARNING]
    rows[5]["style_uri"] = [str(folder / "monet.png"), str(folder / "munch.png")]
    rows[4]["warnings"] = [f"style https://u:{SECRET}@host/x.png?sig={SECRET}: {HOSTILE[0]}"]
    signed = f"https://user:{SECRET}@host/x.png?X-Amz-Signature={SECRET}"
    for number, text in enumerate(HOSTILE):
        rows.append(
            error_record(
                26 + number, ("not_found", "bad_name")[number % 2], f"{text} at {signed}",
                pair_id=text, label=text, content_uri=signed, style_uri=[text],
            )
        )  # fmt: skip
    return write_output(str(folder / "out"), rows, manifest=str(folder / "m.parquet"))


def data_of(page: str) -> dict:
    return json.loads(
        re.search(r'<script type="application/json" id="data">(.*?)</script', page)[1]
    )


def read(output: str, options=None) -> str:
    return files.read_bytes(uris.join(output, records.REPORT), options or {}).decode()


def test_a_pair_without_a_name_has_a_title_to_click(tmp_path):
    rows = [
        error_record(17, "bad_name", "pair_id: '' cannot be a file name", pair_id=""),
        error_record(18, "bad_name", "pair_id: ' ' cannot be a file name", pair_id=" "),
    ]
    output = write_output(str(tmp_path / "out"), rows)
    make_report(output, {}, thumbnails=0)
    data = data_of(read(output))
    titles = ["(no pair_id, manifest row 17)", "(no pair_id, manifest row 18)"]
    assert data["pairs"]["columns"]["id"] == titles
    assert [example["id"] for example in data["errors"][0]["examples"]] == titles


def test_the_page_says_what_the_records_say(sample):
    made = make_report(sample, {}, thumbnails=1000)
    page = read(sample)
    assert (made.pairs, made.listed, made.pictured, made.bytes) == (30, 30, 26, len(page))
    data = data_of(page)
    assert data["counts"] == {"rows": 30, "ok": 26, "originals": 0, "error": 4}
    assert {row["name"]: row["count"] for row in data["errors"]} == {"not_found": 2, "bad_name": 2}
    assert data["seconds"]["load"] == pytest.approx(2.6)
    assert data["stops"] == [["iterations", 26]]
    (weights,) = data["weights"]
    assert weights["note"] == "a small network fitted to VGG-16"
    changed = {row["name"]: row["default"] for row in data["settings"] if row["default"]}
    assert changed == {"weights": "imagenet", "image_size": "512"}
    columns = data["pairs"]["columns"]
    assert columns["warnings"][3] == [WARNING]
    assert columns["warnings"][5] == []
    assert columns["own"][3] == {"iterations": 7}
    assert columns["id"][26:] == HOSTILE
    assert data["curve"]["median"][0] == 1.0
    assert data["curve"]["median"][-1] == pytest.approx(0.05)
    # Each input once, however many pairs use it.
    pictures = json.loads(re.search(r'id="pictures">(.*?)</script', page)[1])
    assert len(pictures) == 26 + 3 + 2
    image = Image.open(io.BytesIO(base64.b64decode(pictures[0])))
    assert (image.format, image.size) == ("WEBP", (64, 48))
    assert make_report(sample, {}, thumbnails=3).pictured == 3
    assert make_report(sample, {}, thumbnails=0).pictured == 0


def test_the_page_holds_no_credentials_and_no_markup_of_records(sample):
    make_report(sample, {}, thumbnails=1000)
    page = read(sample)
    assert SECRET not in page
    assert page.count("<script") == 3
    assert "onerror" not in page.replace(to_json(HOSTILE[1])[1:-1], "")
    policy = re.search(r'Content-Security-Policy" content="([^"]*)"', page)[1]
    assert policy.startswith("default-src 'none'; img-src data:; style-src 'sha256-")
    assert "unsafe" not in policy


@pytest.mark.parametrize("text", HOSTILE)
def test_json_in_a_script_is_only_json(text):
    shown = to_json({text: text})
    assert json.loads(shown) == {text: text}
    assert shown.isascii()
    assert not set("<>&") & set(shown)


def test_only_the_jobs_own_images_and_allowed_schemes_are_read(s3, tmp_path):
    options, bucket = s3
    (tmp_path / "secret.png").write_bytes(image_bytes(0, 48, 64))
    output = f"s3://{bucket}/out"
    rows = [
        ok_record(
            0,
            file_name="images/../../secret.png",
            content_uri=str(tmp_path / "secret.png"),
            style_uri=[],
        ),
        ok_record(
            1, content_uri=str(tmp_path / "secret.png"), style_uri=[f"s3://{bucket}/none.png"]
        ),
    ]
    write_output(output, rows, options)
    files.write_bytes(f"s3://{bucket}/secret.png", image_bytes(1, 48, 64), options)
    files.write_bytes(f"{output}/images/pair-1.png", image_bytes(1, 48, 64), options)
    assert make_report(output, options, thumbnails=10).pictured == 1
    data = data_of(read(output, options))
    assert data["unreadable"] == {"scheme_not_allowed": 1, "not_found": 1}
    assert data["pairs"]["resultPictures"] == [-1, 0]
    make_report(output, options, thumbnails=10, allowed=frozenset({"file"}))
    assert data_of(read(output, options))["unreadable"] == {"not_found": 1}


DEADLY = """
import signal, sys, time
from pathlib import Path
from pipeline.data.images import codec
from pipeline.report import shrink_process
decode = codec.decode
def crash(kind):  # six times at most, so that a report that gives up nothing comes to its end
    mark = Path(sys.argv[1], kind)
    with mark.open("ab") as file:
        file.write(b"x")
    if mark.stat().st_size <= 6:
        signal.raise_signal(signal.SIGSEGV)  # in this thread, at once
def deadly_decode(data, name, *limits, **more):
    image = decode(data, name, *limits, **more)
    if image.width == 80:
        crash("decoding")
    if image.width == 72:
        time.sleep(30)
    return image
if sys.argv[2:]:
    crash("starting")
codec.decode = deadly_decode
shrink_process.main()
"""


def test_a_picture_that_ends_its_process_or_hangs_is_given_up(tmp_path, monkeypatch):
    for number, width in enumerate((64, 80, 64, 72, 64)):
        (tmp_path / f"{number}.png").write_bytes(image_bytes(number, 64, width))
    wanted = [Wanted(str(tmp_path / f"{number}.png"), ()) for number in range(5)]
    sound = make_thumbnails(wanted, {}, frozenset())
    (tmp_path / "marks").mkdir()
    command = (sys.executable, "-c", DEADLY, str(tmp_path / "marks"))
    monkeypatch.setattr(shrinking, "COMMAND", command)
    monkeypatch.setattr(shrinking, "PATIENCE", 4.0)
    made = make_thumbnails(wanted, {}, frozenset())
    assert made.failed == {"process_died": 1, "read_failed": 1}
    assert (tmp_path / "marks" / "decoding").stat().st_size == shrinking.TRIES
    alive = [wanted[number].result for number in (0, 2, 4)]
    assert made.pictures == {uri: sound.pictures[uri] for uri in alive}
    monkeypatch.setattr(shrinking, "COMMAND", (*command, "never starts"))
    assert make_thumbnails(wanted, {}, frozenset()).failed == {"process_died": 5}
    assert (tmp_path / "marks" / "starting").stat().st_size == shrinking.TRIES


def test_thumbnails_keep_to_their_budget(tmp_path):
    for index in range(40):
        (tmp_path / f"{index}.png").write_bytes(image_bytes(index, 90, 120))
    wanted = [Wanted(str(tmp_path / f"{index}.png"), ()) for index in range(40)]
    allowed = frozenset({"file"})
    every = make_thumbnails(wanted, {}, allowed)
    assert len(every.pictures) == 40
    some = make_thumbnails(wanted, {}, allowed, budget=every.bytes // 2)
    assert 10 < len(some.pictures) < 30
    assert some.bytes <= every.bytes // 2
    assert list(some.pictures.items()) == list(every.pictures.items())[: len(some.pictures)]


def test_of_very_many_pairs_a_fixed_sample_is_listed():
    count = 50_000
    keys = np.array([facts.key_of(f"pair-{index}") for index in range(count)], np.uint64)
    ok = np.arange(count) % 100 != 0
    losses = np.where(ok, np.arange(count, dtype=float), np.nan)
    known = facts.Facts(keys=keys, ok=ok, losses=losses)
    chosen = sampling.choose_pairs(known)
    assert set(keys[~ok].tolist()) <= chosen
    assert {int(keys[1]), int(keys[count - 1])} <= chosen  # the extremes of the loss
    assert 20_000 - 2 * 12 <= len(chosen) <= 20_000
    order = np.random.default_rng(0).permutation(count)
    again = facts.Facts(keys=keys[order], ok=ok[order], losses=losses[order])
    assert sampling.choose_pairs(again) == chosen


def test_throughput_leaves_out_the_pause_between_two_runs():
    first = 1_700_000_000
    times = np.array([*range(first, first + 100), *range(first + 86_400, first + 86_450)])
    ok = np.ones(150, np.bool_)
    ok[:10] = False
    found = speed.throughput(facts.Facts(finished=times, ok=ok, longest_batch=1.0))
    assert len(found["runs"]) == 2
    assert sum(found["runs"][0]["ok"]) == 90
    assert sum(found["runs"][0]["error"]) == 10
    assert sum(found["runs"][1]["ok"]) == 50
    assert sum(len(run["ok"]) for run in found["runs"]) < 60
    assert speed.throughput(facts.Facts())["runs"] == []


def test_originals_are_no_stylised_pictures(tmp_path):
    nothing = dict.fromkeys(("loss_history", "total_loss", "content_loss", "style_loss", "device",
                             "stop_reason", "evaluations", "optimize_seconds"))  # fmt: skip
    original = nothing | {"style_uri": []}
    rows = [ok_record(0), ok_record(1), ok_record(2, **original), ok_record(3, **original)]
    output = write_output(str(tmp_path), rows)
    make_report(output, {}, thumbnails=0)
    data = data_of(read(output))
    assert (data["counts"]["ok"], data["counts"]["originals"]) == (4, 2)
    assert data["stops"] == [["iterations", 2]]
    assert data["devices"] == [["cpu", 2]]
    assert data["seconds"]["load"] == pytest.approx(0.2)


def test_pairs_of_earlier_manifests_do_not_pass_for_work_that_is_done(tmp_path):
    output = write_output(
        str(tmp_path), [ok_record(n) for n in range(11)], rows=6, recorded_of_others=10
    )
    make_report(output, {}, thumbnails=0)
    assert data_of(read(output))["counts"]["rows"] == 16, "11 of 16 are recorded"


def test_a_link_never_leaves_the_images():
    names = ["images/../../x.png", "x.png", "", "images/x.png"]
    rows = [ok_record(number, file_name=name) for number, name in enumerate(names)]
    assert [row["file"] for row in listed(rows).rows] == [None, None, None, "images/x.png"]


def listed(rows: list[dict]) -> pairs.Pairs:
    """Pairs of records that are in no file."""
    found = pairs.Pairs(SETTINGS, 30)
    for row in rows:
        found.add(
            dict.fromkeys(RECORD_SCHEMA.names) | row, pa.scalar([1.0], pa.list_(pa.float32()))
        )
    return found


def crossed(contents: int, styles: int) -> list[dict]:
    """Records of every content image with every style."""
    return [
        ok_record(
            index, content_uri=f"/c/{index // styles}.png", style_uri=[f"/s/{index % styles}.png"]
        )
        for index in range(contents * styles)
    ]


def test_the_table_shows_every_content_image_in_every_style():
    rows = crossed(3, 2)
    rows[0]["status"] = "error"  # the same content image and style was done again as another pair
    rows.append(ok_record(9, content_uri="/c/0.png", style_uri=["/s/0.png"]))
    rows.append(ok_record(10, content_uri="/c/0.png", style_uri=["/s/0.png", "/s/1.png"]))
    rows[5]["status"] = "error"  # this one was not
    found = grids.choose_grid(listed(rows))
    assert found == grids.Grid([0, 1, 2], [0, 1], [[6, 1], [2, 3], [4, 5]], 3, 2)


def test_the_table_of_a_large_job_is_bounded_and_the_same_each_time():
    rows = crossed(40, 12)
    found = grids.choose_grid(listed(rows))
    assert (len(found.contents), len(found.styles)) == (8, 8)
    assert (found.all_contents, found.all_styles) == (40, 12)
    assert all(place >= 0 for row in found.cells for place in row)
    for index, row in enumerate(rows):
        row["label"] = f"class {index // 12 % 8}"
    chosen = {
        rows[place]["label"] for row in grids.choose_grid(listed(rows)).cells for place in row
    }
    assert len(chosen) == 8, "one of each class"
    for row in rows:
        row["label"] = None
    again = listed(rows[::-1])
    other = grids.choose_grid(again)
    found = grids.choose_grid(listed(rows))
    names = listed(rows).contents.listed()
    assert {names[number] for number in found.contents} == {
        again.contents.listed()[number] for number in other.contents
    }


@pytest.mark.parametrize(
    "rows",
    [
        pytest.param([], id="nothing"),
        pytest.param(crossed(1, 5), id="one content image"),
        pytest.param(crossed(5, 1), id="one style"),
        pytest.param(
            [ok_record(n, content_uri=f"/{n}", style_uri=[f"/s/{n % 4}"]) for n in range(40)],
            id="each content image in one style",
        ),
    ],
)
def test_there_is_no_table_where_it_makes_no_sense(rows):
    assert grids.choose_grid(listed(rows)) is None


def test_pictures_of_the_table_come_first(tmp_path):
    for name in ("0.png", "1.png"):
        (tmp_path / name).write_bytes(image_bytes(0, 16, 16))
    rows = [
        ok_record(
            index,
            content_uri=str(tmp_path / f"{index % 2}.png"),
            style_uri=[str(tmp_path / f"{index // 2 % 2}.png")],
            file_name=f"images/{index}.png",
        )
        for index in range(100)
    ]
    output = write_output(str(tmp_path / "out"), rows)
    for index in range(100):
        path = str(tmp_path / "out" / "images" / f"{index}.png")
        files.write_bytes(path, image_bytes(index, 16, 16), {})
    make_report(output, {}, thumbnails=4)
    data = data_of(read(output))
    in_table = {place for row in data["grid"]["cells"] for place in row}
    pictured = {n for n, number in enumerate(data["pairs"]["resultPictures"]) if number >= 0}
    assert pictured == in_table == {0, 1, 2, 3}


def test_the_title_is_the_commands_the_jobs_or_the_folders(tmp_path):
    def title(**given):
        make_report(output, {}, thumbnails=0, **given)
        page = read(output)
        return re.search("<title>(.*?)</title>", page)[1], data_of(page)["title"]

    output = write_output(str(tmp_path / "out"), [ok_record(0)])
    assert title() == ("out: style transfer", None)
    write_output(str(tmp_path / "out"), [ok_record(0)], title="Spring")
    assert title() == ("Spring", "Spring")
    assert title(title="<b>Autumn") == ("&lt;b&gt;Autumn", "<b>Autumn")


@pytest.mark.parametrize(
    ("summary", "pairs"),
    [
        ({}, None),
        ({"last_run": {"pairs": 7}}, 7),
        ({"last_run": {"pairs": 0}}, None),
        ({"last_run": {"pairs": 0}, "last_working_run": {"pairs": 7}}, 7),
        ({"last_run": {"pairs": 0}, "last_working_run": None}, None),
    ],
)
def test_a_run_that_did_nothing_hides_no_earlier_run(tmp_path, summary, pairs):
    output = write_output(str(tmp_path), [ok_record(0)])
    records.write_json(uris.join(output, records.SUMMARY), summary, {})
    make_report(output, {}, thumbnails=0)
    run = data_of(read(output))["lastRun"]
    assert (run and run["pairs"]) == pairs


def curve_of(output: str) -> dict | None:
    found = facts.gather(output, {})
    chosen = sampling.choose_pairs(found)
    shown = pairs.read_pairs(output, {}, chosen, SETTINGS, found.longest)
    return curves.aggregate(shown.curves, shown.points)


def test_a_pair_that_stopped_early_keeps_its_last_loss(tmp_path):
    histories = [np.geomspace(1, 0.1, 10), np.geomspace(5, 0.5, 200), np.full(3, np.nan), None]
    rows = [
        ok_record(index, loss_history=curve, evaluations=0 if curve is None else len(curve))
        for index, curve in enumerate(histories)
    ]
    found = curve_of(write_output(str(tmp_path / "a"), rows))
    assert found["evaluations"][0] == 1
    assert found["evaluations"][-1] == 200
    assert found["pairs"] == 2
    assert len(found["median"]) == 80
    assert found["median"][0] == 1
    assert found["median"][-1] == found["high"][-1] == pytest.approx(0.1)
    assert curve_of(write_output(str(tmp_path / "b"), rows[2:])) is None


def test_long_curves_take_no_more_memory_than_what_is_drawn_of_them(tmp_path):
    count, evaluations = 500, 5000
    row = ok_record(0, loss_history=None, evaluations=evaluations)
    table = pa.Table.from_pylist([row] * count, schema=RECORD_SCHEMA)
    losses = np.tile(np.geomspace(9, 1, evaluations, dtype=np.float32), count)
    columns = {
        "pair_id": pa.array([f"p{number}" for number in range(count)]),
        "loss_history": pa.ListArray.from_arrays(np.arange(count + 1) * evaluations, losses),
    }
    for name, values in columns.items():
        table = table.set_column(table.schema.get_field_index(name), name, values)
    output = write_output(str(tmp_path), [])
    tables.write_table(uris.join(output, records.RECORDS, "a.parquet"), table, {})
    found = facts.gather(output, {})
    chosen = sampling.choose_pairs(found)
    tracemalloc.start()
    try:
        shown = pairs.read_pairs(output, {}, chosen, SETTINGS, found.longest)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < losses.nbytes / 2
    found = curves.aggregate(shown.curves, shown.points)
    assert (found["pairs"], found["evaluations"][-1]) == (count, evaluations)
    assert found["low"][-1] == found["high"][-1] == pytest.approx(1 / 9, rel=1e-3)


@pytest.mark.parametrize(
    ("name", "said"), [("imagenet", None), ("random", "untrained"), ("s3://b/x.pth", "from a file")]
)
def test_weights_that_are_not_imagenets_are_named(name, said):
    note = describe.weights_note(name)
    assert note is None if said is None else said in note


def test_the_command(sample, tmp_path, capsys):
    assert job_report.main([sample, "--thumbnails", "2"]) == 0
    assert "30 pairs, 30 listed, 2 with thumbnails" in capsys.readouterr().out
    assert job_report.main([sample, "--thumbnails", "0", "--title", "For the boss"]) == 0
    assert "<title>For the boss</title>" in read(sample)
    assert job_report.main([str(tmp_path)]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("error: output: ")
    assert "job.json does not exist" in line
    assert job_report.main([sample, "--thumbnails", "-1"]) == 2
    assert "thumbnails: -1 is out of range" in capsys.readouterr().err
    assert job_report.main(["--output", sample]) == 0  # as the other commands take it
    capsys.readouterr()
    assert job_report.main([sample, "--output", sample]) == 2
    assert capsys.readouterr().err.startswith("error: output: is given twice; ")
    assert job_report.main([]) == 2
    assert "output: is missing; give a path or a URI" in capsys.readouterr().err


def test_a_report_that_fails_is_a_warning(tmp_path, capsys):
    output = write_output(str(tmp_path), [ok_record(0, content_uri="c", style_uri=["s"])])
    (tmp_path / "records" / "b.parquet").write_bytes(b"no parquet")
    job = JobSettings(manifest="m.parquet", output=output)
    assert write_report(job) is None
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("warning: report.html was not written: ")
    with pytest.raises(ReportError):
        make_report(output, {}, thumbnails=1)


# In the browser


def missing_browser(environment) -> NoReturn:
    """Skip a test of the page; in continuous integration, which sets CI, fail it."""
    what = "the page's tests need Debian's packages chromium and chromium-driver"
    if environment.get("CI", "").lower() in ("", "0", "false"):
        pytest.skip(what)
    pytest.fail(f"{what}; with CI set they are not skipped")


@pytest.mark.parametrize(
    ("environment", "outcome"),
    [
        ({}, pytest.skip.Exception),
        ({"CI": "false"}, pytest.skip.Exception),
        ({"CI": "true"}, pytest.fail.Exception),
    ],
)
def test_without_a_browser_continuous_integration_fails(environment, outcome):
    with pytest.raises(outcome, match="chromium-driver"):
        missing_browser(environment)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    from selenium import webdriver

    chromium, driver = shutil.which("chromium"), shutil.which("chromedriver")
    if not chromium or not driver:
        missing_browser(os.environ)
    options = webdriver.ChromeOptions()
    options.binary_location = chromium
    for name in (
        *("headless", "no-sandbox", "disable-gpu", "disable-quic", "no-first-run", "disable-sync"),
        *("disable-background-networking", "disable-component-update", "window-size=1280,900"),
        "force-prefers-reduced-motion",  # clicks do not wait for a page that scrolls softly
        f"user-data-dir={tmp_path_factory.mktemp('chromium')}",
    ):
        options.add_argument(f"--{name}")
    options.set_capability("goog:loggingPrefs", {"browser": "ALL", "performance": "ALL"})
    opened = webdriver.Chrome(options, webdriver.ChromeService(driver))
    yield opened
    opened.quit()


@pytest.fixture
def page(browser, sample):
    """The sample's report, just opened; afterwards, that nothing went wrong or out."""
    make_report(sample, {}, thumbnails=1000)
    browser.get("about:blank")
    browser.get_log("performance")
    browser.get(f"file://{sample}/report.html")
    yield browser
    assert browser.get_log("browser") == []
    asked = [json.loads(entry["message"])["message"] for entry in browser.get_log("performance")]
    urls = [
        message["params"]["request"]["url"]
        for message in asked
        if message["method"] == "Network.requestWillBeSent"
    ]
    assert any(url.startswith("file://") for url in urls), "requests were not watched"
    others = [url for url in urls if not url.startswith(("data:", "about:blank"))]
    assert {url.partition("#")[0] for url in others} == {f"file://{sample}/report.html"}


def find(page, selector):
    return page.find_elements("css selector", selector)


def becomes(page, condition) -> bool:
    """Waits for what the browser does in its own time: it draws, it tells that a dialog closed."""
    from selenium.webdriver.support.wait import WebDriverWait

    return bool(WebDriverWait(page, 60, 0.05).until(lambda _: condition()))


def names(page) -> list[str]:
    """The pairs' ids, as the cards have them."""
    return [element.get_attribute("title") for element in find(page, ".card .id")]


def choose(page, field, value):
    """As a user's choice in a select, by its value."""
    (option,) = find(page, f"#{field} option[value='{value}']")
    option.click()


def own_id(dialog) -> str:
    """The open pair's id."""
    return dialog.find_elements("css selector", ".facts dd")[-1].text


def said(page) -> str:
    return find(page, "#found")[0].text


def test_without_scripts_the_page_says_so_and_shows_no_empty_controls(browser, sample):
    make_report(sample, {}, thumbnails=0)
    browser.get("about:blank")
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    try:
        browser.get(f"file://{sample}/report.html")
        shown = {e.tag_name for e in find(browser, "main > *, nav, fieldset") if e.is_displayed()}
    finally:
        browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
        browser.get("about:blank")
        browser.get_log("browser")
    assert shown == {"section"}


def test_the_page_shows_pairs_curves_and_settings(page):
    assert page.title == "out: style transfer"
    assert said(page) == "30 pairs"
    assert len(names(page)) == 24
    assert "Not the network of the paper." in find(page, "#notices")[0].text
    assert becomes(page, lambda: find(page, "#loss-body path.line") and find(page, "rect.bar"))
    (first,) = find(page, "#cards [data-pair='0']")
    assert first.text.splitlines() == ["cat · c0", "in the style of monet", "pair-0"]
    shown = page.execute_script(
        "return [...document.images].map(i => [i.complete, i.naturalWidth, i.alt])"
    )
    assert all(complete and width == 64 for complete, width, _ in shown)
    assert {alt for _, _, alt in shown} >= {"Content c1.png", "Style munch.png", "Result"}
    assert len(find(page, "#loss-body path.line")) == 1
    assert becomes(page, lambda: len(find(page, "#speed-body path.line")) == 2)  # done, errors
    assert "one every" in find(page, "#speed-body")[0].text
    assert len(find(page, "#speed-body rect.bar")) == 5  # 1 to 5 seconds
    assert len(find(page, ".card .spark")) == 20  # of 24 cards, those without an error
    assert "not_found" in find(page, "#errors-body")[0].text
    assert "image_size" in find(page, "#settings-body")[0].text
    broken = page.execute_script(
        "return [...document.querySelectorAll('#settings-body .panel.scroll :is(th, td)')].filter("
        "cell => { const inside = document.createRange(); inside.selectNodeContents(cell);"
        "return cell.textContent.length < 9"
        " && new Set([...inside.getClientRects()].map(line => line.top)).size > 1; })"
        ".map(cell => cell.textContent)"
    )
    assert broken == [], "short words take one line"


def test_filters_search_sort_and_paging(page):
    choose(page, "status", "ok")
    assert said(page) == "26 of 30 pairs"
    assert names(page)[:3] == ["pair-0", "pair-6", "pair-12"], "by class, content and style"
    choose(page, "sort", "id")
    assert names(page)[:3] == ["pair-0", "pair-1", "pair-2"]
    find(page, "#next")[0].click()
    assert names(page) == ["pair-24", "pair-25"]
    assert said(page) == "Page 2 of 2, 26 pairs"
    page.refresh()  # the address remembers
    assert names(page) == ["pair-24", "pair-25"]
    choose(page, "sort", "loss-down")
    assert names(page)[:2] == ["pair-25", "pair-24"]
    choose(page, "sort", "seconds-up")
    assert names(page)[:2] == ["pair-0", "pair-10"], "equal ones by class and name"
    choose(page, "label", "0")  # cat
    assert said(page) == "13 of 30 pairs"
    choose(page, "style", "0")  # monet
    assert said(page) == "13 of 30 pairs"
    find(page, "#q")[0].send_keys("PAIR-1 c1")
    assert sorted(names(page)) == ["pair-10", "pair-16"]
    find(page, "#q")[0].send_keys(" nothing")
    assert said(page).startswith("No pair fits.")
    find(page, "#reset")[0].click()
    assert said(page) == "30 pairs"
    choose(page, "status", "error:bad_name")
    assert sorted(names(page)) == sorted(HOSTILE[1::2])


def test_a_pair_is_opened_read_and_closed_by_keyboard(page):
    from selenium.webdriver.common.keys import Keys

    def press(*keys):
        for key in keys:
            page.switch_to.active_element.send_keys(key)

    def focused(attribute):
        return page.switch_to.active_element.get_attribute(attribute)

    choose(page, "status", "ok")
    choose(page, "sort", "id")
    find(page, "#sort")[0].send_keys(Keys.TAB)
    for _ in range(10):
        if focused("class") == "open":
            break
        press(Keys.TAB)
    assert focused("data-pair") == "0"
    press(Keys.ENTER)
    (dialog,) = find(page, "dialog[open]")
    assert dialog.get_attribute("aria-labelledby") == focused("id") == "detail-name"
    assert page.switch_to.active_element.text == "cat · c0"
    assert own_id(dialog) == "pair-0"
    press(Keys.ARROW_RIGHT, Keys.ARROW_RIGHT, Keys.ARROW_RIGHT)
    assert page.switch_to.active_element.text == "dog · c0"
    assert own_id(dialog) == "pair-3"
    assert "iterations = 7" in dialog.text
    assert [notice.text for notice in find(page, "dialog .notice")] == [WARNING]
    assert "Loss from 5 to 0.25 in 30 evaluations" in dialog.text
    assert becomes(page, lambda: len(find(page, "dialog path.line")) == 1)
    picture, curve = page.execute_script(
        "return ['.compare', 'dialog .curve'].map((name) =>"
        " document.querySelector(name).getBoundingClientRect().toJSON())"
    )
    assert curve["left"] > picture["right"], "next to the picture"
    assert curve["bottom"] < page.execute_script("return innerHeight"), "in sight"
    for _ in range(6):
        if focused("type") == "range":
            break
        press(Keys.TAB)
    assert focused("aria-label")
    press(Keys.END)
    (compare,) = find(page, ".compare")
    assert "--cut: 100%" in compare.get_attribute("style")
    press(Keys.ESCAPE)
    assert find(page, "dialog[open]") == []
    assert becomes(page, lambda: focused("data-pair") == "3")


def test_what_records_say_is_text(page):
    choose(page, "status", "error")
    assert sorted(names(page)) == sorted(HOSTILE)
    for card in range(4):
        find(page, ".open")[card].click()
        (dialog,) = find(page, "dialog[open]")
        title = find(page, "#detail-name")[0].get_property("textContent")
        assert any(title.startswith(text) for text in HOSTILE)
        assert (
            find(page, "dialog .facts > div:last-child dd")[0].get_property("textContent")
            in HOSTILE
        )
        assert "host/x.png" in dialog.text
        find(page, ".close")[0].click()
    assert page.execute_script("return window.hacked") is None
    assert find(page, "img[src='x']") == []
    labels = page.execute_script("return [...document.querySelectorAll('#label option')].length")
    assert labels == 1 + 2 + len(HOSTILE)


def test_the_table_opens_pairs_and_gets_the_focus_back(page):
    heads = [head.text for head in find(page, "#table thead th")]
    assert heads == ["monet", "munch"]
    assert [head.text for head in find(page, "#table tbody th")] == ["c0", "c1", "c2"]
    cells = find(page, "#table tbody button")
    assert len(cells) == 6
    assert cells[1].find_elements("css selector", "img")[0].get_attribute("alt") == (
        "c0 in the style of munch"
    )
    cells[1].click()
    (dialog,) = find(page, "dialog[open]")
    assert own_id(dialog) == "pair-3", "the first of those with the same images"
    find(page, ".close")[0].click()
    assert becomes(page, lambda: page.switch_to.active_element == cells[1])


def test_light_and_dark(page):
    def paper():
        colour = page.execute_script("return getComputedStyle(document.body).backgroundColor")
        return sum(map(int, re.findall(r"\d+", colour)[:3]))

    scheme = {"name": "prefers-color-scheme", "value": "dark"}
    light = paper()
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [scheme]})
    dark = paper()
    assert dark < 120 < 600 < light
    find(page, "input[value=light] + span")[0].click()
    assert paper() == light
    page.refresh()
    assert paper() == light, "the choice is kept"
    find(page, "input[value=auto] + span")[0].click()
    assert paper() == dark
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_a_job_that_has_just_begun(browser, tmp_path):
    write_output(str(tmp_path), [], rows=7)
    assert make_report(str(tmp_path), {}, thumbnails=10).pairs == 0
    browser.get(f"file://{tmp_path}/report.html")
    assert "0 of 7 pairs are recorded." in find(browser, "#notices")[0].text
    assert browser.get_log("browser") == []


def test_originals_many_runs_and_a_sample_on_the_page(browser, tmp_path, monkeypatch):
    monkeypatch.setattr(sampling, "MOST_PAIRS", 30)
    day = datetime.timedelta(days=1)
    rows = [ok_record(n, finished_at=START + n * day, content_uri=f"/c{n}.png") for n in range(40)]
    rows[0] |= dict.fromkeys(("total_loss", "evaluations", "stop_reason", "device", "loss_history"))
    rows[0] |= {"style_uri": []}
    make_report(write_output(str(tmp_path), rows[:5]), {}, thumbnails=0)
    browser.get(f"file://{tmp_path}/report.html")
    shown = find(browser, "body")[0].text
    assert "1 of them originals, as they were" in shown
    assert "an original, as it was" in shown
    assert "5 pictures from 5 content images in" in shown
    assert "unknown" not in shown
    make_report(write_output(str(tmp_path), rows), {}, thumbnails=0)
    browser.get(f"file://{tmp_path}/report.html")
    lead = find(browser, "#lead")[0].text
    assert lead.startswith("40 pictures · "), "of a sample nobody knows all content images"
    steps = "return [...document.querySelectorAll('path')].map(path => path.getAttribute('d'))"
    stairs = [path for path in browser.execute_script(steps) if re.search("V.*H[^Z]*$", path or "")]
    assert len(stairs) >= 40
    for path in stairs:
        places = [float(x) for x in re.findall(r"[MH](-?[\d.]+)", path)]
        assert places == sorted(places)
    assert browser.get_log("browser") == []


def test_ten_thousand_pairs(browser, tmp_path, record_property):
    count = 10_000
    for seed in range(20):
        (tmp_path / f"{seed}.png").write_bytes(image_bytes(seed, 48, 64))
    rows = []
    for index in range(count):
        uris = {
            "content_uri": str(tmp_path / f"{index % 20}.png"),
            "style_uri": [f"/somewhere/paintings/{index % 500:05d}.jpg"],
        }
        file = f"images/{index % 20}.png"
        rows.append(ok_record(index, file_name=file, label=f"class-{index % 1000}", **uris))
    for index in range(20):
        path = str(tmp_path / "out" / "images" / f"{index}.png")
        files.write_bytes(path, image_bytes(index, 48, 64), {})
    made = make_report(write_output(str(tmp_path / "out"), rows), {}, thumbnails=100)
    assert made.listed == count
    assert made.bytes < 8_000_000
    browser.get(f"file://{tmp_path}/out/report.html")
    assert said(browser) == "10,000 pairs"
    timed = (
        "const start = performance.now(); const field = document.getElementById(arguments[0]);"
        "field.value = arguments[1];"
        "const kind = field.id === 'q' ? 'input' : 'change';"
        "field.dispatchEvent(new Event(kind, {bubbles: true}));"
        "return performance.now() - start"
    )
    for field, value in (("q", "pair-99"), ("q", ""), ("sort", "loss-down"), ("label", "7")):
        record_property(f"{field} {value}", browser.execute_script(timed, field, value))
    assert said(browser) == "10 of 10,000 pairs"
    assert names(browser)[0] == "pair-9007"
    assert browser.get_log("browser") == []
