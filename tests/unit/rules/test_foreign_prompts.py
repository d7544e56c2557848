"""Prompts of other makers: what both formats say stays, what one cannot say is named or refused."""

from __future__ import annotations

import jinja2
import pytest
import yaml

from penstock.domain.errors import ProjectInvalid
from penstock.inside.prompts import split_front_matter
from penstock.rules import prompts
from penstock.rules.foreign_prompts import (
    read_dotprompt,
    read_prompty,
    write_dotprompt,
    write_prompty,
)

DOTPROMPT = """\
---
model: googleai/gemini-2.5-flash
config: {temperature: 0.2, maxOutputTokens: 100}
input:
  schema:
    shop: string, the shop's name
    vip?: boolean
    items(array, what was bought): string
  default: {shop: Tulip}
output: {format: json, schema: {answer: string}}
tools: [find]
---
You work for {{shop}}.{{! not for the model }}
{{#if vip}}Be quick.{{else}}Be kind.{{/if}}
{{#each items}}{{@index}}: {{this}}{{#unless @last}}, {{/unless}}{{/each}}
{{role "user"}}
{{question}}
"""
PROMPTY = """\
---
name: support
description: Helps.
authors: [ada]
model:
  api: chat
  configuration: {type: azure_openai, azure_deployment: gpt-4o-2024-08-06}
  parameters: {temperature: 0.3}
sample: {shop: Tulip, count: 3}
---
system:
You work for {{shop}}.
user:
{{question}}
"""
OURS = """\
---
description: Who.
model: main
parameters: {temperature: 0.5, max_tokens: 9}
input:
  type: object
  properties: {shop: {type: string}, items: {type: array}, vip: {type: boolean}}
---
Of {{ shop }}.{% if vip %} Hurry.{% else %} Relax.{% endif %}
{% for item in items %}{{ loop.index0 }}-{{ item }};{% endfor %}
--- role: user ---
Tell me {{ shop }}.
"""


def front_of(text):
    return yaml.safe_load(split_front_matter(text)[0])


def rendered(text, **variables):
    body = split_front_matter(text)[1]
    return jinja2.Environment(undefined=jinja2.StrictUndefined).from_string(body).render(variables)


def test_dotprompt_is_read():
    made = read_dotprompt(DOTPROMPT, name="support")
    front = front_of(made.text)
    assert front["parameters"] == {"temperature": 0.2, "max_tokens": 100}
    assert front["input"]["required"] == ["shop", "items"]
    assert front["input"]["properties"]["items"]["items"] == {"type": "string"}
    assert front["metadata"]["input"] == {"default": {"shop": "Tulip"}}
    assert "kept under metadata" in made.losses[0]


def test_a_dotprompt_renders_as_it_did():
    text = read_dotprompt(DOTPROMPT, name="s").text
    said = rendered(text, shop="Tulip", vip=True, items=["a", "b"], question="Where?")
    assert "You work for Tulip.\nBe quick.\n0: a, 1: b\n" in said
    assert "--- role: user ---\n\nWhere?" in said


@pytest.mark.parametrize(
    "body",
    ["{{> header}}", "{{media url=photo}}", "{{#custom x}}{{/custom}}", "{{/if}}",
     "{{upper name}}", "{{this}}"],
)  # fmt: skip
def test_what_jinja_cannot_say_is_refused_with_its_line(body):
    with pytest.raises(ProjectInvalid, match=r"s\.prompt:2"):
        read_dotprompt(f"Hello.\n{body}\n", name="s")


def test_a_block_that_stays_open_is_refused():
    with pytest.raises(ProjectInvalid, match="never closed"):
        read_dotprompt("{{#if a}}x", name="s")


@pytest.mark.parametrize(
    "body",
    ["{{ name | upper }}", "{% set a = 1 %}", "{% include 'x' %}", "{{ a + b }}", "{{ f(x) }}",
     "{% macro m() %}{% endmacro %}", "{{ '{{' }}"],
)  # fmt: skip
def test_what_handlebars_cannot_say_is_refused_with_its_line(body):
    with pytest.raises(ProjectInvalid, match=r"s\.prompt:2"):
        write_dotprompt(f"Hello.\n{body}\n", name="s")


def test_text_that_looks_like_jinja_stays_text():
    assert rendered(read_dotprompt("50 {% off {# now\n", name="s").text) == "50 {% off {# now"


@pytest.mark.parametrize(
    ("write", "read"), [(write_dotprompt, read_dotprompt), (write_prompty, read_prompty)]
)
def test_a_round_trip_says_the_same(write, read):
    there = write(OURS, name="s")
    back = read(there.text, name="s").text
    before, after = front_of(OURS), front_of(back)
    for key in ("description", "model", "parameters"):
        assert after[key] == before[key]
    assert after["input"]["properties"] == before["input"]["properties"]
    variables = {"shop": "Tulip", "vip": False, "items": ["x", "y"]}
    assert rendered(back, **variables).split() == rendered(OURS, **variables).split()
    prompts.parse(back, file="s.prompt")


def test_prompty_is_read():
    made = read_prompty(PROMPTY, name="support")
    front = front_of(made.text)
    assert front["model"] == "gpt-4o-2024-08-06"
    assert front["parameters"] == {"temperature": 0.3}
    assert front["input"]["properties"]["count"] == {"type": "integer"}
    assert front["metadata"]["authors"] == ["ada"]
    body = split_front_matter(made.text)[1]
    assert body.startswith("--- role: system ---\nYou work for {{shop}}.\n--- role: user ---\n")


def test_what_another_format_has_no_place_for_is_said():
    said = write_prompty("---\nexamples: [{input: a, output: b}]\n---\nHi.\n", name="s").losses
    assert said == ("examples has no place in Prompty and is left out",)
