"""No credential is shown, however its address is malformed."""

import json
import re
import time

import pyarrow as pa
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from pipeline.data.manifest import planning
from pipeline.data.manifest.manifest import ManifestError, open_manifest
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.storage import failures, uris
from pipeline.engine.runtime import cluster
from pipeline.engine.stages import loading
from pipeline.engine.stages.context import Context
from pipeline.engine.stages.guarding import guarded
from pipeline.redaction import redact, redact_text
from pipeline.report.facts import without_credentials
from pipeline.settings import JobSettings, SettingError, StyleSettings
from pipeline.style.network.weights import WeightsError, load_network
from tests.outputs import record_of

MARK = "MARKED"

SECRETS = st.lists(st.sampled_from(["/", "?", "#", "@", ":", "%", "&", "=", "+", ".", "\\", "1"]))
"""What may stand between two marks. Each mark begins with a letter: digits alone are
a port."""

BEGINNINGS = (
    *("https://", "http://", "HTTPS://", "https:/", "https:///", "https//", "https:", "https;//"),
    *("https:\\\\", "https ://", "//", "", "htps://", "s3://", "gs://", "abfs://", "ftp://"),
    *("file:///data/https://", "git+https://", "https://proxy/https://", "./", "/"),
)
JUNK = ("", " ", '"', "'", "<", "(", "\t", "\ufeff", "zip::", "url:", "\u201c")
ENDS = ("", " ", '"', ">", ")", "#top", "&x=1")


@st.composite
def spoiled(draw):
    """An address with a password, a signature or both, as it comes out of tables and shells."""
    beginning = draw(st.sampled_from(BEGINNINGS))
    secret = MARK + "".join(draw(SECRETS)) + MARK
    if re.search("http|://", beginning) and draw(st.booleans()):
        secret = f"12/{secret}"  # as a port
    where = draw(st.sampled_from(("user", "query", "both")))
    user = f"user:{secret}@" if where != "query" else ""
    name = draw(st.sampled_from(("X-Amz-Signature", "sig", "X-Goog-Signature", "token", "Key")))
    query = f"?{name}={secret}" if where != "user" else draw(st.sampled_from(("", "?w=1", "?a@b")))
    host = draw(st.sampled_from(("h", "h.example:8080", "bucket.s3.amazonaws.com")))
    start = draw(st.sampled_from(JUNK)) + beginning
    return f"{start}{user}{host}/a b/x.png{query}{draw(st.sampled_from(ENDS))}"


@settings(max_examples=200)
@given(spoiled())
@example(f" https://h/x?X-Amz-Signature={MARK}")
@example(f'"https://h/x?X-Amz-Signature={MARK}"')
@example(f"https:/h/x?X-Amz-Signature={MARK}")
@example(f"user:{MARK}@h/x")
@example(f"https://user:{MARK}?{MARK}@h/x")
@example(f"https://user:x@{MARK}/y@h/x")
@example(f"https://user:12/{MARK}@h/x.png")
@example(f"https://user:12/{MARK}@h")
@example(f"s3://user:12/a/{MARK}@h/b/x.png")
@example(f"git+https://first.last:1/@{MARK}@h.example:80/x.png")
def test_no_secret_of_a_spoiled_address_is_shown(uri):
    for base in ("/data", "s3://bucket/m", "https://h/m"):
        full = uris.resolve(uri, base)
        assert MARK not in redact(full)
        assert redact(redact(full)) == redact(full)
    assert MARK not in redact(uri)
    assert MARK not in redact_text(f"cannot open '{uri}' (no such host)")
    assert MARK not in without_credentials(f"cannot open {uri}: no such host")
    assert MARK not in failures.reason(OSError(f"cannot open {uri}"))
    assert MARK not in failures.reason_at(uri, OSError(uri))


PIECES = (
    *("https://", "s3://", "http:/", "?", "#", "@", ":", "/", "a", "sig=", "token=", "%3f", " "),
    *("X-Amz-Signature", "#member=", "&offset=1&size=2", "#image=b&group=0&row=1", "h.example"),
    *("80", "user", "..."),
)


