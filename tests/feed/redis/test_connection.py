"""Reaching a server: passwords, TLS, and words for what is wrong."""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import threading
from pathlib import Path

import pytest
from containers import payload_of, producer, producing, spec_of, take_all, trainer
from redis_server import RedisServer, free_port, server_binary

from myna.errors import FeedError
from myna.feed.redis.connection import connect, place_of


@pytest.fixture(scope="module")
def protected():
    with RedisServer(requirepass="s3cret") as server:
        yield server


@pytest.fixture(scope="module")
def certificate(tmp_path_factory):
    if shutil.which("openssl") is None:
        pytest.fail("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=localhost"]
    command += ["-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    command += ["-keyout", str(folder / "key.pem"), "-out", str(folder / "cert.pem")]
    subprocess.run(command, check=True, capture_output=True)
    return folder


class TlsFront:
    """Ends TLS in front of a server that has none."""

    def __init__(self, port: int, folder) -> None:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(folder / "cert.pem", folder / "key.pem")
        self.target = port
        self.listener = context.wrap_socket(socket.create_server(("127.0.0.1", 0)), server_side=True)
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def close(self) -> None:
        self.listener.close()

    def _accept(self) -> None:
        while True:
            try:
                near, _ = self.listener.accept()
            except ssl.SSLError:
                continue  # a caller that distrusts us
            except OSError:
                return
            far = socket.create_connection(("127.0.0.1", self.target))
            for source, sink in ((near, far), (far, near)):
                threading.Thread(target=self._pass, args=(source, sink), daemon=True).start()

    def _pass(self, source: socket.socket, sink: socket.socket) -> None:
        try:
            while data := source.recv(65536):
                sink.sendall(data)
        except OSError:
            pass
        for end in (source, sink):
            end.close()


def test_a_password_is_used(protected):
    container, maker = trainer(protected.url, spec_of()), producer(protected.url)
    maker.put(maker.claim(1), payload_of(0))
    assert container.take(0, 1) == payload_of(0)
    for each in (container, maker):
        each.close()


def test_a_user_with_the_documented_rights_is_enough(redis_server):
    rights = "~myna:* +@read +@write +@scripting +@transaction +@connection -@dangerous +info +time +multi +exec"
    redis_server.client.execute_command("ACL", "SETUSER", "myna", "on", ">pw", *rights.split())
    url = f"redis://myna:pw@127.0.0.1:{redis_server.port}/0"
    assert rights in (Path(__file__).parents[3] / "docs" / "container.md").read_text()
    for seed in (0, 1):  # another description: the old one is cleared
        container = trainer(url, spec_of(10, seed=seed))
        with producing(url):
            take_all(container, range(5))
            container.heartbeat()
        assert container.status().number == 5
        container.close()


@pytest.mark.parametrize("login", ["", ":wrong-pw@", "nobody:wrong-pw@"])
def test_a_wrong_password_is_said_and_not_shown(protected, login):
    with pytest.raises(FeedError, match=r"refuses this user or password.*redis://USER:PASSWORD@HOST") as caught:
        connect(f"redis://{login}127.0.0.1:{protected.port}/0")
    assert "wrong-pw" not in str(caught.value)


def test_places_are_named_without_passwords():
    assert place_of("rediss://user:p%40ss@host.example:6380/2?ssl_ca_certs=x") == "rediss://host.example:6380/2"
    assert place_of("unix://user:pass@/run/redis.sock?db=1&password=pass") == "unix:///run/redis.sock"
    assert place_of("127.0.0.1:6379") == "127.0.0.1:6379"


@pytest.mark.parametrize("mark", ["/", "#", "?", "["])
def test_a_password_that_breaks_the_address_is_not_shown(mark):
    with pytest.raises(FeedError, match=r"expected an address of Redis; received redis://127.*%2F for /") as caught:
        connect(f"redis://me:hush{mark}hush@127.0.0.1:1/0")
    assert "hush" not in str(caught.value)


def test_nobody_there():
    with pytest.raises(FeedError, match=r"cannot be reached.*See that it runs"):
        connect(f"redis://:hidden@127.0.0.1:{free_port()}/0")


def test_something_else_answers():
    with socket.create_server(("127.0.0.1", 0)) as listener:

        def answer() -> None:
            near, _ = listener.accept()
            with near:
                near.recv(1000)
                near.sendall(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                near.recv(1000)

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(FeedError, match=r"something else answers there|cannot be reached"):
            connect(f"redis://127.0.0.1:{listener.getsockname()[1]}/0")
        thread.join()


@pytest.mark.parametrize(
    "url", ["http://host:1", "localhost:6379", "redis://host:port/0", "redis://h:1/0?ssl_ca_certs"]
)
def test_addresses_that_are_none(url):
    with pytest.raises(FeedError, match=r"expected|cannot be reached"):
        connect(url)


def test_a_cluster_is_refused():
    with (
        RedisServer(cluster_enabled="yes") as server,
        pytest.raises(FeedError, match=r"expected a single Redis.*cluster mode"),
    ):
        connect(server.url)


def test_a_replica_is_refused(protected):
    with (
        RedisServer(replicaof=f"127.0.0.1 {protected.port}", masterauth="s3cret") as server,
        pytest.raises(FeedError, match="is a replica"),
    ):
        connect(server.url)


def test_a_unix_socket(tmp_path_factory):
    with RedisServer() as plain:
        path = plain.folder / "redis.sock"
    with RedisServer(unixsocket=str(path.parent) + ".sock") as server:
        container = trainer(f"unix://{path.parent}.sock", spec_of())
        assert container.take(0, 0) is None
        container.close()
        assert server.process.poll() is None


def test_tls_in_front_of_a_server(protected, certificate):
    front = TlsFront(protected.port, certificate)
    url = f"rediss://:s3cret@localhost:{front.port}/0?ssl_ca_certs={certificate / 'cert.pem'}"
    container, maker = trainer(url, spec_of(5)), producer(url)
    maker.put(maker.claim(1), payload_of(0))
    assert container.take(0, 1) == payload_of(0)
    for each in (container, maker):
        each.close()
    with pytest.raises(FeedError, match=r"cannot be reached.*certificate"):
        connect(f"rediss://:s3cret@localhost:{front.port}/0")
    front.close()


def test_tls_of_the_server_itself(certificate):
    port = free_port()
    options = {
        "tls_port": str(port),
        "tls_cert_file": str(certificate / "cert.pem"),
        "tls_key_file": str(certificate / "key.pem"),
        "tls_ca_cert_file": str(certificate / "cert.pem"),
        "tls_auth_clients": "no",
    }
    try:
        server = RedisServer(**options)
    except AssertionError:
        pytest.skip(f"{server_binary()} was built without TLS")
    with server:
        url = f"rediss://localhost:{port}/0?ssl_ca_certs={certificate / 'cert.pem'}"
        container, maker = trainer(url, spec_of(5)), producer(url)
        maker.put(maker.claim(1), payload_of(0))
        assert container.take(0, 1) == payload_of(0)
        for each in (container, maker):
            each.close()
