"""What releases cost: cutting an unchanged project, loading an artifact, listing many versions.

Everything goes through the real server on a new SQLite data directory; each figure is the median of
several runs, with the CPU time of the server beside the wall time where one request causes it.
"""

from __future__ import annotations

import asyncio
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from penstock.actions.components import ComponentActions
from penstock.actions.releases import ReleaseActions
from penstock.actions.signing import SigningActions
from penstock.cli.projects import packed
from penstock.client import Client
from penstock.domain.access import SYSTEM
from penstock.domain.errors import PenstockError
from penstock.drivers.builders.local import LocalBuilder
from penstock.drivers.signing.files import FileKeys
from penstock.kit.archives import pack
from penstock.runtime import artifacts
from penstock.store import Store, blobs

SUPPORT = Path(__file__).resolve().parents[1] / "examples" / "support"
KEY = "psk_" + "b" * 64
VERSIONS = 10_000
MEGABYTES = 50
RUNS = 7


def main() -> None:
    """Measure, print, and fail when a goal is missed."""
    with tempfile.TemporaryDirectory(prefix="penstock-bench-") as name:
        folder = Path(name)
        cut, listed = asyncio.run(_served(folder / "served"))
        loaded = asyncio.run(_loaded(folder / "loaded"))
    goals = (
        ("release of an unchanged project, warm", cut, 2.0),
        (f"artifact of {MEGABYTES} MB: verified and loaded", loaded, 0.3),
        (f"list of {VERSIONS:,} prompt versions", listed, 0.1),
    )
    missed = False
    for what, (wall, cpu), goal in goals:
        missed |= wall > goal
        figures = f"{wall * 1000:7.1f} ms  (CPU {cpu * 1000:7.1f} ms)"
        print(f"{what:45}  {figures}  goal < {goal * 1000:.0f} ms")
    sys.exit(missed)


async def _served(home: Path) -> tuple[tuple[float, float], tuple[float, float]]:
    home.mkdir()
    await _many_versions(home)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = subprocess.Popen(  # noqa: ASYNC220 - it is waited for at the end
        [sys.executable, "-m", "penstock", "up", "--port", str(port)],
        env={**os.environ, "PENSTOCK_HOME": str(home), "PENSTOCK_ADMIN_KEY": KEY},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        with Client(f"http://127.0.0.1:{port}", KEY) as client:
            for _ in range(600):
                try:
                    client.whoami()
                    break
                except PenstockError:
                    await asyncio.sleep(0.1)
            archive = packed(SUPPORT)
            client.cut_release(archive)
            cut = _median(server.pid, lambda: client.cut_release(packed(SUPPORT)))
            client.components("many", kind="prompt", name="system", limit=VERSIONS)
            listed = _median(
                server.pid,
                lambda: client.components("many", kind="prompt", name="system", limit=VERSIONS),
            )
            assert (
                len(client.components("many", name="system", limit=VERSIONS)["items"]) == VERSIONS
            )
    finally:
        server.send_signal(signal.SIGTERM)
        server.wait()
    return cut, listed


async def _many_versions(home: Path) -> None:
    store = Store(home=home)
    await store.open()
    pushing = ComponentActions(store)
    for number in range(VERSIONS):
        await pushing.push_prompt(
            SYSTEM, "many", "system", f"Version {number}.\n", message="one more"
        )
    await store.close()


async def _loaded(home: Path) -> tuple[float, float]:
    """A release with 50 MB of data: proven, verified file by file, ready to start."""
    project = home / "project"
    project.mkdir(parents=True)
    (project / "penstock.yaml").write_text("agent: large\nentrypoint: app:agent\n")
    (project / "app.py").write_text("def agent(x):\n    return x\n")
    (project / "data").mkdir()
    for number in range(MEGABYTES):
        (project / "data" / f"{number}.bin").write_bytes(os.urandom(1 << 20))
    store = Store(home=home)
    await store.open()
    signing = SigningActions(store, FileKeys(home / "key.pem"))
    builder = LocalBuilder(home)
    cut = await ReleaseActions(store, builder, signing).cut(SYSTEM, pack(project))
    shutil.rmtree(project)
    digest = cut.cuts[0].release.digest

    async def fetch(blob: str) -> bytes:
        return await store.read(lambda tx: blobs.get(tx, blob))

    async def load() -> None:
        await builder.prepare(await artifacts.load(store, digest), fetch)

    await load()
    times = []
    for _ in range(RUNS):
        began, cpu = time.perf_counter(), time.process_time()
        await load()
        times.append((time.perf_counter() - began, time.process_time() - cpu))
    await store.close()
    return statistics.median(wall for wall, _ in times), statistics.median(cpu for _, cpu in times)


def _median(pid: int, call: object) -> tuple[float, float]:
    times = []
    for _ in range(RUNS):
        began, cpu = time.perf_counter(), _cpu(pid)
        call()  # type: ignore[operator]
        times.append((time.perf_counter() - began, _cpu(pid) - cpu))
    return statistics.median(wall for wall, _ in times), statistics.median(cpu for _, cpu in times)


def _cpu(pid: int) -> float:
    """Seconds that a process and the children it waited for have used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK")


if __name__ == "__main__":
    main()
