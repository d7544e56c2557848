"""Artifacts: signed so that others can check it, and not one byte of one can be changed."""

from __future__ import annotations

import json
import random
import re
from importlib import resources
from pathlib import Path
from types import SimpleNamespace

import jsonschema
import pytest
from referencing import Registry, Resource
from securesystemslib.dsse import Envelope
from securesystemslib.exceptions import VerificationError
from securesystemslib.signer import SSlibKey

import tiny_wheels
from penstock.actions.artifacts import ArtifactActions
from penstock.actions.releases import ReleaseActions
from penstock.actions.signing import SigningActions
from penstock.domain.access import SYSTEM
from penstock.domain.errors import Conflict, Damaged, PenstockError
from penstock.drivers.builders.local import LocalBuilder
from penstock.drivers.signing.files import FileKeys
from penstock.kit.archives import pack
from penstock.kit.layouts import Layout, LayoutError, from_folder, to_folder
from penstock.rules import artifacts
from penstock.runtime import artifacts as loading
from penstock.store import Store, attestations

CORRUPTIONS = 200
LONG = "a/" * 60 + "deep.py"  # longer than a plain tar header holds


class Place:
    """An installation: store, builder, keys."""

    def __init__(self, home: Path) -> None:
        self.home = home
        self.store = Store(home=home)
        self.builder = LocalBuilder(home)
        self.signing = SigningActions(self.store, FileKeys(home / "key.pem"))
        self.releases = ReleaseActions(self.store, self.builder, self.signing)
        self.artifacts = ArtifactActions(self.store, self.builder, self.signing)

    async def export(self, file: Path, ref="latest"):
        made = await self.artifacts.export(SYSTEM, "tiny", ref)
        with file.open("wb") as out:
            async for chunk in made.chunks:
                out.write(chunk)
        assert file.stat().st_size == made.size
        return made

    async def envelopes(self, digest):
        return await self.store.read(lambda tx: attestations.of_release(tx, digest))


@pytest.fixture
async def places(tmp_path, monkeypatch):
    for name, value in tiny_wheels.index(tmp_path / "index").items():
        monkeypatch.setenv(name, value)
    tiny_wheels.make(tmp_path / "index", "1.0")
    found = SimpleNamespace(here=Place(tmp_path / "here"), there=Place(tmp_path / "there"))
    for place in (found.here, found.there):
        place.home.mkdir()
        await place.store.open()
    project = tmp_path / "project"
    files = {
        "penstock.yaml": "agent: tiny\nentrypoint: app:agent\ntools: [things]\n"
        "models: {main: [openai/gpt-4o-2024-08-06, simulated/small]}\n",
        "app.py": "import penstock_tiny\ndef agent(x):\n    return penstock_tiny.__version__\n",
        "things.py": "from penstock import tool\n@tool()\ndef act(a: int) -> int:\n    return a\n",
        "requirements.txt": "penstock_tiny\n",
        "prompts/system.prompt": "Be kind.\n",
        LONG: "x = 1\n",
    }
    for path, text in files.items():
        (project / path).parent.mkdir(parents=True, exist_ok=True)
        (project / path).write_text(text)
    cut = await found.here.releases.cut(SYSTEM, pack(project), message="first")
    found.release = cut.cuts[0].release
    found.file = tmp_path / "tiny.tar"
    found.made = await found.here.export(found.file)
    yield found
    for place in (found.here, found.there):
        await place.store.close()


async def test_it_arrives_whole_with_labels_wheels_and_history(places):
    there = places.there
    done = await there.artifacts.import_file(SYSTEM, places.file, trust=[places.made.key_id[:16]])
    assert done.release.digest == places.release.digest
    assert done.release.composite == places.release.composite
    assert (done.release.message, done.wheels, done.created) == ("first", 1, True)
    loaded = await loading.load(there.store, done.release.digest)
    assert loaded.manifest == places.release.manifest
    again = await there.artifacts.import_file(SYSTEM, places.file)
    assert again.created is False


