"""Redirects: which of them are followed."""

import datetime
import io
import re
import ssl

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from pipeline.data.errors import RowError
from pipeline.data.manifest import manifest, planning
from pipeline.data.manifest.rows import RowChecker
from pipeline.data.storage import files
from tests.web_server import Handler, serving

UNVERIFIED = {"https": {"ssl": False}}


class Hops(Handler):
    """Serves ``/file``; redirects all else to ``server.target`` by the header ``server.header``."""

    def do_GET(self):
        self.server.seen.append(self.path)
        found = self.path == "/file"
        self.send_response(200 if found else 302)
        if not found:
            self.send_header(self.server.header, self.server.target)
        self.send_header("Content-Length", "4" if found else "0")
        self.end_headers()
        if found and self.command == "GET":
            self.wfile.write(b"data")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "127.0.0.1")])
    now = datetime.datetime.now(datetime.timezone.utc)
    signed = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .sign(key, hashes.SHA256())
    )
    path = tmp_path_factory.mktemp("tls") / "both.pem"
    pem = serialization.Encoding.PEM
    form = serialization.PrivateFormat.PKCS8
    secret = key.private_bytes(pem, form, serialization.NoEncryption())
    path.write_bytes(secret + signed.public_bytes(pem))
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path)
    return context


@pytest.fixture
def servers(certificate):
    """An https server and an http server."""
    with (
        serving(Hops, certificate, seen=[], header="Location") as secure,
        serving(Hops, seen=[], header="Location") as plain,
    ):
        yield secure, plain


@pytest.mark.parametrize("most", [None, 1000])
@pytest.mark.parametrize("header", ["Location", "URI"])
def test_no_redirect_leads_from_https_to_http(servers, header, most):
    secure, plain = servers
    secure.header = header
    secure.target = f"http://127.0.0.1:{plain.server_port}/file?Sig=SECRET"
    uri = f"https://user:SECRET@127.0.0.1:{secure.server_port}/picture.png"
    with pytest.raises(RowError, match="redirects from https to another scheme") as caught:
        files.read_bytes(uri, UNVERIFIED, most)
    assert caught.value.error_class == "scheme_not_allowed"
    assert "SECRET" not in str(caught.value)
    assert plain.seen == []
    assert len(secure.seen) <= 2, "it is asked again, though that mends nothing"


@pytest.mark.parametrize("most", [None, 1000])
def test_other_redirects_are_followed(servers, most):
    secure, plain = servers
    port = secure.server_port
    for target in (f"https://127.0.0.1:{port}/file", "/file", f"//127.0.0.1:{port}/file"):
        secure.target = target
        assert files.read_bytes(f"https://127.0.0.1:{port}/x", UNVERIFIED, most) == b"data"
    plain.target = "/file"
    assert files.read_bytes(f"http://127.0.0.1:{plain.server_port}/x", {}, most) == b"data"


class Expiring(Handler):
    """Serves a file by ranges until its link has expired."""

    def do_GET(self):
        start, end = 0, len(self.server.data) - 1
        asked = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        if asked:
            start, end = int(asked[1]), min(end, int(asked[2]))
        expired = self.server.expired and self.command == "GET"
        data = b"" if expired else self.server.data[start : end + 1]
        self.send_response(403 if expired else 206 if asked else 200)
        self.send_header("Content-Length", str(len(data)))
        self.send_header("Accept-Ranges", "bytes")
        if asked and not expired:
            self.send_header("Content-Range", f"bytes {start}-{end}/{len(self.server.data)}")
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(data)


def test_a_manifest_whose_link_expires_while_it_is_read_ends_with_one_line():
    rows = {"content_uri": [f"c{n}" * 50 for n in range(20_000)], "style_uri": ["s"] * 20_000}
    stored = io.BytesIO()
    pq.write_table(pa.table(rows), stored, row_group_size=1000, use_dictionary=False)
    with serving(Expiring, data=stored.getvalue(), expired=False) as server:
        address = server.url.replace("http://", "http://user:SECRET@")
        opened = manifest.open_manifest(f"{address}/m.parquet?X-Amz-Signature=SECRET", {})
        server.expired = True
        checker = RowChecker("/", "f", frozenset({"file"}))
        with pytest.raises(manifest.ManifestError, match="cannot be read") as raised:
            list(planning.planned_slices(opened, checker, None))
    assert "SECRET" not in str(raised.value)
