"""A project's digest: the same on any machine, and one byte changes exactly its component."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from penstock.domain.components import ComponentKind
from penstock.domain.errors import BuildFailed
from penstock.domain.releases import Release
from penstock.drivers.builders.local import LocalBuilder
from penstock.kit.archives import pack
from penstock.rules.releases import release_digest

FILES = {
    "penstock.yaml": (
        "agent: tiny\nentrypoint: app:agent\ntools: [things]\n"
        "models: {main: [simulated/small]}\nlimits: {time: 10s}\n"
    ),
    "app.py": "from penstock import prompt\ndef agent(x):\n    return prompt('system')\n",
    "things.py": (
        "from penstock import tool\n@tool(effect='read', retry='safe')\n"
        "def look(order: str, deep: bool = False) -> dict:\n    '''Look it up.'''\n    return {}\n"
    ),
    "prompts/system.prompt": "---\nversion: 1\n---\nBe kind.\n",
}
CHANGES = {
    ComponentKind.CODE: ("app.py", "return prompt", "return  prompt"),
    ComponentKind.TOOLS: ("things.py", "Look it up", "Look this up"),
    ComponentKind.PROMPT: ("prompts/system.prompt", "Be kind", "Be brief"),
    ComponentKind.MODEL: ("penstock.yaml", "simulated/small", "simulated/large"),
    ComponentKind.POLICY: ("penstock.yaml", "10s", "11s"),
}


def project(folder: Path, **changed) -> Path:
    for path, text in {**FILES, **changed}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text)
    return folder


@pytest.fixture
def builder(tmp_path):
    return LocalBuilder(tmp_path / "home")


async def test_an_unchanged_project_has_the_same_digest_elsewhere(builder, tmp_path):
    (one,) = await builder.build(pack(project(tmp_path / "one")))
    other = LocalBuilder(tmp_path / "other machine")
    (two,) = await other.build(pack(project(tmp_path / "a" / "different" / "path")))
    assert release_digest(one.manifest) == release_digest(two.manifest)
    (tool,) = one.manifest.tools
    assert (tool.name, tool.effect, tool.retry) == ("look", "read", "safe")
    assert tool.schema["properties"]["order"] == {"type": "string"}
    assert tool.schema["required"] == ["order"]


@pytest.mark.parametrize("kind", CHANGES)
async def test_one_change_changes_exactly_its_component(builder, tmp_path, kind):
    (built,) = await builder.build(pack(project(tmp_path / "one")))
    before = built.manifest.components
    path, old, new = CHANGES[kind]
    changed = project(tmp_path / "two", **{path: FILES[path].replace(old, new)})
    (built,) = await builder.build(pack(changed))
    after = built.manifest.components
    assert {name for name in before if before[name] != after[name]} == {kind}


async def test_one_flipped_byte_is_refused_by_name(builder, tmp_path):
    (built,) = await builder.build(pack(project(tmp_path / "one")))
    release = Release(
        digest=release_digest(built.manifest), agent="tiny", number=1, composite="", message="",
        manifest=built.manifest, created_by="", created_us=0,
    )  # fmt: skip

    async def damaged(digest):
        content = built.blobs[digest]
        return content.replace(b"Be kind", b"Be unkind")

    with pytest.raises(BuildFailed, match=r"prompts/system\.prompt"):
        await builder.prepare(release, damaged)

    async def whole(digest):
        return built.blobs[digest]

    launch = await builder.prepare(release, whole)
    assert Path(launch.prompts["system"]).read_text().endswith("Be kind.\n")
    assert (await builder.prepare(release, whole)) == launch
    shutil.rmtree(launch.project)
