"""OpenAPI documents as tools, and how pinned tools differ from those that are found."""

from __future__ import annotations

import copy

import jsonschema
import pytest

from penstock.domain.errors import Invalid
from penstock.domain.tools import DriftKind, Severity, SourceFacts, SourceTool
from penstock.drivers.tools.openapi import read_openapi
from penstock.rules.releases import digest_json
from penstock.rules.tool_drift import compare


def document(paths, *, version="3.1.0", schemas=None, **more):
    return {
        "openapi": version,
        "info": {"title": "Orders", "version": "1.2.0"},
        "paths": paths,
        "components": {"schemas": schemas or {}},
        **more,
    }


def read(paths, *, operations=None, **more):
    return read_openapi(document(paths, **more), source="api.yaml", operations=operations)


def only(paths, **more):
    (tool,) = read(paths, **more).tools
    return tool


def body(schema, *, required=True, kind="application/json", **more):
    return {"required": required, "content": {kind: {"schema": schema}}, **more}


def posting(schema, **more):
    return only({"/orders": {"post": {"operationId": "op", "requestBody": body(schema)}}}, **more)


class TestOperations:
    def test_each_operation_is_a_tool_by_the_name_of_its_operation_id(self):
        facts = read(
            {
                "/orders": {"post": {"operationId": "createOrder"}, "get": {"operationId": "list"}},
                "/orders/{id}": {"delete": {"operationId": "cancel order!"}, "x-note": 1},
            }
        )
        assert (facts.name, facts.version, facts.protocol) == ("Orders", "1.2.0", None)
        assert [tool.name for tool in facts.tools] == ["cancel_order", "createOrder", "list"]

    def test_without_an_operation_id_method_and_path_make_the_name(self):
        facts = read({"/orders/{id}/items": {"get": {}}, "/a": {"put": {"operationId": "注文"}}})
        assert [tool.name for tool in facts.tools] == ["get_orders_id_items", "put_a"]

    def test_a_name_is_never_longer_than_models_allow(self):
        assert len(only({"/a": {"get": {"operationId": "x" * 90}}}).name) == 64

    def test_two_operations_of_one_name_are_refused_by_their_paths(self):
        paths = {"/a": {"get": {"operationId": "a.b"}}, "/b": {"post": {"operationId": "a/b"}}}
        with pytest.raises(Invalid, match=r"POST /b.*GET /a.*the tool a_b"):
            read(paths)
        assert [tool.name for tool in read(paths, operations=["a/b"]).tools] == ["a_b"]

    def test_operations_selects_and_an_unknown_one_names_those_that_exist(self):
        paths = {
            "/a": {"get": {"operationId": "first"}},
            "/b": {"get": {"operationId": "second"}},
            "/c": {"get": {}},
        }
        assert [t.name for t in read(paths, operations=["second", "get_c"]).tools] == [
            "get_c",
            "second",
        ]
        with pytest.raises(Invalid, match="no operation secnd") as raised:
            read(paths, operations=["secnd"])
        assert "Did you mean second?" in raised.value.hint
        assert "It has first, get_c, second." in raised.value.hint

    def test_summary_and_description_are_both_told_once(self):
        def description(**words):
            return only({"/a": {"get": words}}).description

        assert description(summary="Find.", description="Finds all.") == "Find.\n\nFinds all."
        assert description(summary="Find", description="Find all.") == "Find all."
        assert description(summary="Find.") == "Find."
        assert description() == "GET /a"

    @pytest.mark.parametrize(
        ("method", "effect", "retry"),
        [
            ("get", "read", "safe"),
            ("head", "read", "safe"),
            ("options", "read", "safe"),
            ("put", "write", "keyed"),
            ("delete", "write", "keyed"),
            ("post", "write", "never"),
            ("patch", "write", "never"),
        ],
    )
    def test_what_may_be_repeated_follows_from_the_method(self, method, effect, retry):
        tool = only({"/a": {method: {}}})
        assert (tool.effect, tool.retry) == (effect, retry)

    def test_x_penstock_says_otherwise(self):
        def promise(method, said):
            tool = only({"/a": {method: {"x-penstock": said}}})
            return tool.effect, tool.retry

        assert promise("post", {"effect": "read"}) == ("read", "safe")
        assert promise("post", {"retry": "keyed"}) == ("write", "keyed")
        assert promise("get", {"effect": "write"}) == ("write", "never")
        with pytest.raises(Invalid, match="'often' is not known"):
            promise("get", {"retry": "often"})
        with pytest.raises(Invalid, match="repeat"):
            promise("get", {"repeat": "safe"})


