"""What a project's code says of itself when it is imported: graph, state, tools.

Run once per release by the builder, in the release's environment, in a process of its own. The
answer is one JSON object on a file descriptor of its own: an agent may print what it likes.
"""

from __future__ import annotations

import importlib
import inspect
import json
import os
import re
import sys
import typing
from typing import Any

_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_TYPES = {str: "string", int: "integer", float: "number", bool: "boolean", dict: "object"}


def main() -> None:
    """Import what the configuration names, and report; ends the process."""
    answer_fd = int(sys.argv[1])
    config: dict[str, Any] = json.loads(sys.argv[2])
    del sys.argv[1:]
    from penstock.inside.zygote import ENVIRONMENT  # noqa: PLC0415 - standard library only

    for name, value in ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    os.environ["LANGGRAPH_STRICT_MSGPACK"] = "true"
    from penstock.inside import declarations, tracebacks  # noqa: PLC0415 - after it is set

    where = "entrypoint"
    try:
        _pin_prompts(config)
        declarations.pin([], config["tools_default"])
        facts = _entrypoint(config["entrypoint"])
        facts["tools"] = []
        facts["tool_files"] = []
        for name in config["tools"]:
            where = f"tools: {name}"
            module = importlib.import_module(name)
            facts["tools"] += _tools(module)
            facts["tool_files"].append(_file(module, config["project"]))
        for metric, function in config["evaluators"].items():
            where = f"evaluate.{metric}: {function}"
            _evaluator(function)
        answer = {"ok": True, "facts": facts}
    except BaseException as error:  # noqa: BLE001 - whatever an import does is the answer
        answer = {
            "ok": False,
            "where": where,
            "error": tracebacks.describe(error, config["project"]),
        }
    data = json.dumps(answer).encode()
    while data:
        data = data[os.write(answer_fd, data) :]
    os._exit(0)


def _pin_prompts(config: dict[str, Any]) -> None:
    from penstock.inside import prompts  # noqa: PLC0415 - see main

    if vendor := config.get("vendor"):
        sys.path.append(vendor)
    prompts.pin(config["prompts"])


def _entrypoint(name: str) -> dict[str, Any]:
    from penstock.inside import entrypoints  # noqa: PLC0415 - see main
    from penstock.inside.frameworks.langgraph import GraphRunner  # noqa: PLC0415 - see main

    runner = entrypoints.load(name)
    if not isinstance(runner, GraphRunner):
        return {"kind": "callable", "graph": {}, "state": None, "state_types": []}
    graph: Any = runner._graph  # noqa: SLF001 - of this very package
    drawn = graph.get_graph()
    edges = sorted([edge.source, edge.target, bool(edge.conditional)] for edge in drawn.edges)
    schemas = {
        part: getattr(graph.builder, f"{part}_schema", None)
        for part in ("state", "input", "output", "context")
    }
    state = {part: _fields(schema) for part, schema in schemas.items()}
    for part in ("state", "input", "output"):
        _importable(schemas[part], set())
    return {
        "kind": "langgraph",
        "graph": {"nodes": sorted(drawn.nodes), "edges": edges},
        "state": state,
        "state_types": runner.state_types,
    }


class StateTypeError(TypeError):
    """A type of the graph's state cannot be found, so no checkpoint of it could be read."""


def _importable(schema: Any, seen: set[int]) -> None:
    """Check that every class a state is made of can be found again by its name.

    Raises:
        StateTypeError: one cannot; names it.
    """
    if schema is None or id(schema) in seen:
        return
    seen.add(id(schema))
    for argument in typing.get_args(schema):
        _importable(argument, seen)
    if not isinstance(schema, type) or not _is_record(schema):
        return
    name = f"{schema.__module__}.{schema.__qualname__}"
    if "<locals>" in schema.__qualname__:
        raise StateTypeError(f"{name} is made inside a function: a checkpoint cannot name it")
    try:
        hints = typing.get_type_hints(schema, include_extras=True)
    except NameError as error:
        raise StateTypeError(f"{name} has a field whose type cannot be found: {error}") from None
    except Exception:  # noqa: BLE001 - a library's own class: LangGraph knows its fields
        return
    for hint in hints.values():
        _importable(hint, seen)