async def test_200_random_corruptions_are_200_named_refusals(places, tmp_path):
    """Any byte of the file, whatever it becomes: refused, and the message names the blob it is in."""
    whole = places.file.read_bytes()
    draw = random.Random(20260101)
    blobs = Layout(places.file, most_bytes=1 << 30)._blobs
    frame = re.compile(r"index\.json|oci-layout|header behind|something behind|where it should")
    for number in range(CORRUPTIONS):
        position = draw.randrange(len(whole))
        other = draw.choice([byte for byte in range(256) if byte != whole[position]])
        file = tmp_path / "damaged.tar"
        file.write_bytes(whole[:position] + bytes([other]) + whole[position + 1 :])
        with pytest.raises(PenstockError) as refused:
            await places.there.artifacts.import_file(SYSTEM, file, trust=[places.made.key_id])
        said = refused.value.message
        inside = [
            digest for digest, (start, size) in blobs.items() if start <= position < start + size
        ]
        assert all(digest in said for digest in inside), (number, position, said)
        assert inside or frame.search(said), (number, position, said)


async def test_a_blob_exchanged_with_its_digest_is_refused(places, tmp_path):
    """Whoever can compute digests, but not sign, changes nothing: the layout is consistent, though."""
    layout = Layout(places.file, most_bytes=1 << 30)
    digests = artifacts.index_digests(layout.plain["index.json"])
    documents = [artifacts.read_manifest(layout.read(digest)) for digest in digests]
    main = documents[0]
    blobs = {digest: layout.read(digest) for digest in layout.digests}
    prompt = next(one for one in main.layers if one.annotations[artifacts.TITLE] == "prompt.tar")
    changed = blobs.pop(prompt.digest).replace(b"Be kind.", b"Be mean.")
    forged = artifacts.describe(changed, prompt.media_type, **prompt.annotations)
    layers = [forged if one is prompt else one for one in main.layers]
    content = artifacts.artifact(main.config, layers, **main.annotations)
    blobs.pop(main.digest)
    new = artifacts.read_manifest(content)
    blobs |= {forged.digest: changed, new.digest: content}
    subject = artifacts.describe(content, artifacts.MANIFEST)
    others = []
    for other in documents[1:]:
        blobs.pop(other.digest)
        written = artifacts.referrer(
            subject, other.artifact_type, other.layers[0], **other.annotations
        )
        others.append(artifacts.read_manifest(written))
        blobs[others[-1].digest] = written
    folder = tmp_path / "forged"
    (folder / "blobs" / "sha256").mkdir(parents=True)
    for digest, blob in blobs.items():
        (folder / "blobs" / "sha256" / digest).write_bytes(blob)
    (folder / "oci-layout").write_bytes(artifacts.LAYOUT)
    (folder / "index.json").write_bytes(artifacts.index("v1", [new, *others]))
    file = tmp_path / "forged.tar"
    file.write_bytes(b"".join(from_folder(folder)))
    with pytest.raises(Damaged, match=r"prompts/system\.prompt"):
        await places.there.artifacts.import_file(SYSTEM, file, trust=[places.made.key_id])


async def test_nobody_is_believed_who_was_not_named(places):
    with pytest.raises(Damaged, match="not trusted here"):
        await places.there.artifacts.import_file(SYSTEM, places.file)


async def test_an_independent_library_verifies_the_envelope(places):
    """Securesystemslib reads our DSSE envelope and our key, and refuses one changed letter."""
    (envelope,) = [
        item for item in await places.here.envelopes(places.release.digest) if item.kind != "sbom"
    ]
    signer = await places.here.signing.signer()
    key = SSlibKey.from_crypto(_public(signer.public_pem), signer.key_id)
    found = Envelope.from_dict(json.loads(envelope.content))
    assert found.verify([key], threshold=1)
    statement = json.loads(found.payload)
    assert statement["_type"] == "https://in-toto.io/Statement/v1"
    assert statement["predicateType"] == "https://slsa.dev/provenance/v1"
    subjects = {item["digest"]["sha256"] for item in statement["subject"]}
    assert subjects == {places.release.digest, *places.release.manifest.components.values()}
    found.payload = found.payload.replace(b"tiny", b"tinx", 1)
    with pytest.raises(VerificationError):
        found.verify([key], threshold=1)


async def test_the_sbom_is_valid_cyclonedx(places):
    """jsonschema, with the schema that CycloneDX publishes."""
    (sbom,) = [
        item for item in await places.here.envelopes(places.release.digest) if item.kind == "sbom"
    ]
    folder = resources.files("cyclonedx.schema").joinpath("_res")
    schemas = {
        name: json.loads(folder.joinpath(f"{name}.SNAPSHOT.schema.json").read_text())
        for name in ("bom-1.6", "spdx", "jsf-0.82")
    }
    registry = Registry().with_resources(
        (schema["$id"], Resource.from_contents(schema)) for schema in schemas.values()
    )
    document = json.loads(sbom.content)
    jsonschema.Draft7Validator(
        schemas["bom-1.6"], registry=registry, format_checker=jsonschema.FormatChecker()
    ).validate(document)
    names = {(item["type"], item["name"]) for item in document["components"]}
    assert ("library", "penstock-tiny") in names
    assert ("machine-learning-model", "gpt-4o-2024-08-06") in names
    assert ("file", "prompts/system.prompt") in names