class TestArguments:
    def test_parameters_and_the_body_are_one_object(self):
        tool = only(
            {
                "/shops/{shop}/orders": {
                    "parameters": [
                        {"name": "shop", "in": "path", "schema": {"type": "string"}},
                        {"name": "dry", "in": "query", "schema": {"type": "string"}},
                    ],
                    "post": {
                        "parameters": [
                            {
                                "name": "dry",
                                "in": "query",
                                "description": "Only try.",
                                "schema": {"type": "boolean"},
                            },
                            {"name": "X-Trace", "in": "header", "schema": {"type": "string"}},
                            {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
                            {"name": "session", "in": "cookie", "schema": {"type": "string"}},
                        ],
                        "requestBody": body(
                            {
                                "type": "object",
                                "properties": {
                                    "item": {"type": "string"},
                                    "count": {"type": "integer"},
                                },
                                "required": ["item"],
                                "additionalProperties": False,
                            },
                            description="What to order.",
                        ),
                    },
                }
            }
        )
        assert tool.schema == {
            "type": "object",
            "properties": {
                "shop": {"type": "string"},
                "dry": {"type": "boolean", "description": "Only try."},
                "X-Trace": {"type": "string"},
                "item": {"type": "string"},
                "count": {"type": "integer"},
            },
            "required": ["shop", "item"],
            "description": "What to order.",
            "additionalProperties": False,
        }

    @pytest.mark.parametrize(
        "schema",
        [
            {"type": "object", "properties": {"id": {"type": "integer"}}},
            {"type": "array", "items": {"type": "string"}},
            {"oneOf": [{"type": "object", "properties": {"a": {}}}, {"type": "object"}]},
            {"type": "object", "additionalProperties": {"type": "string"}},
            {"type": "object", "properties": {"a": {}}, "minProperties": 1},
        ],
    )
    def test_a_body_that_cannot_be_taken_apart_is_the_argument_body(self, schema):
        tool = only(
            {
                "/a/{id}": {
                    "put": {
                        "parameters": [{"name": "id", "in": "path", "schema": {"type": "string"}}],
                        "requestBody": body(schema),
                    }
                }
            }
        )
        assert tool.schema["properties"] == {"id": {"type": "string"}, "body": schema}
        assert tool.schema["required"] == ["id", "body"]

    def test_an_optional_body_stays_whole_when_some_of_it_may_not_be_left_out(self):
        def arguments(required):
            schema = {"type": "object", "properties": {"a": {}}, **required}
            operation = {"requestBody": body(schema, required=False)}
            return only({"/a": {"post": operation}}).schema

        assert arguments({}) == {"type": "object", "properties": {"a": {}}}
        whole = arguments({"required": ["a"]})
        assert list(whole["properties"]) == ["body"]
        assert "required" not in whole

    def test_a_body_that_is_not_json_is_refused_only_if_it_must_be_sent(self):
        def post(**more):
            return {"/a": {"post": {"requestBody": body({}, kind="multipart/form-data", **more)}}}

        with pytest.raises(Invalid, match=r"multipart/form-data.*only send JSON"):
            read(post(required=True))
        assert only(post(required=False)).schema == {"type": "object", "properties": {}}

    def test_json_is_known_by_any_of_its_media_types(self):
        for kind in ("application/json; charset=utf-8", "application/vnd.api+json"):
            schema = {"type": "object", "properties": {"a": {}}}
            operation = {"requestBody": body(schema, kind=kind)}
            assert list(only({"/a": {"post": operation}}).schema["properties"]) == ["a"]

    def test_two_parameters_of_one_name_are_refused(self):
        parameters = [{"name": "id", "in": place} for place in ("query", "header")]
        with pytest.raises(Invalid, match="two parameters named id"):
            read({"/a": {"get": {"parameters": parameters}}})

    def test_what_only_the_server_sets_is_not_asked_for(self):
        item = {
            "type": "object",
            "properties": {
                "id": {"type": "integer", "readOnly": True},
                "secret": {"type": "string", "writeOnly": True},
                "name": {"type": "string"},
            },
            "required": ["id", "name"],
        }
        answer = {"201": {"content": {"application/json": {"schema": item}}}}
        tool = only({"/a": {"post": {"requestBody": body(item), "responses": answer}}})
        assert list(tool.schema["properties"]) == ["secret", "name"]
        assert tool.schema["required"] == ["name"]
        assert list(tool.output_schema["properties"]) == ["id", "name"]

    def test_the_answer_is_the_json_of_the_first_success(self):
        def json(kind):
            return {"content": {"application/json": {"schema": {"type": kind}}}}

        responses = {
            "default": json("null"),
            "404": json("array"),
            "202": json("object"),
            "201": json("string"),
            "204": {},
        }
        assert only({"/a": {"post": {"responses": responses}}}).output_schema == {"type": "string"}
        assert only({"/a": {"post": {}}}).output_schema is None


class TestReferences:
    def test_references_are_resolved_wherever_they_stand(self):
        tool = only(
            {"/a/{id}": {"$ref": "#/components/pathItems/One"}},
            schemas={"Id": {"type": "string", "title": "Identity"}},
            components={
                "schemas": {"Id": {"type": "string"}, "A~/b": {"type": "number"}},
                "pathItems": {
                    "One": {
                        "put": {
                            "parameters": [{"$ref": "#/components/parameters/Id"}],
                            "requestBody": {"$ref": "#/components/requestBodies/Body"},
                        }
                    }
                },
                "parameters": {
                    "Id": {
                        "name": "id",
                        "in": "path",
                        "schema": {"$ref": "#/components/schemas/Id"},
                    }
                },
                "requestBodies": {
                    "Body": body(
                        {
                            "type": "object",
                            "properties": {
                                "a": {"$ref": "#/components/schemas/A~0~1b"},
                                "$ref": {"type": "string"},
                                "data": {"enum": [{"$ref": "not a reference"}]},
                            },
                        }
                    )
                },
            },
        )
        assert tool.schema["properties"] == {
            "id": {"type": "string"},
            "a": {"type": "number"},
            "$ref": {"type": "string"},
            "data": {"enum": [{"$ref": "not a reference"}]},
        }

    def test_a_schema_that_holds_itself_becomes_a_definition(self):
        node = {
            "type": "object",
            "properties": {
                "next": {"$ref": "#/components/schemas/Node"},
                "owner": {"$ref": "#/components/schemas/Owner"},
                "tag": {"$ref": "#/components/schemas/Tag"},
            },
        }
        owner = {
            "type": "object",
            "properties": {
                "nodes": {"type": "array", "items": {"$ref": "#/components/schemas/Node"}}
            },
        }
        schemas = {"Node": node, "Owner": owner, "Tag": {"type": "string"}}
        wanted = {"type": "object", "properties": {"root": {"$ref": "#/components/schemas/Node"}}}
        schema = posting(wanted, schemas=schemas).schema
        assert schema["properties"] == {"root": {"$ref": "#/$defs/Node"}}
        assert set(schema["$defs"]) == {"Node", "Owner"}
        assert schema["$defs"]["Node"]["properties"]["tag"] == {"type": "string"}
        jsonschema.Draft202012Validator.check_schema(schema)
        validator = jsonschema.Draft202012Validator(schema)
        assert validator.is_valid({"root": {"next": {"owner": {"nodes": [{"tag": "x"}]}}}})
        assert not validator.is_valid({"root": {"next": {"owner": {"nodes": [{"tag": 1}]}}}})

    @pytest.mark.parametrize(
        ("ref", "message"),
        [
            ("other.yaml#/Order", r"\$ref other.yaml#/Order leads out of the document"),
            ("https://example.com/a.json", r"https://example.com/a.json leads out"),
            ("#/components/schemas/Missing", "points at nothing"),
            ("#", "points at nothing"),
            ("#/components/schemas/Loop", "leads back to itself"),
        ],
    )
    def test_a_reference_that_leads_elsewhere_or_nowhere_is_refused_by_name(self, ref, message):
        loop = {"Loop": {"$ref": "#/components/schemas/Loop"}}
        with pytest.raises(Invalid, match=message):
            posting({"type": "array", "items": {"$ref": ref}}, schemas=loop)

    def test_a_document_that_unfolds_without_end_is_refused(self):
        schemas = {
            f"S{n}": {
                "type": "object",
                "properties": {
                    key: {"$ref": f"#/components/schemas/S{n + 1}"} for key in "abcdefghij"
                },
            }
            for n in range(20)
        }
        schemas["S20"] = {"type": "string"}
        with pytest.raises(Invalid, match="unfolds to more than 32 MiB"):
            posting({"$ref": "#/components/schemas/S0"}, schemas=schemas)

    def test_a_long_chain_of_references_is_refused_without_running_out_of_stack(self):
        schemas = {
            f"S{n}": {"type": "array", "items": {"$ref": f"#/components/schemas/S{n + 1}"}}
            for n in range(5000)
        }
        schemas["S5000"] = {"type": "string"}
        with pytest.raises(Invalid, match="nested more than 100 deep"):
            posting({"$ref": "#/components/schemas/S0"}, schemas=schemas)

    def test_in_31_notes_beside_a_reference_replace_and_keywords_add(self):
        schemas = {"Id": {"type": "string", "description": "An id."}}
        ref = {"$ref": "#/components/schemas/Id"}

        def converted(schema, version="3.1.0"):
            wanted = {"type": "object", "properties": {"x": schema}}
            return posting(wanted, schemas=schemas, version=version).schema["properties"]["x"]

        assert converted({**ref, "description": "Yours."}) == {
            "type": "string",
            "description": "Yours.",
        }
        assert converted({**ref, "maxLength": 3}) == {"allOf": [schemas["Id"], {"maxLength": 3}]}
        assert converted({**ref, "maxLength": 3}, "3.0.3") == schemas["Id"]


class TestOldSchemas:
    @pytest.mark.parametrize(
        ("old", "new"),
        [
            ({"type": "string", "nullable": True}, {"type": ["string", "null"]}),
            ({"type": "string", "nullable": False}, {"type": "string"}),
            (
                {"type": "string", "enum": ["a"], "nullable": True},
                {"type": ["string", "null"], "enum": ["a", None]},
            ),
            (
                {"allOf": [{"type": "string"}], "nullable": True, "description": "d"},
                {"description": "d", "anyOf": [{"allOf": [{"type": "string"}]}, {"type": "null"}]},
            ),
            (
                {"type": "integer", "minimum": 0, "exclusiveMinimum": True},
                {"type": "integer", "exclusiveMinimum": 0},
            ),
            (
                {"type": "integer", "maximum": 9, "exclusiveMaximum": False},
                {"type": "integer", "maximum": 9},
            ),
            ({"type": "string", "example": "x"}, {"type": "string", "examples": ["x"]}),
            (
                {"type": "object", "properties": {"nullable": {"type": "string"}}},
                {"type": "object", "properties": {"nullable": {"type": "string"}}},
            ),
            ({"type": "object", "discriminator": {"propertyName": "a"}}, {"type": "object"}),
        ],
    )
    def test_a_schema_of_30_is_said_in_the_words_of_2020_12(self, old, new):
        wanted = {"type": "object", "properties": {"x": old}}
        schema = posting(wanted, version="3.0.3").schema
        assert schema["properties"]["x"] == new
        jsonschema.Draft202012Validator.check_schema(schema)

    @pytest.mark.parametrize("version", ["2.0", "3.2.0", None, 3.0])
    def test_another_version_is_refused(self, version):
        with pytest.raises(Invalid, match=r"no OpenAPI 3\.0 or 3\.1"):
            read({}, version=version)

    def test_a_document_without_a_version_of_its_own_is_refused(self):
        with pytest.raises(Invalid, match=r"info\.version is missing"):
            read({}, info={"title": "x"})


class TestStability:
    def test_the_facts_do_not_depend_on_the_order_in_the_document(self):
        """Two servers may write the same document in different orders."""
        schemas = {
            name: {
                "type": "object",
                "properties": {
                    key: {"$ref": f"#/components/schemas/{other}"}
                    for key, other in (("x", "A"), ("y", "B"), ("z", "C"))
                },
            }
            for name in "AB"
        }
        schemas["C"] = {"type": "string", "maximum": 2**63 - 1}
        paths = {
            f"/{name}": {"post": {"requestBody": body({"$ref": f"#/components/schemas/{name}"})}}
            for name in "ABC"
        }

        def backwards(value):
            if isinstance(value, dict):
                return {key: backwards(value[key]) for key in reversed(value)}
            return value

        whole = document(paths, schemas=schemas)
        before = copy.deepcopy(whole)
        one = read_openapi(whole, source="a")
        other = read_openapi(backwards(whole), source="a")
        assert digest_json(one) == digest_json(other)
        assert whole == before


TOOL = SourceTool(
    name="find",
    description="Finds.",
    schema={
        "type": "object",
        "properties": {
            "id": {"type": "integer", "description": "Which."},
            "kind": {"enum": ["a", "b"]},
            "type": {"anyOf": [{"type": "string"}, {"type": "null"}]},
        },
        "required": ["id"],
    },
    output_schema={"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]},
    effect="read",
    retry="safe",
)


def facts(*tools, version="1"):
    return SourceFacts(name="crm", version=version, protocol="2025-11-25", tools=tools)


def changed(**parts):
    """The drifts when parts of TOOL are replaced: pointer, before, after, severity."""
    values = {
        name: getattr(TOOL, name)
        for name in ("name", "description", "schema", "output_schema", "effect", "retry")
    }
    found = compare(facts(TOOL), facts(SourceTool(**(values | parts))))
    assert all((drift.kind, drift.tool) == (DriftKind.CHANGED, "find") for drift in found)
    return [(d.pointer, d.before, d.after, d.severity.value) for d in found]


def schema(change, which="schema"):
    new = copy.deepcopy(getattr(TOOL, which))
    change(new)
    return changed(**{which: new})


class TestDrift:
    def test_the_same_facts_do_not_differ(self):
        assert compare(facts(TOOL), facts(copy.deepcopy(TOOL))) == ()

    def test_a_tool_that_is_gone_breaks_and_a_new_one_does_not(self):
        (gone,) = compare(facts(TOOL), facts())
        assert (gone.kind, gone.severity) == (DriftKind.REMOVED, Severity.BREAKING)
        assert gone.text == "the tool find is gone"
        (new,) = compare(facts(), facts(TOOL))
        assert (new.kind, new.severity) == (DriftKind.ADDED, Severity.COMPATIBLE)

    def test_another_version_is_a_drift_of_the_source(self):
        (drift,) = compare(facts(TOOL), facts(TOOL, version="2"))
        assert (drift.kind, drift.tool, drift.pointer) == (DriftKind.VERSION, None, "/version")
        assert (drift.severity, drift.text) == ("compatible", 'version was "1" and is "2"')

    def test_another_description_is_compatible(self):
        assert changed(description="Looks.") == [
            ("/description", '"Finds."', '"Looks."', "compatible")
        ]
        found = schema(lambda new: new["properties"]["id"].update(description="That."))
        assert found == [("/schema/properties/id/description", '"Which."', '"That."', "compatible")]

    def test_another_type_breaks(self):
        found = schema(lambda new: new["properties"]["id"].update(type="string"))
        assert found == [("/schema/properties/id/type", '"integer"', '"string"', "breaking")]

    def test_an_argument_named_type_is_not_taken_for_a_type(self):
        found = schema(lambda new: new["properties"]["type"].update(description="New."))
        assert found == [("/schema/properties/type/description", None, '"New."', "compatible")]

    def test_an_argument_that_is_gone_breaks(self):
        (drift,) = schema(lambda new: new["properties"].pop("kind"))
        assert (drift[0], drift[2], drift[3]) == ("/schema/properties/kind", None, "breaking")

    def test_a_new_argument_breaks_only_if_it_is_required(self):
        def add(new):
            new["properties"]["a/b"] = {"type": "string"}

        assert [d[::3] for d in schema(add)] == [("/schema/properties/a~1b", "compatible")]

        def demand(new):
            add(new)
            new["required"] = ["a/b", "id"]

        assert [d[::3] for d in schema(demand)] == [
            ("/schema/properties/a~1b", "breaking"),
            ("/schema/required", "breaking"),
        ]

    def test_an_argument_that_need_not_be_given_any_more_is_compatible(self):
        assert schema(lambda new: new.pop("required")) == [
            ("/schema/required", '["id"]', None, "compatible")
        ]

    def test_fewer_choices_break_and_more_do_not(self):
        def choose(*values):
            (drift,) = schema(lambda new: new["properties"]["kind"].update(enum=list(values)))
            return drift[3]

        assert choose("a") == "breaking"
        assert choose("a", "b", "c") == "compatible"
        (drift,) = schema(lambda new: new["properties"]["id"].update(enum=[1]))
        assert drift[3] == "breaking"
        (drift,) = schema(lambda new: new["properties"]["type"]["anyOf"].pop())
        assert drift[3] == "breaking"

    def test_the_order_of_alternatives_says_nothing(self):
        assert schema(lambda new: new["properties"]["type"]["anyOf"].reverse()) == []

    def test_closing_an_object_breaks_and_opening_it_does_not(self):
        (drift,) = schema(lambda new: new.update(additionalProperties=False))
        assert drift == ("/schema/additionalProperties", None, "false", "breaking")

    def test_a_weaker_promise_breaks_and_a_stronger_one_does_not(self):
        assert [d[::3] for d in changed(effect="write", retry="never")] == [
            ("/effect", "breaking"),
            ("/retry", "breaking"),
        ]
        strict = SourceTool(name="find", description="", schema={})
        free = SourceTool(name="find", description="", schema={}, effect="read", retry="safe")
        assert {d.severity for d in compare(facts(strict), facts(free))} == {"compatible"}

    def test_an_answer_breaks_the_other_way_round(self):
        def more(new):
            new["properties"]["m"] = {}
            new["required"] = ["n", "m"]

        assert {d[3] for d in schema(more, "output_schema")} == {"compatible"}
        less = schema(lambda new: new.pop("required"), "output_schema")
        assert less == [("/output_schema/required", '["n"]', None, "breaking")]
        gone = schema(lambda new: new["properties"].pop("n"), "output_schema")
        assert [d[3] for d in gone] == ["breaking"]
        assert [d[::3] for d in changed(output_schema=None)] == [("/output_schema", "breaking")]

    def test_one_is_not_true(self):
        (drift,) = schema(lambda new: new["properties"]["id"].update(default=1))
        assert drift[2] == "1"
        one = SourceTool(name="x", description="", schema={"default": 1})
        true = SourceTool(name="x", description="", schema={"default": True})
        (drift,) = compare(facts(one), facts(true))
        assert (drift.before, drift.after) == ("1", "true")

    def test_a_schema_that_is_nonsense_is_compared_all_the_same(self):
        """A server may send anything that is JSON."""
        odd = SourceTool(
            name="x",
            description="",
            schema={"required": [{}], "type": 5, "properties": [], "anyOf": 1},
        )
        plain = SourceTool(name="x", description="", schema={})
        assert len(compare(facts(odd), facts(plain))) == 3
        assert len(compare(facts(plain), facts(odd))) == 3