def _is_record(schema: type) -> bool:
    """Whether a class is one of the state's own making, with fields."""
    own = schema.__module__.partition(".")[0] not in ("builtins", "typing", "collections")
    return own and bool(getattr(schema, "__annotations__", None))


def _fields(schema: Any) -> dict[str, str] | None:
    """A state's fields as their annotations are written, the same in every process."""
    if schema is None:
        return None
    try:
        hints = typing.get_type_hints(schema, include_extras=True)
    except Exception:  # noqa: BLE001 - a schema that cannot be resolved is known by its names
        hints = dict.fromkeys(getattr(schema, "__annotations__", {}), None)
    return {name: _ADDRESS.sub("", repr(hint)) for name, hint in hints.items()}


def _evaluator(name: str) -> None:
    from penstock.inside.entrypoints import EntrypointError, resolve  # noqa: PLC0415 - see main

    function = resolve(name)
    if not callable(function):
        raise EntrypointError(f"{name} is a {type(function).__name__}; an evaluator is a function")


def _file(module: Any, project: str) -> str:
    path = os.path.realpath(getattr(module, "__file__", None) or "")
    root = os.path.join(os.path.realpath(project), "")  # noqa: PTH118 - see above
    if not path.startswith(root):
        raise ImportError(f"module {module.__name__} is not a file of the project")
    return path.removeprefix(root).replace(os.sep, "/")


def _tools(module: Any) -> list[dict[str, Any]]:
    """The tools a module defines: marked functions, and LangChain's tool objects."""
    found = []
    for _, value in sorted(vars(module).items()):
        mark = getattr(value, "__penstock_tool__", None)
        if inspect.isfunction(value) and mark and value.__module__ == module.__name__:
            schema = _schema(value)
            said = inspect.getdoc(value) or ""
            found.append(_tool(value.__name__, said, schema, module, value))
        elif _is_tool_object(value):
            # LangChain's shows what the model is shown, CrewAI's all that the function takes.
            model: Any = getattr(value, "tool_call_schema", None) or value.args_schema
            schema = model.model_json_schema() if hasattr(model, "model_json_schema") else model
            functions = (getattr(value, "func", None), getattr(value, "coroutine", None))
            found.append(
                _tool(value.name, value.description, schema or {}, module, value, *functions)
            )
    return found


def _tool(
    name: str, description: str, schema: dict[str, Any], module: Any, *marked: Any
) -> dict[str, Any]:
    from penstock.inside import declarations  # noqa: PLC0415 - see main

    mark = declarations.of(name, *marked)
    return {
        "name": name,
        "description": description,
        "schema": schema,
        "module": module.__name__,
        "effect": mark["effect"],
        "retry": mark["retry"],
    }


def _is_tool_object(value: Any) -> bool:
    """Whether a value is a tool of LangChain or CrewAI."""
    return any(
        base.__name__ == "BaseTool" and base.__module__.startswith(("langchain_core.", "crewai."))
        for base in type(value).__mro__
    )


def _schema(function: Any) -> dict[str, Any]:
    """A function's arguments as JSON Schema."""
    hints = typing.get_type_hints(function)
    properties, required = {}, []
    for name, parameter in inspect.signature(function).parameters.items():
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD):
            continue
        properties[name] = _type(hints.get(name, Any))
        if parameter.default is parameter.empty:
            required.append(name)
        elif isinstance(parameter.default, str | int | float | bool | None):
            properties[name] = {**properties[name], "default": parameter.default}
    return {"type": "object", "properties": properties, "required": required}


def _type(hint: Any) -> dict[str, Any]:  # noqa: PLR0911 - one case a kind of annotation
    if hint in _TYPES:
        return {"type": _TYPES[hint]}
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is typing.Literal:
        return {"enum": list(arguments)}
    if hint in (list, tuple, set) or origin in (list, tuple, set):
        return {"type": "array", "items": _type(arguments[0]) if arguments else {}}
    if origin is dict:
        return {"type": "object"}
    if arguments and type(None) in arguments:
        return {
            "anyOf": [_type(one) for one in arguments if one is not type(None)] + [{"type": "null"}]
        }
    if origin is not None and arguments:
        return {"anyOf": [_type(one) for one in arguments]}
    return {}
