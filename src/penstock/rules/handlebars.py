"""Handlebars, as dotprompt files use it, and Jinja: from one to the other.

What both say alike is translated: variables, ``if``, ``unless``, ``each``, roles, comments. All
else (a partial, a helper, a filter, a macro) is refused with its line: no translation is better
than one that tells the model something else.

Handlebars renders a variable that was not given as nothing; our templates refuse it. A variable
outside of a condition is therefore translated as it is, and has to be given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass

import jinja2
from jinja2 import nodes

from penstock.domain.errors import ProjectInvalid

_TAG = re.compile(r"\{\{!--.*?--\}\}|\{\{!.*?\}\}|\{\{\{(.*?)\}\}\}|\{\{(.*?)\}\}", re.DOTALL)
_PATH = re.compile(r"(?:this|@?[A-Za-z_]\w*)(?:\.\w+)*")
_ROLE = re.compile(r"role\s+[\"'](\w+)[\"']")
_JINJA = re.compile(r"\{%|\{#")
_SPECIAL = {"@index": "loop.index0", "@first": "loop.first", "@last": "loop.last"}
_ROLES = {"system": "system", "user": "user", "model": "assistant", "assistant": "assistant"}


@dataclass(frozen=True, kw_only=True, slots=True)
class Tag:
    """A piece of Handlebars: a text, or what stands between the braces."""

    line: int
    text: str
    is_tag: bool


def to_jinja(source: str, *, file: str, line: int = 1) -> str:
    """A Handlebars template as Jinja; roles become ``--- role: … ---`` lines.

    Raises:
        ProjectInvalid: it holds what cannot be said in Jinja; names the line.
    """
    out: list[str] = []
    open_blocks: list[str] = []
    for tag in _tags(source, line):
        if not tag.is_tag:
            out.append(_JINJA.sub(lambda found: "{{ '" + found[0] + "' }}", tag.text))
            continue
        out.append(_tag_to_jinja(tag, open_blocks, file))
    if open_blocks:
        raise _refused(file, line, f"{{{{#{open_blocks[-1]}}}}} is never closed")
    return "".join(out)


def from_jinja(source: str, *, file: str, line: int = 1) -> str:
    """A Jinja template as Handlebars.

    Raises:
        ProjectInvalid: it holds what Handlebars cannot say; names the line.
    """
    try:
        tree = jinja2.Environment(autoescape=False, keep_trailing_newline=True).parse(source)  # noqa: S701 - a prompt is no page
    except jinja2.TemplateSyntaxError as error:
        raise _refused(file, line + error.lineno - 1, str(error.message)) from None
    return "".join(_written(tree.body, file=file, line=line, loops=()))


def _tags(source: str, line: int) -> Iterator[Tag]:
    position = 0
    for match in _TAG.finditer(source):
        at = line + source.count("\n", 0, match.start())
        if match.start() > position:
            yield Tag(line=at, text=source[position : match.start()], is_tag=False)
        inner = match[1] if match[1] is not None else match[2]
        yield Tag(line=at, text="!" if inner is None else inner.strip(), is_tag=True)
        position = match.end()
    if position < len(source):
        yield Tag(line=line, text=source[position:], is_tag=False)


def _tag_to_jinja(tag: Tag, blocks: list[str], file: str) -> str:  # noqa: PLR0911 - one a kind of tag
    text = tag.text
    word, _, rest = text.partition(" ")
    if text == "!":
        return ""
    if role := _ROLE.fullmatch(text):
        if role[1] not in _ROLES or blocks:
            raise _refused(file, tag.line, f"{{{{{text}}}}}: a role stands alone, and is known")
        return f"\n--- role: {_ROLES[role[1]]} ---\n"
    if word in ("#if", "#unless", "#each"):
        path = _path(rest.strip(), blocks, file, tag.line)
        blocks.append(word[1:])
        if word == "#each":
            return f"{{% for item{len(blocks)} in {path} %}}"
        return f"{{% if {'not ' if word == '#unless' else ''}{path} %}}"
    if text == "else" and blocks:
        return "{% else %}"
    if word.startswith("/"):
        if not blocks or blocks.pop() != word[1:]:
            raise _refused(file, tag.line, f"{{{{{text}}}}} closes what is not open")
        return "{% endfor %}" if word == "/each" else "{% endif %}"
    return f"{{{{ {_path(text, blocks, file, tag.line)} }}}}"


def _path(text: str, blocks: list[str], file: str, line: int) -> str:
    if not _PATH.fullmatch(text):
        raise _refused(file, line, f"{{{{{text}}}}} is more than a variable, if, unless or each")
    head, _, rest = text.partition(".")
    if head in _SPECIAL and not rest and "each" in blocks:
        return _SPECIAL[head]
    if head == "this" and "each" in blocks:
        depth = max(number for number, block in enumerate(blocks, 1) if block == "each")
        return f"item{depth}" + (f".{rest}" if rest else "")
    if head.startswith("@") or head == "this":
        raise _refused(file, line, f"{{{{{text}}}}} means nothing here")
    return text


def _written(
    found: list[nodes.Node], *, file: str, line: int, loops: tuple[str, ...]
) -> Iterator[str]:
    """Jinja's nodes as Handlebars."""
    for node in found:
        at = line + node.lineno - 1
        more = {"file": file, "line": line, "loops": loops}
        match node:
            case nodes.Output():
                for item in node.nodes:
                    if isinstance(item, nodes.TemplateData):
                        if "{{" in item.data:
                            raise _refused(file, at, "'{{' as a text cannot be said in Handlebars")
                        yield item.data
                    else:
                        yield f"{{{{{_name(item, file, line + item.lineno - 1, loops)}}}}}"
            case nodes.If(elif_=[]):
                negated = isinstance(node.test, nodes.Not)
                test = node.test.node if isinstance(node.test, nodes.Not) else node.test
                word = "unless" if negated else "if"
                yield f"{{{{#{word} {_name(test, file, at, loops)}}}}}"
                yield from _written(node.body, **more)  # type: ignore[arg-type]
                if node.else_:
                    yield "{{else}}"
                    yield from _written(node.else_, **more)  # type: ignore[arg-type]
                yield f"{{{{/{word}}}}}"
            case nodes.For(target=nodes.Name(), test=None, recursive=False, else_=[]):
                yield f"{{{{#each {_name(node.iter, file, at, loops)}}}}}"
                inner = (*loops, str(node.target.name))  # type: ignore[attr-defined]
                yield from _written(node.body, file=file, line=line, loops=inner)
                yield "{{/each}}"
            case _:
                what = type(node).__name__.lower()
                raise _refused(file, at, f"a Jinja {what} cannot be said in Handlebars")


def _name(node: nodes.Node, file: str, line: int, loops: tuple[str, ...]) -> str:
    match node:
        case nodes.Name() if loops and node.name == loops[-1]:
            return "this"
        case nodes.Name() if node.name not in loops:
            return node.name
        case nodes.Getattr(node=nodes.Name(name="loop")) if loops:
            for there, here in _SPECIAL.items():
                if here == f"loop.{node.attr}":
                    return there
        case nodes.Getattr():
            return f"{_name(node.node, file, line, loops)}.{node.attr}"
    raise _refused(file, line, "only variables and their members can be said in Handlebars")


def _refused(file: str, line: int, message: str) -> ProjectInvalid:
    return ProjectInvalid(
        message, file=file, line=line, hint="Write it another way, or keep it in one format."
    )