async def test_a_rotated_key_stays_good_and_a_revoked_one_does_not(places):
    here, digest = places.here, places.release.digest
    old = await here.signing.signer()
    new = await here.signing.rotate(SYSTEM)
    assert new.id != old.key_id
    await loading.load(here.store, digest)
    with pytest.raises(Conflict):
        await here.signing.revoke(SYSTEM, new.id)
    await here.signing.revoke(SYSTEM, old.key_id)
    with pytest.raises(Damaged, match="revoked"):
        await loading.load(here.store, digest)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ("update releases set manifest = replace(manifest, 'app:agent', 'app:agenz')", "manifest"),
        (("update attestations set content = cast(replace(cast(content as text), '\"sig\":\"',"
         " '\"sig\":\"A') as blob) where kind = 'provenance'"), "provenance"),
        (("update attestations set content = cast(replace(cast(content as text), 'tiny', 'tinx')"
         " as blob) where kind = 'sbom'"), "bill of materials"),
        ("delete from attestations", "nobody vouches"),
    ],
)  # fmt: skip
async def test_a_stored_release_is_proven_before_it_is_loaded(places, change, named):
    import sqlite3  # noqa: PLC0415 - behind Penstock's back

    with sqlite3.connect(places.here.home / "penstock.sqlite") as data:
        assert data.execute(change).rowcount
    with pytest.raises(Damaged, match=named):
        await loading.load(places.here.store, places.release.digest)


async def test_a_tree_that_was_changed_on_disk_is_not_loaded(places):
    """A changed file, a missing one, a planted one: each is replaced by what the release pins."""
    here = places.here

    async def fetch(digest):
        from penstock.store import blobs  # noqa: PLC0415 - one use

        return await here.store.read(lambda tx: blobs.get(tx, digest))

    project = Path((await here.builder.prepare(places.release, fetch)).project)
    (project / "app.py").chmod(0o644)
    (project / "app.py").write_text("import os; os.abort()\n")
    (project / LONG).unlink()
    (project / "sitecustomize.py").write_text("import os; os.abort()\n")
    (project / "__pycache__").mkdir()
    (project / "__pycache__" / "app.cpython-311.pyc").write_bytes(b"planted")
    launch = await here.builder.prepare(places.release, fetch)
    assert "penstock_tiny" in (Path(launch.project) / "app.py").read_text()
    assert (Path(launch.project) / LONG).read_text() == "x = 1\n"
    left = {path.name for path in Path(launch.project).rglob("*") if path.is_file()}
    assert not left & {"sitecustomize.py", "app.cpython-311.pyc"}


def test_a_layout_unpacks_and_packs_to_the_same_bytes(tmp_path):
    from penstock.kit.layouts import write  # noqa: PLC0415 - one use

    blob = b"content"
    digest = artifacts.digest_bytes(blob)
    members = [("oci-layout", b"{}"), ("index.json", b"{}"), (f"blobs/sha256/{digest}", blob)]
    file = tmp_path / "one.tar"
    file.write_bytes(b"".join(write(members)))
    to_folder(Layout(file, most_bytes=1 << 20), tmp_path / "folder")
    assert b"".join(from_folder(tmp_path / "folder")) == file.read_bytes()


@pytest.mark.parametrize("name", ["../evil", "/etc/passwd", "blobs/sha256/short", "other"])
def test_a_layout_holds_nothing_that_leads_elsewhere(tmp_path, name):
    from penstock.kit.layouts import write  # noqa: PLC0415 - one use

    file = tmp_path / "bad.tar"
    file.write_bytes(b"".join(write([("oci-layout", b"{}"), ("index.json", b"{}"), (name, b"x")])))
    with pytest.raises(LayoutError):
        Layout(file, most_bytes=1 << 20)


def _public(pem):
    from cryptography.hazmat.primitives.serialization import (  # noqa: PLC0415 - one use
        load_pem_public_key,
    )

    return load_pem_public_key(pem.encode())
