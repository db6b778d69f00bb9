"""The rules of the house: which folder may import which, who touches a collection, where the operators stand."""

import ast
import importlib
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path
from typing import Any

import pytest
from pymongo import MongoClient

import mongodb_session_manager

PACKAGE = Path(mongodb_session_manager.__file__).parent
NAME = "mongodb_session_manager"

# From the ground up, a line a floor. A module imports modules of lower floors and of its own folder; what stands on its
# floor beside it, it does not know.
FLOORS: list[set[str]] = [
    {"errors", "types", "_version", "_override"},
    {"_schema"},
    {"_client"},
    {"_stores"},
    {"mongodb_session_repository", "session_catalog", "mongodb_connection_pool"},
    {"_history", "_session"},
    {"mongodb_session_manager"},
    {"mongodb_session_factory"},
    {"hooks", "testing"},
    {"__init__"},
    {"__main__"},
]
FOLDERS = {"types", "_schema", "_client", "_stores", "_history", "_session", "hooks", "testing"}

# The same inside the hooks, whose parts are one floor to the others.
HOOK_FLOORS: list[set[str]] = [
    {"_delivery"},
    {"_delivery_queue"},
    {"dispatcher"},
    {"_aws", "_notifying"},
    {"_metadata_events"},
    {"feedback_sns_hook", "metadata_sqs_hook", "metadata_websocket_hook"},
    {"__init__"},
]

COLLECTION_METHODS = {
    "aggregate",
    "bulk_write",
    "command",
    "count_documents",
    "create_index",
    "create_indexes",
    "delete_many",
    "delete_one",
    "distinct",
    "drop_index",
    "estimated_document_count",
    "find",
    "find_one",
    "find_one_and_delete",
    "find_one_and_replace",
    "find_one_and_update",
    "insert_many",
    "insert_one",
    "replace_one",
    "update_many",
    "update_one",
    "watch",
}
# What a client asks the server about itself concerns no collection.
OF_THE_SERVER = re.compile(r"(^|\.)admin\.command$")

PUBLIC = {
    "mongodb_session_manager": ["MongoDBSessionManager", "create_mongodb_session_manager"],
    "mongodb_session_repository": ["MongoDBSessionRepository"],
    "mongodb_connection_pool": ["MongoDBConnectionPool"],
    "mongodb_session_factory": [
        "MongoDBSessionManagerFactory",
        "initialize_global_factory",
        "get_global_factory",
        "close_global_factory",
    ],
    "hooks.feedback_sns_hook": ["FeedbackSNSHook", "create_feedback_sns_hook", "is_feedback_sns_hook_available"],
    "hooks.metadata_sqs_hook": ["MetadataSQSHook", "create_metadata_sqs_hook", "is_metadata_sqs_hook_available"],
    "hooks.metadata_websocket_hook": [
        "MetadataWebSocketHook",
        "create_metadata_websocket_hook",
        "is_metadata_websocket_hook_available",
    ],
    "errors": [
        "MongoDBSessionError",
        "SessionNotFoundError",
        "AgentNotFoundError",
        "MessageNotFoundError",
        "UnstorableValueError",
        "SessionConflictError",
        "SessionLockedError",
        "SessionTooLargeError",
        "SchemaVersionError",
        "FactoryNotInitializedError",
    ],
}


