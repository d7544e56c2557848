"""Limits: which is in force, whose it is, and that naming new ones changes no digest."""

from __future__ import annotations

import json
import re
from dataclasses import fields, replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from penstock.domain.errors import Invalid
from penstock.domain.releases import FileEntry, Limits, Manifest, Policy
from penstock.domain.tasks import Ending, ResourceClass
from penstock.rules import compositions
from penstock.rules.limits import (
    FIELDS,
    Broken,
    Terms,
    capped,
    ending_of,
    error_of,
    has_larger,
    in_class,
    read_caps,
)
from penstock.rules.projects import parse
from penstock.rules.releases import canonical, digest_json, release_digest, verified
from penstock.settings import Settings

LEAST = "agent: support\nentrypoint: support.graph:graph\n"

# Of a release that was cut before there were limits of tokens, steps, processes and files.
OLD_RELEASE = "53264bc21e4362e32342554a7e32eb8b008ece98f617ce08e04ea3b9528de6ef"
OLD_POLICY = "5bff7fa512f9c0fb6c316c35368c7c380feaff4dfdf4ae22b091b82ef8dbf371"


def a_manifest(**limits):
    lock = FileEntry(path="penstock.lock", digest="0" * 64)
    return Manifest(
        agent="support", entrypoint="a:b", python="3.11", code=(), prompts=(), tool_files=(),
        tools=(), models={}, lock=lock, graph={}, state_schema="",
        policy=Policy(limits=Limits(**limits)), components={},
    )  # fmt: skip


class TestDigests:
    def test_a_project_that_says_what_it_said_has_the_digest_it_had(self):
        manifest = a_manifest(cost_nanos=7)
        assert release_digest(manifest) == OLD_RELEASE
        assert digest_json(manifest.policy) == OLD_POLICY

    @pytest.mark.parametrize(
        "more", [{"tokens": 9}, {"steps": 9}, {"processes": 9}, {"open_files": 9}]
    )
    def test_a_limit_that_is_set_is_pinned_and_read_again(self, more):
        manifest = a_manifest(cost_nanos=7, **more)
        digest = release_digest(manifest)
        assert digest != OLD_RELEASE
        assert verified(canonical(manifest), digest).policy.limits == manifest.policy.limits

    def test_every_limit_has_a_name_and_every_name_a_field(self):
        assert set(FIELDS.values()) == {field.name for field in fields(Limits)}


class TestOverlays:
    def test_an_environment_changes_one_limit_and_no_other(self):
        (setting,) = compositions.settings_of({"policy.limits.tokens": "50k"})
        policy = Policy(limits=Limits(steps=7))
        found = compositions._with_policy(_parts(policy), setting).policy.limits
        assert found == Limits(steps=7, tokens=50_000)


def _parts(policy):
    from penstock.rules.releases import parts_of  # noqa: PLC0415 - one test's helper

    return replace(parts_of(a_manifest()), policy=policy)


class TestCaps:
    def test_they_are_read_from_the_environment(self):
        env = {"PENSTOCK_LIMITS": '{"memory": "2GiB", "tokens": "1M", "time": "10m"}'}
        assert Settings.from_environment(env).caps == {
            "memory_bytes": 2 << 30,
            "tokens": 1_000_000,
            "time_seconds": 600.0,
        }

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("[]", "JSON object"),
            ("{", "Expecting"),
            ('{"memry": "1GiB"}', "unknown key limits.memry"),
            ('{"time": "soon"}', "'soon' is not a duration"),
        ],
    )
    def test_what_cannot_be_used_is_refused_by_name(self, text, words):
        with pytest.raises(Invalid, match=f"PENSTOCK_LIMITS.*{words}"):
            Settings.from_environment({"PENSTOCK_LIMITS": text})

    @given(
        own=st.builds(
            Limits,
            cost_nanos=st.none() | st.integers(1, 9),
            tokens=st.none() | st.integers(1, 9),
            processes=st.integers(1, 9),
        ),
        caps=st.fixed_dictionaries(
            {},
            optional={
                name: st.integers(1, 9)
                for name in ("cost_nanos", "tokens", "processes", "time_seconds", "steps")
            },
        ),
    )
    def test_of_two_limits_the_lower_one_is_in_force(self, own, caps):
        found = capped(own, caps)
        for field in fields(Limits):
            given = [
                value
                for value in (getattr(own, field.name), caps.get(field.name))
                if value is not None
            ]
            assert getattr(found, field.name) == (min(given) if given else None)

    def test_a_cap_on_memory_holds_in_the_large_class_too(self):
        own = Limits(memory_bytes=100, memory_large_bytes=900)
        assert in_class(capped(own, {"memory_bytes": 500}), ResourceClass.LARGE).memory_bytes == 500
        both = {"memory_bytes": 500, "memory_large_bytes": 700}
        assert in_class(capped(own, both), ResourceClass.LARGE).memory_bytes == 700

    def test_there_is_no_larger_class_where_the_cap_leaves_none(self):
        own = Limits(memory_bytes=100, memory_large_bytes=900)
        assert has_larger(own, ResourceClass.STANDARD)
        assert not has_larger(own, ResourceClass.LARGE)
        assert not has_larger(capped(own, {"memory_bytes": 100}), ResourceClass.STANDARD)
        assert not has_larger(Limits(), ResourceClass.STANDARD)


