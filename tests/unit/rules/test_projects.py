"""What penstock.yaml says, and how a mistake in it is reported."""

from __future__ import annotations

import pytest

from penstock.domain.errors import ProjectInvalid
from penstock.domain.releases import Isolation
from penstock.domain.rollouts import plan_from_json
from penstock.rules.projects import parse
from penstock.rules.releases import plain

LEAST = "agent: support\nentrypoint: support.graph:graph\n"


def test_two_lines_are_a_project():
    project = parse(LEAST)
    assert (project.agent, project.entrypoint) == ("support", "support.graph:graph")
    assert project.policy.isolation is Isolation.PROCESS
    assert project.policy.limits.time_seconds == 300


def test_quantities_are_read_as_people_write_them():
    project = parse(
        LEAST
        + """
limits:
  {time: 1.5h, cpu: 90s, memory: 512MiB, cost: $0.50, attempts: 5, output: 1MB, memory_large: 2GiB,
   tokens: 200k, steps: 60, processes: 8, files: 64}
models:
  main: [openai/gpt-4o-2024-08-06, {model: local/qwen, timeout: 5s, price: {input: $2.5, output: $10}}]
rollout: {steps: [10%, {weight: 25%, sessions: 50}, 100%], approve: [100%], horizon: 10m, risk: 5%}
env: {DEBUG: true, RETRIES: 3}
"""
    )
    limits = project.policy.limits
    assert (limits.time_seconds, limits.cpu_seconds) == (5400, 90)
    assert (limits.memory_bytes, limits.cost_nanos) == (512 << 20, 500_000_000)
    assert (limits.attempts, limits.output_bytes) == (5, 1_000_000)
    assert (limits.memory_large_bytes, limits.tokens, limits.steps) == (2 << 30, 200_000, 60)
    assert (limits.processes, limits.open_files) == (8, 64)
    first, second = project.models["main"]
    assert (first.provider, first.model) == ("openai", "gpt-4o-2024-08-06")
    assert (second.timeout_seconds, second.price.output_nanos) == (5, 10_000)
    plan = plan_from_json(project.policy.rollout)
    assert [step.weight for step in plan.steps] == [0.1, 0.25, 1.0]
    assert [step.approval for step in plan.steps] == [False, False, True]
    assert plan.horizon_seconds == 600
    assert project.policy.env == {"DEBUG": "true", "RETRIES": "3"}


MISTAKES = {
    "agent: X\nentrypoint: a:b\n": (1, "'X' is no name of an agent"),
    "entrypoint: a:b\n": (1, "agent is missing"),
    LEAST + "limit: {}\n": (3, "unknown key limit"),
    LEAST + "limits:\n  memry: 1GiB\n": (4, "unknown key limits.memry"),
    LEAST + "limits:\n  time: soon\n": (4, "'soon' is not a duration"),
    LEAST + "limits: {time: 0s}\n": (3, "not more than nothing"),
    LEAST + "limits: {attempts: yes}\n": (3, "no number from 1 to 100"),
    LEAST + "limits: {tokens: 1.5}\n": (3, "no whole number"),
    LEAST + "limits:\n  memory: 2GiB\n  memory_large: 1GiB\n": (5, "not more than limits.memory"),
    LEAST + "models: {main: gpt-4o}\n": (3, "provider/model"),
    LEAST + "models: {main: []}\n": (3, "has no model"),
    LEAST + "rollout: {steps: [50%, 10%]}\n": (3, "do not rise"),
    LEAST + "rollout: {steps: [shadow]}\n": (3, "no step of this version"),
    LEAST + "evaluate: {completion: support.evals}\n": (3, "is not module:name"),
    LEAST + "prompts: ../elsewhere\n": (3, "leads out of the project"),
    LEAST + "env: {OPENAI_API_KEY: sk-1}\n": (3, "is set by Penstock"),
    LEAST + "agent: other\n": (3, "stands there twice"),
    LEAST + "tools: [x\n": (4, "not valid YAML"),
    LEAST + "env: *all\n": (None, "alias"),
    "- a\n- b\n": (1, "mapping"),
}


@pytest.mark.parametrize("text", MISTAKES)
def test_a_mistake_is_reported_with_its_line(text):
    line, message = MISTAKES[text]
    with pytest.raises(ProjectInvalid) as raised:
        parse(text)
    assert message in raised.value.message
    assert raised.value.line == line
    assert raised.value.file == "penstock.yaml"


def test_every_mistake_is_reported_at_once():
    with pytest.raises(ProjectInvalid) as raised:
        parse("agnt: x\nentrypoint: ab\nlimits: {time: x}\n")
    for where in ("penstock.yaml:1:", "penstock.yaml:2:", "penstock.yaml:3:"):
        assert where in raised.value.message
    assert "agent" in str(raised.value.hint)


def test_an_undated_model_is_warned_about():
    (warning,) = parse(LEAST + "models: {main: [openai/gpt-4o, simulated/small]}\n").warnings
    assert warning.startswith("penstock.yaml:3: openai/gpt-4o is not dated")


def test_sessions_live_for_as_long_as_the_project_says():
    assert parse(LEAST).policy.session_ttl_seconds is None
    assert parse(LEAST + "sessions: {ttl: 30d}\n").policy.session_ttl_seconds == 30 * 86_400
    assert "session_ttl_seconds" not in plain(parse(LEAST).policy)  # an old digest stays as it was


def test_a_project_says_in_one_line_how_undeclared_tools_are_taken():
    assert parse(LEAST).tools_default == {}
    assert parse(LEAST + "tools_default: {retry: safe}\n").tools_default == {"retry": "safe"}
    said = parse(LEAST + "tools_default: {effect: write, retry: never}\n")
    assert said.tools_default == {}  # what is shipped is no setting
    with pytest.raises(ProjectInvalid, match=r"penstock\.yaml:3: 'maybe' is none of safe"):
        parse(LEAST + "tools_default: {retry: maybe}\n")
    with pytest.raises(ProjectInvalid, match=r"penstock\.yaml:3"):
        parse(LEAST + "tools_default: {retries: safe}\n")
