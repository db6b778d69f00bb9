"""Writes the pages of the API reference, docs/api-reference/*.md, from the docstrings: one page for each public module.

Run it after a change of a public docstring or signature: ``python docs/site/reference.py``.
"""

import pydoc
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, TypeAlias

import griffe
from griffe import ParameterKind as Kind

ROOT = Path(__file__).parents[2]
PACKAGE = "mongodb_session_manager"
FOLDER = ROOT / "docs/api-reference"
COMMAND = "python docs/site/reference.py"
# Protocols of `types` that stand with the hooks, where a reader looks for them.
HOOKS = ("types.MetadataHook", "types.FeedbackHook")
LINE = 100
SHORT = 12

Row: TypeAlias = tuple[str, ...]


@dataclass(frozen=True)
class _Twin:
    """A method ``a…`` that is made from another one, and has no ``def`` of its own."""

    name: str
    method: Any


@cache
def package() -> Any:
    """Return the package as griffe reads its sources."""
    return griffe.load(PACKAGE, search_paths=[ROOT / "src"], docstring_parser="google", resolve_aliases=True)


def pages() -> dict[str, str]:
    """Return each page by its file name."""
    return {f"{page_of(module)}.md": _page(module) for module in modules()}


def modules() -> list[str]:
    """Return the public modules that offer something."""
    names = [name for name, member in package().members.items() if not member.is_alias and member.is_module]
    return [name for name in names if not name.startswith("_") and names_of(name)]


def page_of(module: str) -> str:
    """Return the name of a module's page."""
    return module.replace("_", "-")


def names_of(module: str) -> list[str]:
    """Return the paths of what stands on a module's page."""
    own = [f"{module}.{name}" for name in _exports(module)]
    if module == "hooks":
        return [*HOOKS, *own]
    return [path for path in own if path not in HOOKS]


def _exports(module: str) -> list[str]:
    """Return what a module says in ``__all__``; without that, what of it the package exports."""
    exports = package()[module].exports
    top = [str(name) for name in package().exports or ()]
    return [str(name) for name in exports] if exports else [name for name in top if name in _defined(module)]


def _defined(module: str) -> set[str]:
    return {name for name, member in package()[module].members.items() if not member.is_alias}


@cache
def places() -> dict[str, str]:
    """Return where each name is described: the page with the anchor."""
    return {
        path.rpartition(".")[2]: f"{page_of(module)}.md#{path.rpartition('.')[2].lower()}"
        for module in modules()
        for path in names_of(module)
    }


# A page


def _page(module: str) -> str:
    described = {path: package()[path] for path in names_of(module)}
    main = _main_class(module, described)
    blocks = [
        f"# {_name(main) if main else module.capitalize()}",
        f"<!-- {COMMAND} makes this page from the docstrings: change them, not this page. -->",
        *([] if main else [_summary(package()[module])]),
        _imports(described),
        *(_class(main, level=1) if main else _overview(described)),
    ]
    for title, paths in _groups(module, described):
        level = 3 if title else 2
        blocks += [f"## {title}"] if title else []
        for path in paths:
            if path != main:
                blocks += [f"{'#' * level} {_name(path)}", *_object(path, level)]
    return "\n\n".join(blocks) + "\n"


def _main_class(module: str, described: dict[str, Any]) -> str | None:
    """Return the class that a module is about: that of its name, or its largest; errors and types are about none."""
    classes = {path: each for path, each in described.items() if each.is_class}
    if module in {"errors", "types"} or package()[module].is_init_module or not classes:
        return None
    same = [path for path in classes if _name(path).lower() == module.replace("_", "")]
    return same[0] if same else max(classes, key=lambda path: classes[path].endlineno - classes[path].lineno)


def _groups(module: str, described: Iterable[str]) -> Iterator[tuple[str, list[str]]]:
    if module != "hooks":
        yield "", list(described)
        return
    for kind in ("metadata", "feedback"):
        yield f"{kind.capitalize()} hooks", [path for path in described if kind in _name(path).lower()]


def _imports(described: dict[str, Any]) -> str:
    """Return how to import the names; of many names, from where."""
    names: dict[str, list[str]] = {}
    for path in described:
        names.setdefault(_origin(path), []).append(_name(path))
    if len(described) > SHORT:
        return f"Import what you need from `{PACKAGE}.{next(iter(described)).rpartition('.')[0]}`."
    return "\n".join(["```python", *(_import(origin, listed) for origin, listed in sorted(names.items())), "```"])


def _origin(path: str) -> str:
    at_the_top = _name(path) in map(str, package().exports)
    return PACKAGE if at_the_top else f"{PACKAGE}.{path.rpartition('.')[0]}"


def _import(origin: str, names: list[str]) -> str:
    line = f"from {origin} import {', '.join(sorted(names))}"
    listed = "".join(f"    {name},\n" for name in sorted(names))
    return line if len(line) <= LINE else f"from {origin} import (\n{listed})"