@given(st.lists(st.sampled_from(PIECES), max_size=14).map("".join))
@settings(max_examples=500)
@example("https://@https://https://")
def test_redacting_again_changes_nothing(text):
    assert redact(redact(text)) == redact(text)


CONTEXT = Context(
    style=StyleSettings(weights="random"), output="/out", storage_options={}, max_pixels=10**6,
    max_bytes=10**6, file_format="png", quality=95, embed_metadata=True, extra=pa.schema([]),
    weights_name="w", weights_digest="d", versions={},
)  # fmt: skip


@settings(max_examples=40)
@given(spoiled())
def test_no_secret_reaches_a_record(uri):
    """One row is refused, and another one's file cannot be read."""
    for column in ("content_uri", "style_uri"):
        row = {"content_uri": "a.png", "style_uri": "b.png", "pair_id": "p", column: uri}
        planned = RowChecker("/nowhere", "f", frozenset({"file"}))(row, 3)
        if planned["fault_class"] is None:
            planned = guarded(planned, lambda row=planned: loading.load_images(row, CONTEXT))
        record = record_of(planned, CONTEXT)
        assert record["status"] == "error"
        assert MARK not in json.dumps(record, default=str)


@pytest.mark.parametrize(
    "uri",
    [
        "/data/what?.png", "/data/a#1@2x.png", "/data/2024-01-01T12:30:00/me@home.png",
        "photos/a@2x.png", "/data/a b/c: d.png", "s3://b/in/a#b?c.png", "s3://bucket/a:b@c.png",
        "file:///a b/c?d.png", "https://medium.com/@user/a.png", "https://host:8080/@user/a.png",
        "https://[::1]:80/a@b.png", "https://host/x:y/@z.png", "gs://b/a=1&b=2.png", "...",
        "http://minio:9000/b/a@2x.png", "hdfs://name:8020/@a/b@2x.png",
        "s3://arn:aws:s3:us-west-2:1:accesspoint/x/a@b.png", "memory://a?b", "C:/x.png",
    ],
)  # fmt: skip
def test_what_is_well_formed_and_holds_no_secret_is_shown_as_it_is(uri):
    assert redact(uri) == uri


def test_long_texts_take_no_long_time():
    started = time.perf_counter()
    parts = ("?key", ":/", "a:b@", "/user:", "https://", "@", "%3f", "/x:/?", "http:", ":", " ")
    for part in parts:
        for uri in (
            part * 10_000,
            "https://h/" + part * 10_000,
            "s3://b/" + part * 10_000,
            "//%:" + part * 10_000,
            "https://a:" + part * 10_000,
        ):
            redact(uri)
            redact_text(uri)
    assert time.perf_counter() - started < 10


@pytest.mark.parametrize(
    "uri",
    [
        f"https%3A%2F%2Fuser%3A{MARK}%40h%2Fx.png",
        f"https://user%3A{MARK}%40h/x.png",
        f"s3://user%3A{MARK}%40bucket/x.png",
    ],
)
def test_an_address_whose_user_is_percent_encoded_is_not_shown(uri):
    assert MARK not in redact(uri)
    assert redact(redact(uri)) == redact(uri)
    assert redact(f"https://u:{MARK}@h/{uri}").startswith("https://h/")
    assert MARK not in redact(f"https://u:{MARK}@h/{uri}")
    assert redact("https://h/a%20b%3A%40c.png") == "https://h/a%20b%3A%40c.png"
    # Cut, but still an address: a resumed job compares it with the record's.
    assert redact("s3://b/a//12:30%40cam.jpg") == "s3://b/a//12:30..."


def test_a_password_with_a_space_is_not_shown_in_a_message():
    assert redact_text("GET http://h:80 failed for bob@h") == "GET http://h:80 failed for bob@h"
    text = f"cannot read 'https://user:a {MARK}@h/x': 403 (mail me@h: no)"
    assert redact_text(text) == "cannot read 'https://h/x': 403 (mail me@h: no)"