class TestWhoBrokeWhat:
    def said(self, limit, used, *, caps=None, overlay=None, **own):
        terms = Terms.of(Limits(**own), caps or {}, ResourceClass.STANDARD)
        return error_of(terms.broken(limit, used), terms, overlay=overlay or {})

    def test_the_error_names_limit_value_use_and_scope(self):
        error = self.said("memory", 300 << 20, memory_bytes=256 << 20)
        assert error == {
            "type": "MemoryLimit",
            "message": "used 256 MiB of memory, its limit",
            "traceback": "",
            "limit": "memory",
            "limit_value": 256 << 20,
            "used": 300 << 20,
            "unit": "bytes",
            "scope": "task",
        }
        assert json.loads(json.dumps(error)) == error

    def test_the_scope_is_whose_value_was_in_force(self):
        assert self.said("steps", 5, steps=5)["scope"] == "task"
        assert self.said("steps", 5, steps=9, caps={"steps": 5})["scope"] == "installation"
        assert self.said("steps", 5, steps=5, caps={"steps": 9})["scope"] == "task"
        overlay = {"policy.limits.steps": "5"}
        assert self.said("steps", 5, steps=5, overlay=overlay)["scope"] == "environment"
        overlay = {"policy.limits.cost": "$0.50"}
        assert self.said("cost", 1, cost_nanos=500_000_000, overlay=overlay)["scope"] == (
            "environment"
        )
        overlay = {"policy.limits.steps": "6"}  # changed since the release was derived
        assert self.said("steps", 5, steps=5, overlay=overlay)["scope"] == "task"

    def test_large_amounts_are_written_out(self):
        assert (
            "used 1234567 tokens; the next call could pass 2000000"
            in (self.said("tokens", 1_234_567, tokens=2_000_000)["message"])
        )

    def test_the_agents_own_error_is_kept_with_it(self):
        terms = Terms.of(Limits(cost_nanos=5), {}, ResourceClass.STANDARD)
        cause = {"type": "APIStatusError", "message": "402", "traceback": "line 7"}
        error = error_of(terms.broken("cost", 4), terms, overlay={}, cause=cause)
        assert (error["type"], error["traceback"]) == ("APIStatusError", "line 7")
        assert error["limit"] == "cost"

    def test_every_limit_of_an_attempt_has_an_ending_of_its_own(self):
        names = set(FIELDS) - {"attempts", "memory_large", "wait"}
        endings = {ending_of(Broken(limit=name, value=1, used=1)) for name in names}
        assert len(endings) == len(names)
        assert endings <= set(Ending)


class TestShared:
    def test_a_project_is_told_what_a_shared_process_cannot_hold(self):
        text = LEAST + "isolation: shared\nlimits:\n  time: 5s\n  memory: 1GiB\n  processes: 4\n"
        memory, processes = parse(text).warnings
        assert memory.startswith("penstock.yaml:6: limits.memory does not hold with isolation")
        assert processes.startswith("penstock.yaml:7: limits.processes")
        assert parse(LEAST + "isolation: shared\n").warnings == ()
        assert parse(LEAST + "limits: {memory: 1GiB}\n").warnings == ()


def test_caps_of_nothing_are_none():
    assert read_caps("{}") == {}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('{"memory": "-2GiB"}', "limits.memory: '-2GiB' is not a size"),
        ('{"bogus": 1}', "unknown key limits.bogus"),
    ],
)
def test_a_cap_that_cannot_be_is_named_without_a_file_it_does_not_stand_in(text, said):
    with pytest.raises(ValueError, match="^" + re.escape(said)):
        read_caps(text)
