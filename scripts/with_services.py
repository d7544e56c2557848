"""Run a command with a PostgreSQL and a Redis of its own: ``with_services.py -- COMMAND …``.

Both are installed from the distribution's packages when they are missing, started in a temporary
directory on ports nobody else has, announced in the environment, and gone when the command ends.
PostgreSQL refuses to run as root, so root starts it as an unprivileged user.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

_PACKAGES = ("postgresql", "redis-server", "docker-registry")
# Tests of jumping clocks, of kills in a write and of poolers skip without them.
_ALSO = ("faketime", "strace", "pgbouncer")
_START_SECONDS = 60.0
_EVERYWHERE = os.pathsep.join((os.environ.get("PATH", os.defpath), "/usr/sbin"))


def main() -> int:
    """Start both, run the command, stop both; the command's exit status."""
    command = sys.argv[sys.argv.index("--") + 1 :]
    _install_missing()
    with contextlib.ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="penstock-services-")))
        folder.chmod(0o755)
        environment = {
            **os.environ,
            "PENSTOCK_TEST_POSTGRES": stack.enter_context(_postgres(folder)),
            "PENSTOCK_TEST_REDIS": stack.enter_context(_redis(folder)),
        }
        return subprocess.run(command, env=environment, check=False).returncode


def _install_missing() -> None:
    programs = ("redis-server", "docker-registry")  # the tests start registries themselves
    enough = _postgres_programs() is not None and all(shutil.which(name) for name in programs)
    if enough and all(shutil.which(name, path=_EVERYWHERE) for name in _ALSO):
        return
    prefix = [] if os.geteuid() == 0 else ["sudo", "-n"]
    apt = shutil.which("apt-get")
    if apt is None or (prefix and not shutil.which("sudo")):
        if enough:
            return
        sys.exit(
            "The tests need PostgreSQL, Redis and an OCI registry, and this user may not install"
            " them.\n"
            f"Install the packages {', '.join(_PACKAGES)}, then try again."
        )
    print(
        "installing PostgreSQL, Redis, an OCI registry and what the tests attack with …", flush=True
    )
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
    # No service of the distribution's is started: the tests start their own.
    quiet = ["-qq", "-o", "Dpkg::Use-Pty=0"]
    for arguments in (["update"], ["install", "-y", "--no-install-recommends", *_PACKAGES, *_ALSO]):
        done = subprocess.run(
            [*prefix, "env", "RUNLEVEL=1", apt, *quiet, *arguments],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
        )
        if done.returncode and enough:
            return
        if done.returncode:
            sys.exit(f"apt-get {arguments[0]} failed:\n{done.stderr[-2000:]}")


def _postgres_programs() -> Path | None:
    """The directory of PostgreSQL's own programs, the newest version's."""
    found = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda p: int(p.parts[-3]))
    if found:
        return found[-1].parent
    on_path = shutil.which("initdb")
    return Path(on_path).resolve().parent if on_path else None


@contextlib.contextmanager
def _postgres(folder: Path) -> Iterator[str]:
    programs = _postgres_programs()
    if programs is None:
        sys.exit("PostgreSQL was installed, but its programs are not where they should be.")
    data = folder / "postgres"
    data.mkdir()
    user = _unprivileged()
    if user is not None:
        os.chown(data, user.pw_uid, user.pw_gid)
    port = _free_port()
    options = {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []} if user else {}
    subprocess.run(
        [programs / "initdb", "-D", data / "db", "-U", "penstock", "-A", "trust", "-E", "UTF8",
         "--locale=C.UTF-8", "--no-sync"],
        cwd=data, check=True, stdout=subprocess.DEVNULL, **options,
    )  # fmt: skip
    log = (data / "log").open("wb")
    server = subprocess.Popen(
        [programs / "postgres", "-D", data / "db", "-p", str(port), "-h", "127.0.0.1",
         "-k", data, "-c", "max_connections=200"],
        cwd=data, stdout=log, stderr=log, **options,
    )  # fmt: skip
    try:
        _await_port(port, server, data / "log")
        url = f"postgresql://penstock@127.0.0.1:{port}/postgres"
        _await_query(programs, url, options)
        yield url
    finally:
        server.send_signal(signal.SIGINT)  # fast shutdown: clients are disconnected
        _reap(server)
        log.close()


@contextlib.contextmanager
def _redis(folder: Path) -> Iterator[str]:
    data = folder / "redis"
    data.mkdir()
    port = _free_port()
    program = shutil.which("redis-server") or "redis-server"
    with (data / "log").open("wb") as log:
        server = subprocess.Popen(
            [program, "--port", str(port), "--bind", "127.0.0.1", "--dir", data, "--save", "",
             "--appendonly", "no"],
            stdout=log, stderr=log,
        )  # fmt: skip
        try:
            _await_port(port, server, data / "log")
            yield f"redis://127.0.0.1:{port}/0"
        finally:
            server.terminate()
            _reap(server)


def _unprivileged() -> pwd.struct_passwd | None:
    """Whom to be, when we are root."""
    if os.geteuid() != 0:
        return None
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name)
    sys.exit("PostgreSQL does not run as root, and there is neither a user postgres nor nobody.")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def _await_port(port: int, server: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        if server.poll() is not None:
            break
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
            return
        time.sleep(0.05)
    sys.exit(f"{server.args[0]} did not start:\n{log.read_text(errors='replace')[-2000:]}")


def _await_query(programs: Path, url: str, options: dict[str, object]) -> None:
    """A port that answers is not yet a database that does."""
    until = time.monotonic() + _START_SECONDS
    while time.monotonic() < until:
        done = subprocess.run(
            [programs / "psql", "-X", "-q", "-c", "select 1", url],
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd="/", check=False, **options,
        )  # fmt: skip
        if done.returncode == 0:
            return
        time.sleep(0.05)
    sys.exit("PostgreSQL started, but answers no query.")


def _reap(server: subprocess.Popen[bytes]) -> None:
    try:
        server.wait(20)
    except subprocess.TimeoutExpired:
        server.kill()
        server.wait()


if __name__ == "__main__":
    sys.exit(main())