def _overview(described: dict[str, Any]) -> list[str]:
    rows = [(f"[`{_name(path)}`](#{_name(path).lower()})", _summary(each)) for path, each in described.items()]
    return _table(("name", "what it is"), rows)


# An object


def _object(path: str, level: int) -> list[str]:
    found = package()[path]
    if found.is_class:
        return _class(path, level)
    if found.is_function:
        return _function(found)
    return [_text(found), f"```text\n{found.name} = {_quoted(str(found.value))}\n```"]


def _class(path: str, level: int) -> list[str]:
    found = package()[path]
    members = _members(found)
    made_by = _constructor(found)
    blocks = [*_bases(found), *([_call(found.name, made_by)] if made_by else []), *_described(found, made_by)]
    if _is_protocol(found):
        blocks += _function(found.members["__call__"])
    if not members:
        return blocks
    if level == 1:
        rows = [(f"[`{each.name}`](#{each.name.lower()})", _line(each)) for each in members]
        blocks += ["## Methods", *_table(("name", "what it does"), rows)]
    hashes = "#" * (3 if level == 1 else level + 1)
    for member in members:
        blocks += [f"{hashes} {member.name}", *_member(found, member)]
    return blocks


def _constructor(found: Any) -> Any | None:
    """Return ``__init__``, except of errors and of what else only the library makes."""
    made_by = None if found.name.endswith("Error") else found.all_members.get("__init__")
    return None if made_by is None or (len(made_by.parameters) > 1 and not _parameters(made_by)) else made_by


def _is_protocol(found: Any) -> bool:
    return "Protocol" in map(str, found.bases)


def _bases(found: Any) -> list[str]:
    public = [str(base).rpartition(".")[2] for base in found.bases]
    public = [base for base in public if base in places() or base.endswith(("Error", "Exception"))]
    what = "" if found.name.endswith("Error") else ", with all of its methods"
    return [f"A kind of {', '.join(map(_linked, public))}{what}."] if public else []


def _members(found: Any) -> list[Any]:
    """Return the public methods and properties: those of the class, then those of its bases that have no page."""
    own = list(found.members)
    every = {**found.members, **found.inherited_members}
    names = [name for name, each in every.items() if _is_described(each) and _owner(each) in {found.name, ""}]
    members = [every[name] for name in sorted(names, key=lambda name: name not in own)]
    return [*members, *_twins(found, members)]


def _is_described(member: Any) -> bool:
    return bool((member.is_function or _is_property(member)) and member.has_docstring and member.name[0] != "_")


def _twins(found: Any, members: list[Any]) -> list[Any]:
    living, names = pydoc.locate(found.path), {member.name for member in members}
    twins = [_Twin(f"a{member.name}", member) for member in members if f"a{member.name}" not in names]
    return [twin for twin in twins if callable(getattr(living, twin.name, None))]


def _owner(member: Any) -> str:
    """Return the class that defines a member, if it is described on a page of its own."""
    name = member.final_target.parent.name if member.is_alias else member.parent.name
    return name if name in places() else ""


def _is_property(member: Any) -> bool:
    return bool(member.is_attribute and "property" in member.labels)


def _member(owner: Any, member: Any) -> list[str]:
    if isinstance(member, _Twin):
        return [_call(f"await {member.name}", member.method), _line(member)]
    if _is_property(member):
        return [_text(member), f"A property: {_type(member.annotation)}."]
    return _function(member, owner.name if "classmethod" in member.labels else "")


def _function(function: Any, owner: str = "") -> list[str]:
    decorators = {str(decorator.value).rpartition(".")[2] for decorator in function.decorators}
    prefix = "await " if "async" in function.labels else ""
    if "contextmanager" in decorators or "asynccontextmanager" in decorators:
        prefix = "async with " if "asynccontextmanager" in decorators else "with "
    name = f"{prefix}{owner}.{function.name}" if owner else f"{prefix}{function.name}"
    return [_call(name, function), *_described(function, function)]


def _call(name: str, function: Any) -> str:
    arguments = [_argument(parameter) for parameter in _parameters(function)]
    kinds = [parameter.kind for parameter in _parameters(function)]
    if Kind.keyword_only in kinds and Kind.var_positional not in kinds:
        arguments.insert(kinds.index(Kind.keyword_only), "*")
    line = f"{name}({', '.join(arguments)})"
    if len(line) > LINE:
        line = f"{name}(\n" + "".join(f"    {argument},\n" for argument in arguments) + ")"
    return f"```text\n{line}\n```"


def _parameters(function: Any) -> list[Any]:
    return [each for each in function.parameters if each.name not in {"self", "cls"} and not each.name.startswith("_")]


def _argument(parameter: Any) -> str:
    stars = {Kind.var_positional: "*", Kind.var_keyword: "**"}.get(parameter.kind, "")
    default = "" if stars or parameter.default is None else f"={_default(parameter.default)}"
    return f"{stars}{parameter.name}{default}"


