"""The same project is the same release: whoever builds it, where, when, and with what around."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import penstock
import tiny_wheels
from penstock.drivers.builders.local import LocalBuilder
from penstock.kit.archives import pack
from penstock.rules.releases import release_digest

SCRIPT = Path(__file__).with_name("build_elsewhere.py")
SUPPORT = Path(__file__).resolve().parents[2] / "examples" / "support"
MINOR = f"{sys.version_info.major}.{sys.version_info.minor}"
# Ours, and whichever others of the same minor version the machine has.
PYTHONS = sorted(
    {sys.executable}
    | {
        path
        for path in (f"/usr/bin/python{MINOR}", f"/usr/local/bin/python{MINOR}")
        if Path(path).exists()
    }
)
SURROUNDINGS = [
    {"umask": "022", "LANG": "C", "TZ": "UTC", "PYTHONHASHSEED": "0"},
    {"umask": "077", "LANG": "C.UTF-8", "TZ": "Pacific/Auckland", "PYTHONHASHSEED": "12345"},
    {"umask": "002", "LC_ALL": "POSIX", "TZ": "America/Caracas", "PYTHONHASHSEED": "7"},
]


@pytest.fixture
def index(tmp_path, monkeypatch):
    folder = tmp_path / "index"
    tiny_wheels.make(folder, "1.0")
    for name, value in tiny_wheels.index(folder).items():
        monkeypatch.setenv(name, value)
    return folder


def project(folder: Path) -> Path:
    files = {
        "penstock.yaml": "agent: tiny\nentrypoint: app:agent\ntools: [things]\n",
        "app.py": "import penstock_tiny\ndef agent(x):\n    return penstock_tiny.__version__\n",
        "things.py": (
            "from typing import Literal\nfrom penstock import tool\n@tool()\n"
            "def act(a: int, b: Literal['x', 'y', 'z'] = 'x') -> int:\n    'Do it.'\n    return a\n"
        ),
        "requirements.txt": "penstock_tiny\n",
        "prompts/system.prompt": "Sei freundlich, überall.\n",
    }
    for path, text in files.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return folder


def built_by(python, folder, home, *, umask, **environment):
    source = str(Path(penstock.__file__).parents[1])
    packages = [path for path in sys.path if path.endswith("site-packages")]
    kept = {name: value for name, value in os.environ.items() if name.startswith(("UV_", "PATH"))}
    done = subprocess.run(
        [python, str(SCRIPT), str(folder), str(home), umask, source, *packages],
        env={**kept, **environment, "HOME": str(home)},
        capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    version, digest = done.stdout.split()
    return version, digest


async def test_another_python_path_umask_locale_zone_and_hash_seed_change_nothing(index, tmp_path):
    """Every Python of this minor version on the machine, in three different surroundings each."""
    first = project(tmp_path / "first")
    (built,) = await LocalBuilder(tmp_path / "home").build(pack(first))
    (first / "penstock.lock").write_text(built.lock)
    expected = release_digest(built.manifest)
    versions = set()
    for number, python in enumerate(PYTHONS):
        for turn, around in enumerate(SURROUNDINGS):
            place = shutil.copytree(first, tmp_path / f"{number} {turn}" / "Прое́кт")
            moment = 1_000_000_000 + 10_000_000 * turn
            for path in place.rglob("*"):
                os.utime(path, (moment, moment))
            version, digest = built_by(python, place, tmp_path / f"home {number} {turn}", **around)
            assert digest == expected, (python, around)
            versions.add(version)
    print(f"built by Python {', '.join(sorted(versions))}: {expected[:12]}")


async def test_newer_versions_on_the_index_change_nothing_until_the_lock_does(index, tmp_path):
    folder = project(tmp_path / "project")
    (built,) = await LocalBuilder(tmp_path / "one").build(pack(folder))
    assert "==1.0" in built.lock
    (folder / "penstock.lock").write_text(built.lock)
    tiny_wheels.make(index, "2.0")
    (again,) = await LocalBuilder(tmp_path / "two").build(pack(folder), ci=True)
    assert release_digest(again.manifest) == release_digest(built.manifest)
    (folder / "penstock.lock").unlink()
    (newer,) = await LocalBuilder(tmp_path / "three").build(pack(folder))
    assert "==2.0" in newer.lock
    before, after = built.manifest.components, newer.manifest.components
    assert {kind for kind in before if before[kind] != after[kind]} == {"code"}


async def test_a_lock_holds_no_address_and_its_wheels_make_the_environment_alone(
    index, tmp_path, monkeypatch
):
    folder = project(tmp_path / "project")
    (built,) = await LocalBuilder(tmp_path / "home").build(pack(folder))
    assert "//" not in built.lock
    assert str(index) not in built.lock
    (folder / "penstock.lock").write_text(built.lock)
    shutil.rmtree(tmp_path / "home" / "environments")
    shutil.rmtree(index)
    (again,) = await LocalBuilder(tmp_path / "home").build(pack(folder), ci=True)
    assert release_digest(again.manifest) == release_digest(built.manifest)


async def test_the_example_is_the_same_release_as_in_its_repository(tmp_path):
    """Built here from the committed lock, into an empty and into a used data directory."""
    digests = set()
    for home in ("empty", "empty", "other"):
        (built,) = await LocalBuilder(tmp_path / home).build(pack(SUPPORT), ci=True)
        digests.add(release_digest(built.manifest))
    assert len(digests) == 1
