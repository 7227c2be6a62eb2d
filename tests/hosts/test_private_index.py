"""Wheels from a private index: real HTTPS with a certificate of one's own, a login, a proxy."""

from __future__ import annotations

import base64
import datetime
import http.server
import ipaddress
import select
import socket
import ssl
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

from hosts.provision import Lock, ProvisionError, collect_wheels, missing_wheels
from tests.hosts.test_provision import _offline as only_what_is_given
from tests.hosts.test_provision import make_wheel, write_lock

__all__ = ["only_what_is_given"]

LOGIN = "reader:s3cret-canary"


class Index:
    """A package index by HTTPS that wants a login; `asked` are the paths it was asked for."""

    def __init__(self, folder: Path) -> None:
        self.wheels, self.asked = folder / "wheels", list[str]()
        self.certificate = folder / "ca.pem"
        key = _certificate(self.certificate, folder / "key.pem")
        index = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                index.asked.append(self.path)
                wanted = "Basic " + base64.b64encode(LOGIN.encode()).decode()
                if self.headers.get("Authorization") != wanted:
                    self.send_response(401)
                    self.send_header("WWW-Authenticate", 'Basic realm="index"')
                    self.end_headers()
                    return
                body = index.page(self.path)
                self.send_response(200 if body is not None else 404)
                self.send_header("Content-Type", "text/html" if self.path.endswith("/") else "zip")
                self.end_headers()
                self.wfile.write(body or b"")

            def log_message(self, *_: object) -> None:
                """Nothing: the test reads `asked`."""

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(self.certificate, key)
        self.server.socket = context.wrap_socket(self.server.socket, server_side=True)
        self.port = self.server.server_port
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, login: str = LOGIN) -> str:
        return f"https://{login}@127.0.0.1:{self.port}/simple"

    def page(self, path: str) -> bytes | None:
        """The files of a project, or one file."""
        parts = path.strip("/").split("/")
        if parts[0] == "simple" and len(parts) == 2:
            names = [p.name for p in self.wheels.iterdir() if p.name.split("-")[0] == parts[1]]
            return "".join(f'<a href="/files/{name}">{name}</a>\n' for name in names).encode()
        path_of = self.wheels / parts[-1]
        return path_of.read_bytes() if parts[0] == "files" and path_of.exists() else None


def _certificate(certificate: Path, key: Path) -> Path:
    """A certificate for 127.0.0.1 that nobody trusts yet."""
    private = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "index of a test")])
    now = datetime.datetime.now(datetime.UTC)
    made = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(private.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]), False
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), True)
        .sign(private, hashes.SHA256())
    )
    certificate.write_bytes(made.public_bytes(serialization.Encoding.PEM))
    key.write_bytes(private.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    ))  # fmt: skip
    return key


@pytest.fixture
def index(tmp_path: Path) -> Iterator[Index]:
    made = Index(tmp_path)
    yield made
    made.server.shutdown()
    made.server.server_close()


@pytest.fixture
def lock(tmp_path: Path, index: Index, monkeypatch: pytest.MonkeyPatch) -> Lock:
    """Two packages that the private index alone has; pip is free to ask it."""
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.setenv("PIP_RETRIES", "0")
    for name in ("HTTPS_PROXY", "https_proxy", "NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name in ("REQUESTS_CA_BUNDLE", "CURL_CA_BUNDLE"):  # go before PIP_CERT
        monkeypatch.delenv(name, raising=False)
    one, other = make_wheel(index.wheels, "alpha"), make_wheel(index.wheels, "beta", "2.5")
    return write_lock(tmp_path / "small.txt", {"alpha==1.0": one, "beta==2.5": other})


def test_index_login_and_certificate_by_the_environment(
    lock: Lock, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.url())
    monkeypatch.setenv("PIP_CERT", str(index.certificate))
    collect_wheels(lock, tmp_path / "home")
    assert missing_wheels(lock, tmp_path / "home") == []
    assert {path for path in index.asked if path.startswith("/files")} == {
        "/files/alpha-1.0-py3-none-any.whl", "/files/beta-2.5-py3-none-any.whl"
    }  # fmt: skip


def test_index_and_certificate_by_pips_own_file(
    lock: Lock, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = tmp_path / "pip.conf"
    config.write_text(f"[global]\nindex-url = {index.url()}\ncert = {index.certificate}\n")
    monkeypatch.setenv("PIP_CONFIG_FILE", str(config))
    collect_wheels(lock, tmp_path / "home")
    assert missing_wheels(lock, tmp_path / "home") == []


def test_a_certificate_that_is_not_trusted_and_a_wrong_login_are_named(
    lock: Lock, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.url())
    with pytest.raises(ProvisionError) as refused:
        collect_wheels(lock, tmp_path / "home")
    assert refused.value.what == "no configured source has alpha==1.0"
    assert refused.value.why == "the certificate of 127.0.0.1 is not trusted"
    assert "PIP_CERT" in refused.value.todo
    monkeypatch.setenv("PIP_CERT", str(index.certificate))
    monkeypatch.setenv("PIP_INDEX_URL", index.url("reader:wrong"))
    with pytest.raises(ProvisionError) as refused:
        collect_wheels(lock, tmp_path / "home")
    assert "127.0.0.1" in refused.value.why and "login" in refused.value.why
    assert "wrong" not in str(refused.value) + refused.value.why + refused.value.todo
    assert missing_wheels(lock, tmp_path / "home") != []
    assert list((tmp_path / "home" / "wheels").glob(".incoming-*")) == []


@pytest.mark.parametrize("variable", ["PIP_PROXY", "HTTPS_PROXY"])
def test_a_proxy_is_used(
    lock: Lock, index: Index, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    monkeypatch.setenv("PIP_INDEX_URL", index.url())
    monkeypatch.setenv("PIP_CERT", str(index.certificate))
    with _proxy() as (port, wanted):
        monkeypatch.setenv(variable, f"http://127.0.0.1:{port}")
        collect_wheels(lock, tmp_path / "home")
    assert missing_wheels(lock, tmp_path / "home") == []
    assert set(wanted) == {f"127.0.0.1:{index.port}"}


@contextmanager
def _proxy() -> Iterator[tuple[int, list[str]]]:
    """An HTTP proxy: its port, and the places it was asked to connect to."""
    wanted: list[str] = []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_CONNECT(self) -> None:
            wanted.append(self.path)
            host, _, port = self.path.partition(":")
            with socket.create_connection((host, int(port))) as other:
                self.send_response(200)
                self.end_headers()
                ends = [self.connection, other]
                while ready := select.select(ends, [], [], 10)[0]:
                    for end in ready:
                        data = end.recv(1 << 16)
                        if not data:
                            return
                        ends[1 - ends.index(end)].sendall(data)

        def log_message(self, *_: object) -> None:
            """Nothing: the test reads `wanted`."""

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield server.server_port, wanted
    finally:
        server.shutdown()
        server.server_close()