def _default(value: Any) -> str:
    """Return a default as a caller would write it: a constant by its value."""
    path = value.canonical_path if isinstance(value, griffe.ExprName | griffe.ExprAttribute) else ""
    if not path.startswith(f"{PACKAGE}."):
        return _quoted(str(value))
    constant = pydoc.locate(path)
    known = isinstance(constant, int | float | str)
    return _quoted(repr(constant) if known else str(package()[path.removeprefix(f"{PACKAGE}.")].value))


def _quoted(value: str) -> str:
    return value.replace("'", '"')


# Docstrings


def _sections(found: Any) -> dict[str, Any]:
    return {section.kind.value: section.value for section in found.docstring.parsed} if found.docstring else {}


def _described(found: Any, function: Any | None) -> list[str]:
    """Return what a docstring says: text, arguments, attributes, what is returned, and errors."""
    sections = _sections(found)
    errors = [(_linked(str(each.annotation)), _cell(each.description)) for each in sections.get("raises", ())]
    return [
        *([_text(found)] if "text" in sections else []),
        *_named("argument", sections.get("parameters", ()), _parameters(function) if function else ()),
        *_named("attribute", sections.get("attributes", ()), found.members.values()),
        *(_fields(found, sections) if found.is_class else _returned(found, sections)),
        *_table(("raises", "when"), errors),
    ]


def _named(title: str, items: Iterable[Any], declared: Iterable[Any]) -> list[str]:
    """Return a table of arguments or attributes, with the types that they are declared with."""
    types = {each.name: each.annotation for each in declared if hasattr(each, "annotation")}
    shown = [each for each in items if each.description != "Ignored."]
    rows = [(f"`{each.name}`", _type(types.get(each.name.strip("*"))), _cell(each.description)) for each in shown]
    return _table((title, "type", "meaning"), rows)


def _fields(found: Any, sections: dict[str, Any]) -> list[str]:
    """Return the keys of a TypedDict, or the fields of a dataclass."""
    if "attributes" in sections or "parameters" in sections or "__init__" in found.members:
        return []
    fields = [each for each in found.members.values() if each.is_attribute and not _is_property(each)]
    rows = [(f"`{each.name}`", _type(each.annotation)) for each in fields if each.annotation and each.is_public]
    return _table(("field", "type"), rows)


def _returned(found: Any, sections: dict[str, Any]) -> list[str]:
    kind = _type(found.returns)
    if "returns" in sections:
        return [f"Returns {kind}: {_cell(each.description)}" for each in sections["returns"]]
    return [f"Returns {kind}."] if kind and kind != "`None`" else []


def _text(found: Any) -> str:
    return _plain(str(_sections(found).get("text", "")))


def _line(member: Any) -> str:
    """Return what stands beside a method in the table of methods."""
    return (
        f"Do what `{member.method.name}` does, off the event loop." if isinstance(member, _Twin) else _summary(member)
    )


def _summary(found: Any) -> str:
    return _cell(_text(found).partition("\n\n")[0])


def _plain(text: str) -> str:
    return text.replace("``", "`").strip()


def _cell(text: str) -> str:
    return re.sub(r"\s+", " ", _plain(text)).replace("|", "or")


def _type(annotation: Any) -> str:
    plain = re.sub(r"\bUnpack\[(\w+)\]", r"\1", _expanded(annotation)).strip("'")
    if plain in places():
        return _linked(plain)
    return plain and f"`{_quoted(plain).replace(' | ', ' or ')}`"


def _expanded(annotation: Any) -> str:
    """Return an annotation with the private names of the package written out."""
    if annotation is None or isinstance(annotation, str):
        return annotation or ""
    return "".join(part if isinstance(part, str) else _meaning(part) for part in annotation.iterate(flat=True))


def _meaning(name: Any) -> str:
    path = name.canonical_path.removeprefix(f"{PACKAGE}.")
    if path == name.canonical_path or name.name in places() or not package()[path].is_attribute:
        return str(name)
    value = package()[path].value
    return str(name).strip("_") if str(value).startswith("TypeVar(") else _expanded(value)


def _linked(name: str) -> str:
    place = places().get(name.strip())
    return f"[`{name}`]({place})" if place else f"`{name}`"


def _name(path: str) -> str:
    return path.rpartition(".")[2]


def _table(head: Row, rows: Sequence[Row]) -> list[str]:
    """Return a table without the columns that are empty; nothing without rows."""
    if not rows:
        return []
    kept = [i for i in range(len(head)) if any(row[i] for row in rows)]
    lines = [f"| {' | '.join(row[i] for i in kept)} |" for row in (head, *rows)]
    return ["\n".join([lines[0], "|---" * len(kept) + "|", *lines[1:]])]


def main() -> None:
    """Write the pages, and remove those of modules that are no more."""
    FOLDER.mkdir(exist_ok=True)
    made = pages()
    for page in FOLDER.glob("*.md"):
        if page.name not in made:
            page.unlink()
    for name, text in made.items():
        (FOLDER / name).write_text(text, "utf-8")


if __name__ == "__main__":
    main()