def dotted(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


MODULES = {dotted(path): path for path in sorted(PACKAGE.rglob("*.py"))}
CORE = {name: path for name, path in MODULES.items() if name.split(".")[0] != "testing"}
EXISTING = [(module, name) for module, names in PUBLIC.items() if module in MODULES for name in names]


@cache
def tree(module: str) -> ast.Module:
    return ast.parse(MODULES[module].read_text())


def imported(module: str) -> Iterator[str]:
    """Absolute names of everything a module imports, also inside functions and for types only."""
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield from (f"{_source(module, node)}.{alias.name}" for alias in node.names)


def _source(module: str, node: ast.ImportFrom) -> str:
    if not node.level:
        return node.module or ""
    parents = [NAME, *module.split(".")][: -node.level]
    return ".".join([*parents, *([node.module] if node.module else [])])


def own_imports(module: str) -> set[str]:
    """The modules and folders at the top of the package that a module imports."""
    names = [name.split(".") for name in imported(module) if name.split(".")[0] == NAME]
    return {parts[1] if parts[1:2] and is_module(parts[1]) else "__init__" for parts in names}


def neighbours(module: str) -> set[str]:
    """The other modules of its folder that a module imports."""
    inside = f"{NAME}.{folder(module)}."
    names = {name.removeprefix(inside).split(".")[0] for name in imported(module) if name.startswith(inside)}
    return {f"{folder(module)}.{name}" for name in names} & MODULES.keys()


def folder(module: str) -> str:
    return module.split(".")[0]


def is_module(name: str) -> bool:
    return any(module.split(".")[0] == name for module in MODULES)


def floor(module: str) -> int:
    top = module.split(".")[0]
    found = [number for number, names in enumerate(FLOORS) if top in names]
    assert found, f"{module} is new: give it a floor in {Path(__file__).name}"
    return found[0]


def strings(module: str) -> Iterator[str]:
    """The text in a module but for docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree(module))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        and node.body
        and isinstance(node.body[0], ast.Expr)
    }
    for node in ast.walk(tree(module)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in docstrings:
            yield node.value


def touched(module: str) -> set[str]:
    """What a module takes of other objects that only a collection has, or a database."""
    nodes = [node for node in ast.walk(tree(module)) if isinstance(node, ast.Attribute)]
    return {
        node.attr for node in nodes if node.attr in COLLECTION_METHODS and not OF_THE_SERVER.search(ast.unparse(node))
    }


def all_of(module: str) -> list[str] | None:
    """The literal ``__all__`` of a module; None where it has none."""
    for node in tree(module).body:
        targets = node.targets if isinstance(node, ast.Assign) else []
        if [ast.unparse(target) for target in targets] == ["__all__"] and isinstance(node, ast.Assign):
            names: list[str] = ast.literal_eval(node.value)
            return names
    return None


def defined(module: str) -> set[str]:
    nodes = tree(module).body
    return {node.name for node in nodes if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)}


# Imports


@pytest.mark.parametrize("module", ["errors", "types", "_override"])
def test_the_ground_imports_nothing_of_ours(module: str) -> None:
    assert module not in MODULES or own_imports(module) == set()


@pytest.mark.parametrize("module", MODULES)
def test_imports_go_down(module: str) -> None:
    own = module.split(".")[0]
    upwards = {name for name in own_imports(module) - {own} if floor(name) >= floor(module)}

    assert upwards == set()


@pytest.mark.parametrize("module", MODULES)
def test_imports_inside_a_folder_go_in_no_circle(module: str) -> None:
    reached, following = set[str](), neighbours(module)
    while following - reached:
        reached |= following
        following = {other for each in reached for other in neighbours(each)}

    assert module not in reached


def test_every_module_stands_at_a_door_or_in_a_folder() -> None:
    assert {name.split(".")[0] for name in MODULES if "." in name} == FOLDERS


def test_the_rule_sees_imports() -> None:
    assert {"errors", "_schema", "_history", "mongodb_session_repository"} <= own_imports("mongodb_session_manager")
    assert "_schema" in own_imports("_history.writer")
    assert "mongodb_session_manager" in own_imports("hooks._notifying")  # for types only
    assert "_schema.values" in neighbours("_schema.blobs")


@pytest.mark.parametrize("module", CORE)
def test_nothing_imports_what_is_for_tests(module: str) -> None:
    tops = {name.split(".")[0] for name in imported(module)}

    assert "testing" not in own_imports(module)
    assert not tops & {"pytest", "mongomock", "hypothesis", "fiftyone", "unittest"}


@pytest.mark.parametrize("module", sorted(MODULES.keys() - {"hooks._aws"}))
def test_nothing_imports_aws(module: str) -> None:
    assert not {name.split(".")[0] for name in imported(module)} & {"boto3", "botocore"}


def test_boto3_is_imported_when_it_is_needed() -> None:
    nodes = tree("hooks._aws").body
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module or "" for node in nodes if isinstance(node, ast.ImportFrom)}

    assert "boto3" in set(imported("hooks._aws"))
    assert not {name.split(".")[0] for name in names} & {"boto3", "botocore"}


@pytest.mark.parametrize("module", sorted(name for name in CORE if name.split(".")[0] not in {"hooks", "__init__"}))
def test_the_core_does_without_the_hooks(module: str) -> None:
    assert "hooks" not in own_imports(module)


@pytest.mark.parametrize("module", sorted(name for name in MODULES if name.startswith("hooks.")))
def test_imports_inside_the_hooks_go_down(module: str) -> None:
    prefix = f"{NAME}.hooks."
    inside = {name.removeprefix(prefix).split(".")[0] for name in imported(module) if name.startswith(prefix)}
    own = hook_floor(module.removeprefix("hooks."))

    assert {name for name in inside if hook_floor(name) >= own} == set()


def hook_floor(name: str) -> int:
    found = [number for number, names in enumerate(HOOK_FLOORS) if name in names]
    assert found, f"hooks.{name} is new: give it a floor in {Path(__file__).name}"
    return found[0]


@pytest.mark.parametrize("module", [name for name in MODULES if folder(name) in {"_schema", "errors", "types"}])
def test_what_is_pure_imports_no_driver(module: str) -> None:
    assert not {name.split(".")[0] for name in imported(module)} & {"pymongo", "gridfs"}


@pytest.mark.parametrize("name", ["changes", "pending", "live_records", "live_set", "live_tracking", "uploads"])
def test_what_is_pure_of_a_history_needs_no_server(name: str) -> None:
    module = f"_history.{name}"

    assert not {each.split(".")[0] for each in imported(module)} & {"pymongo", "gridfs", "threading"}
    assert own_imports(module) <= {"_schema", "_history", "errors", "types"}


# Collections and operators


@pytest.mark.parametrize("module", [name for name in CORE if folder(name) != "_stores"])
def test_nothing_but_a_store_touches_a_collection(module: str) -> None:
    assert touched(module) == set()


def test_the_rule_sees_collections() -> None:
    assert {"update_one", "aggregate"} <= touched("_stores.segments")
    assert "command" in touched("_stores.moving")


@pytest.mark.parametrize("module", [name for name in CORE if folder(name) != "_schema" and name != "_stores.indexes"])
def test_nothing_but_the_schema_names_an_operator(module: str) -> None:
    assert [text for text in strings(module) if re.match(r"\$+[a-zA-Z]", text)] == []


@pytest.mark.parametrize("module", [name for name in CORE if folder(name) != "_schema"])
def test_nothing_but_the_schema_builds_dotted_paths(module: str) -> None:
    pattern = re.compile(r"\$?(agents|multi_agents|agent_data|messages)\.|\.(agent_data|messages|state)\b")

    assert [text for text in strings(module) if pattern.match(text)] == []


def test_the_rule_sees_operators() -> None:
    assert {"$set", "$push", "$match"} <= {
        text for module in MODULES if folder(module) == "_schema" for text in strings(module)
    }


# Doors


REPOSITORY = [
    *("client", "collection", "namespace", "close"),
    *("create_session", "read_session", "delete_session"),
    *("create_agent", "read_agent", "update_agent"),
    *("read_agent_config", "update_agent_config", "list_agent_configs"),
    *("create_message", "read_message", "update_message", "list_messages", "count_messages"),
    *("update_metadata", "get_metadata", "delete_metadata"),
    *("add_feedback", "get_feedbacks"),
    *("create_multi_agent", "read_multi_agent", "update_multi_agent"),
]


def test_a_repository_has_the_verbs_of_the_sdk_and_those_for_users() -> None:
    with MongoClient[dict[str, Any]](connect=False) as client:
        repository = mongodb_session_manager.MongoDBSessionRepository(client=client)

        assert sorted(name for name in dir(repository) if not name.startswith("_")) == sorted(REPOSITORY)


def test_a_verb_of_the_repository_is_one_line_into_a_store() -> None:
    (door,) = (node for node in tree("mongodb_session_repository").body if isinstance(node, ast.ClassDef))
    verbs = [node for node in door.body if isinstance(node, ast.FunctionDef) and node.name in REPOSITORY[4:]]

    assert [verb.name for verb in verbs] == [*REPOSITORY[4:]]
    for verb in verbs:
        _, line = verb.body
        assert isinstance(line, ast.Expr | ast.Return)
        assert re.fullmatch(r"(return )?self\._stores\.\w+\.\w+\([\w, =]*\)", ast.unparse(line)), verb.name


@pytest.mark.parametrize("module", [module for module in MODULES if module != "__main__"])
def test_what_implements_an_interface_of_the_sdk_or_the_driver_is_marked(module: str) -> None:
    loaded = importlib.import_module(f"{NAME}.{module}".removesuffix(".__init__"))
    classes = [
        value for value in vars(loaded).values() if isinstance(value, type) and value.__module__ == loaded.__name__
    ]

    assert [name for each in classes for name in implemented(each) if not is_marked(vars(each)[name])] == []


def implemented(owner: type) -> list[str]:
    """The methods of a class that stand for one of the SDK or the driver."""
    theirs = [base for base in owner.__mro__ if base.__module__.split(".")[0] in {"strands", "pymongo"}]
    methods = [name for name, value in vars(owner).items() if getattr(value, "__name__", "__") == name]
    return [name for name in methods if name[:2] != "__" and any(name in vars(base) for base in theirs)]


def is_marked(method: Any) -> bool:
    return bool(getattr(method, "__override__", False))


def test_the_rule_sees_what_is_implemented() -> None:
    assert {"read_session", "create_message"} <= {*implemented(mongodb_session_manager.MongoDBSessionRepository)}
    assert {"initialize", "append_message"} <= {*implemented(mongodb_session_manager.MongoDBSessionManager)}
    assert not is_marked(mongodb_session_manager.MongoDBSessionManager.flush)


# Names


@pytest.mark.parametrize("module", [module for module in CORE if all_of(module) is not None])
def test_all_is_complete(module: str) -> None:
    public = {name for name in defined(module) if not name.startswith("_")}

    assert public <= set(all_of(module) or [])


@pytest.mark.parametrize("module", [module for module in MODULES if all_of(module) is not None])
def test_all_names_what_is_there(module: str) -> None:
    names = all_of(module) or []
    loaded = importlib.import_module(f"{NAME}.{module}".removesuffix(".__init__"))

    assert sorted(names) == sorted(set(names))
    assert [name for name in names if not hasattr(loaded, name)] == []


def test_the_front_door_has_a_literal_all() -> None:
    imports = {name.split(".")[-1] for name in imported("__init__") if name.split(".")[0] == NAME}

    assert set(all_of("__init__") or []) >= imports


@pytest.mark.parametrize(("module", "name"), EXISTING, ids=[name for _, name in EXISTING])
def test_a_fixed_name_is_at_the_front_door(module: str, name: str) -> None:
    value = getattr(mongodb_session_manager, name)

    assert value.__module__ == f"{NAME}.{module}"
    assert name in mongodb_session_manager.__all__


def test_the_version_is_a_string() -> None:
    assert re.fullmatch(r"\d+\.\d+\.\d+\S*", mongodb_session_manager.__version__)
