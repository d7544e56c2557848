"""A release's identity: one changed byte changes exactly the component that the byte belongs to."""

from __future__ import annotations

import hashlib
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.components import ComponentKind
from penstock.domain.releases import FileEntry, Limits, ModelPin, Policy, Tool, ToolSource
from penstock.rules.releases import (
    Parts,
    canonical,
    contents,
    digest_json,
    manifest,
    parts_of,
    release_digest,
    with_contents,
)

NAMES = st.from_regex(r"[a-z]{1,6}", fullmatch=True)
BYTES = st.binary(min_size=1, max_size=40)


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


def files(folder: str):
    made = st.dictionaries(NAMES, BYTES, min_size=1, max_size=3)
    return made.map(
        lambda found: tuple(
            FileEntry(path=f"{folder}/{name}", digest=digest(content))
            for name, content in sorted(found.items())
        )
    )


PINS = st.builds(
    ModelPin,
    provider=NAMES,
    model=NAMES,
    parameters=st.dictionaries(NAMES, st.integers(0, 9) | st.text(max_size=5), max_size=2),
)
PARTS = st.builds(
    Parts,
    agent=NAMES,
    entrypoint=NAMES.map(lambda name: f"{name}:agent"),
    python=st.sampled_from(["3.11", "3.12"]),
    code=files("code"),
    prompts=files("prompts"),
    tool_files=files("tools"),
    tools=st.lists(
        st.builds(
            Tool,
            name=NAMES,
            description=st.text(max_size=9),
            schema=st.dictionaries(NAMES, NAMES, max_size=2),
            module=NAMES,
        ),
        min_size=1,
        max_size=2,
    ).map(tuple),
    models=st.dictionaries(NAMES, st.lists(PINS, min_size=1, max_size=2).map(tuple), min_size=1),
    lock=BYTES.map(lambda content: FileEntry(path="penstock.lock", digest=digest(content))),
    graph=st.just({}),
    state_schema=BYTES.map(digest),
    policy=st.builds(
        Policy, limits=st.builds(Limits, cost_nanos=st.integers(1, 9)), env=st.just({"A": "1"})
    ),
    sources=st.lists(
        st.builds(ToolSource, name=NAMES, kind=st.just("mcp"), location=NAMES, version=NAMES),
        max_size=1,
    ).map(tuple),
    tools_default=st.dictionaries(st.just("retry"), st.sampled_from(["safe", "keyed"]), max_size=1),
)


def flipped(text: str) -> str:
    return ("0" if text[:1] != "0" else "1") + text[1:]


def one_file(entries):
    return (replace(entries[0], digest=flipped(entries[0].digest)), *entries[1:])


def one_model(parts: Parts):
    alias = min(parts.models)
    first, *others = parts.models[alias]
    changed = replace(first, parameters={**first.parameters, "temperature": 0.123})
    return {**parts.models, alias: (changed, *others)}


def one_tool(parts: Parts):
    first, *others = parts.tools
    return (replace(first, schema={**first.schema, "changed!": "x"}), *others)


CHANGES = {
    "a prompt": (ComponentKind.PROMPT, lambda p: replace(p, prompts=one_file(p.prompts))),
    "a tool's file": (ComponentKind.TOOLS, lambda p: replace(p, tool_files=one_file(p.tool_files))),
    "a tool's schema": (ComponentKind.TOOLS, lambda p: replace(p, tools=one_tool(p))),
    "a model parameter": (ComponentKind.MODEL, lambda p: replace(p, models=one_model(p))),
    "a limit": (
        ComponentKind.POLICY,
        lambda p: replace(p, policy=replace(p.policy, limits=Limits(cost_nanos=99))),
    ),
    "the lock": (
        ComponentKind.CODE,
        lambda p: replace(p, lock=replace(p.lock, digest=flipped(p.lock.digest))),
    ),
    "a file of the code": (ComponentKind.CODE, lambda p: replace(p, code=one_file(p.code))),
    "the state's schema": (
        ComponentKind.CODE,
        lambda p: replace(p, state_schema=flipped(p.state_schema)),
    ),
    "an executable bit": (
        ComponentKind.CODE,
        lambda p: replace(p, code=(replace(p.code[0], executable=True), *p.code[1:])),
    ),
}


@given(parts=PARTS, what=st.sampled_from(sorted(CHANGES)))
def test_one_change_changes_exactly_one_component(parts, what):
    kind, change = CHANGES[what]
    before, after = manifest(parts), manifest(change(parts))
    changed = {one for one in ComponentKind if before.components[one] != after.components[one]}
    assert changed == {kind}
    assert release_digest(before) != release_digest(after)


@given(parts=PARTS)
def test_the_components_are_the_whole_release(parts):
    """Every component taken out and put back from its content gives the same release."""
    pinned = manifest(parts)
    found = contents(parts_of(pinned))
    blank = replace(
        parts, code=(), prompts=(), tool_files=(), tools=(), models={}, graph={"x": 1},
        state_schema="", policy=Policy(), sources=(), entrypoint="x:y", python="0",
    )  # fmt: skip
    assert release_digest(manifest(with_contents(blank, found))) == release_digest(pinned)
    assert {kind: digest_json(value) for kind, value in found.items()} == pinned.components


@given(parts=PARTS, other=PARTS, kind=st.sampled_from(ComponentKind))
def test_one_component_can_be_exchanged_for_another_releases(parts, other, kind):
    """What a rollback of one component does: that digest is the other's, the rest stays."""
    mixed = manifest(with_contents(parts, {kind: contents(other)[kind]}))
    for one in ComponentKind:
        source = manifest(other if one is kind else parts)
        assert mixed.components[one] == source.components[one]


@given(PARTS)
def test_a_setting_that_a_project_does_not_use_is_not_in_its_digest(parts):
    plain = manifest(replace(parts, tools_default={}))
    assert b"tools_default" not in canonical(plain)
    said = manifest(replace(parts, tools_default={"retry": "safe"}))
    changed = {kind for kind in ComponentKind if plain.components[kind] != said.components[kind]}
    assert changed == {ComponentKind.TOOLS}
    assert release_digest(plain) != release_digest(said)