SIGNED = f"https://user:{MARK}@h/x.png?X-Amz-Signature={MARK}"


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"content_uri": f"user:{MARK}@https://h/x.png"}, "such a scheme is not allowed"),
        ({"content_uri": f"cat.png?token={MARK}&next=https://x"}, "such a scheme is not allowed"),
        ({"content_uri": "ftp://h/x.png"}, "scheme 'ftp' is not allowed"),
        ({"style_blend": [SIGNED]}, "style_blend: "),
        ({"style_blend": [10**400]}, "style_blend: "),
        ({"content_weight": 10**400}, "content_weight: "),
        ({"preserve_color": SIGNED}, "preserve_color: 'https://h/x.png' is not one of"),
        ({"pair_id": SIGNED}, "pair_id: 'https://h/x.png' cannot be a file name"),
        ({"label": SIGNED}, "label: 'https://h/x.png' cannot be a file name"),
        ({"split": f"?sig={MARK}"}, "split: '' cannot be a file name"),
        ({"output_name": SIGNED}, "output_name: 'https://h/x.png' cannot be a file name"),
    ],
    ids=str,
)
def test_a_row_that_holds_a_secret_anywhere_is_an_error_without_it(row, what):
    checker = RowChecker("/base", "f", frozenset({"file", "s3"}))
    sound = {"content_uri": "c.png", "style_uri": "s.png", "pair_id": None}
    planned = [checker(sound | row, number) for number in range(2)]
    assert what in planned[0]["fault_message"]
    for some in planned:
        assert "MARKED" not in json.dumps(record_of(some, CONTEXT), default=str).upper()
    if row.keys() & {"pair_id", "label", "split"}:
        assert len({some["pair_id"] for some in planned}) == 2, "one record for each"


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("m.jsonl", json.dumps({"content_uri": {"url": SIGNED}, "style_uri": "s"})),
        ("m.csv", f'content_uri,style_uri\nc.png,"[""{SIGNED}"""\n'),
        ("m.csv", f"content_uri,style_uri,style_blend\nc.png,s.png,{SIGNED}\n"),
        ("m.csv", f"content_uri,style_uri,image_size\nc.png,s.png,{SIGNED}\n"),
        ("m.csv", f"{SIGNED},s.png\n"),
        ("m.csv", f"{SIGNED},{SIGNED}\n"),
    ],
)
def test_no_cell_of_a_text_file_shows_a_secret(name, text, tmp_path):
    (tmp_path / name).write_text(text)
    checker = RowChecker("/base", "f", frozenset({"file"}))
    try:
        manifest = open_manifest(str(tmp_path / name), {})
        ((row,),) = planning.planned_slices(manifest, checker, None)
        said = row["fault_message"]
    except ManifestError as error:
        said = str(error)
    assert "https://h/x.png" in said
    assert MARK not in said


def test_no_setting_shows_a_secret(monkeypatch):
    hub = f"https://oauth:{MARK}@huggingface.co/datasets/o/n"
    for settings_of in (
        lambda: JobSettings(manifest="m", output="o", format="parquet", push_to_hub=hub),
        lambda: JobSettings(manifest="m", output="o", allow_schemes=(f"https://u:{MARK}@h",)),
        lambda: StyleSettings(content_layers=(SIGNED,)),
    ):
        with pytest.raises(SettingError) as raised:
            settings_of()
        assert MARK not in str(raised.value)
    with pytest.raises(WeightsError) as unread:
        load_network(StyleSettings(weights=f"https://user:{MARK}@h/w.pth"))
    assert MARK not in str(unread.value)
    monkeypatch.setenv("RAY_ADDRESS", f"http://u:{MARK}@127.0.0.1:9")
    with pytest.raises(
        cluster.ClusterError, match=r"Ray at http://127\.0\.0\.1:9 cannot"
    ) as refused:
        cluster.start_ray(verbose=False)
    assert MARK not in str(refused.value)
