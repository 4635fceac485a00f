"""Mechanisms: classes that an experiment chooses by kind and name. A spec holds each as one canonical text.

A spec holds `depthwise` or, with fields that differ from their defaults, `depthwise(kernel_size=5)`; a file may write
`{name: depthwise, kernel_size: 5}`. A subclass of `Mechanism` that has a `name` registers itself when its module is
imported. Built-in modules are in PACKAGES; a user's code is imported only if an experiment declares it.
"""

from __future__ import annotations

import functools
import hashlib
import importlib
import importlib.metadata
import importlib.util
import json
import pkgutil
import re
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from contextvars import ContextVar
from pathlib import Path
from typing import Any, ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError, WithJsonSchema

from vitbench.base.errors import InputError, nearest

PACKAGES = (
    "vitbench.model.position",
    "vitbench.model.token_mixers",
    "vitbench.model.channel_mixers",
    "vitbench.model.readouts",
    "vitbench.model.stages",
    "vitbench.model.patch_embeds",
    "vitbench.train.objectives",
)
"""Packages whose modules hold one mechanism each. They load no torch at their top."""
ENTRY_POINTS = "vitbench.mechanisms"
NAME_OR_FIELDS = WithJsonSchema(
    {
        "anyOf": [
            {"type": "string"},
            {"type": "object", "properties": {"name": {"type": "string"}}, "required": ["name"]},
        ]
    }
)
"""The schema of a key that chooses a mechanism; it allows any name, because users may add mechanisms."""
_TEXT = re.compile(r"(?P<name>[A-Za-z][A-Za-z0-9_]*)(\((?P<fields>.*)\))?")


class MechanismError(InputError, ValueError):
    """A name or a field of a mechanism that does not exist or is not allowed; one line."""


class Mechanism(BaseModel):
    """A part that a user chooses by name; the fields of a subclass are its YAML keys and its identity.

    `kind` says which key of a spec chooses it. `source_sha256` is the hash of a user's file, None for a built-in.
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False, protected_namespaces=())

    kind: ClassVar[str]
    name: ClassVar[str]
    flat: ClassVar[frozenset[str]] = frozenset()
    """Its fields that a resolved spec holds beside the name, as in the first edition; the others are in its text."""
    source_sha256: ClassVar[str | None] = None

    @classmethod
    def __pydantic_init_subclass__(cls, **kwargs: Any) -> None:
        if "name" in vars(cls):
            _register(cls)

    def text(self) -> str:
        """The canonical text: the name, and the fields that differ from their defaults in alphabetical order."""
        fields = self.model_dump(mode="json", exclude_defaults=True)
        inside = ", ".join(f"{key}={json.dumps(value)}" for key, value in sorted(fields.items()))
        return f"{self.name}({inside})" if inside else self.name


_REGISTRY: dict[tuple[str, str], type[Mechanism]] = {}
_UNKNOWN_ALLOWED: ContextVar[bool] = ContextVar("unknown_names_allowed", default=False)
_LOADED: set[str] = set()
"""Declared code that was loaded."""
_NAMED: dict[tuple[str, str], Any] = {}
"""Mechanisms by kind and canonical text. A plain dictionary: torch.compile looks into it, and not into lru_cache."""
_LOADING: list[str] = []
"""Hashes of the user's files during their import; each class of a file records the file's hash."""


def _register(cls: type[Mechanism]) -> None:
    """Add a class. Raise InputError if its kind has another class of that name."""
    cls.source_sha256 = _LOADING[-1] if _LOADING else None
    other = _REGISTRY.get((cls.kind, cls.name))
    if other is not None and (other.__qualname__, other.source_sha256) != (cls.__qualname__, cls.source_sha256):
        raise InputError(
            f"{cls.kind} {cls.name!r}: {cls.__module__} and {other.__module__} both define it; rename one of them"
        )
    _REGISTRY[cls.kind, cls.name] = cls


@functools.cache
def _load_built_ins() -> None:
    for package_name in PACKAGES:
        package = importlib.import_module(package_name)
        for module in pkgutil.iter_modules(package.__path__):
            importlib.import_module(f"{package_name}.{module.name}")


def registered(kind: str) -> dict[str, type[Mechanism]]:
    """{name: class} of one kind, in alphabetical order."""
    _load_built_ins()
    return {name: cls for (of, name), cls in sorted(_REGISTRY.items()) if of == kind}


def is_registered(kind: str, text: str) -> bool:
    """True if the class of a canonical text is built in or its file was loaded."""
    _load_built_ins()
    return (kind, text.partition("(")[0]) in _REGISTRY


def class_of(kind: str, name: str) -> type[Mechanism]:
    """The class of a name. Raises MechanismError with the names that exist."""
    classes = registered(kind)
    if name not in classes:
        near = nearest(name, classes, 1)
        raise MechanismError(f"{name!r} is not allowed; allowed: {', '.join(classes)}{'.' + near if near else ''}")
    return classes[name]


def mechanism(kind: str, text: str) -> Any:
    """The mechanism that a canonical text names. Raises MechanismError in one line."""
    named = _NAMED.get((kind, text))
    if named is None:
        named = _NAMED[kind, text] = _read(kind, text)
    return named


def _read(kind: str, text: str) -> Mechanism:
    match = _TEXT.fullmatch(text)
    if match is None:
        raise MechanismError(f"{text!r} is not the name of a {kind.replace('_', ' ')}")
    fields = {}
    for part in re.findall(r"(\w+)=(\[[^\]]*\]|\"[^\"]*\"|[^,]+)(?:,\s*|$)", match["fields"] or ""):
        fields[part[0]] = json.loads(part[1])
    return _built(class_of(kind, match["name"]), fields)


def _built(cls: type[Mechanism], fields: Mapping[str, Any]) -> Mechanism:
    """An instance. Raises MechanismError that names the field, its value and what is allowed."""
    try:
        return cls.model_validate_json(json.dumps(dict(fields)))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        field = ".".join(str(part) for part in first["loc"])
        allowed = ", ".join(cls.model_fields) or "no fields"
        if first["type"] == "extra_forbidden":
            raise MechanismError(f"{cls.name} has no field {field!r}; it has {allowed}") from error
        raise MechanismError(f"{cls.name}.{field}: {first['msg'].lower()}, not {first['input']!r}") from error


@contextmanager
def unknown_names_allowed() -> Iterator[None]:
    """A context in which `canonical` keeps unregistered names, to read results without running their code."""
    token = _UNKNOWN_ALLOWED.set(True)
    try:
        yield
    finally:
        _UNKNOWN_ALLOWED.reset(token)


def canonical(kind: str, value: Any) -> Any:
    """The canonical text of a name or of `{name: ..., field: value}`; any other value unchanged.

    Raises MechanismError in one line.
    """
    if isinstance(value, Mapping):
        fields = {key: item for key, item in value.items() if key != "name"}
        if not isinstance(value.get("name"), str):
            raise MechanismError(f"needs a name, as in {{name: {next(iter(registered(kind)), 'x')}}}")
        return _built(class_of(kind, value["name"]), fields).text()
    if not isinstance(value, str):
        return value
    if _UNKNOWN_ALLOWED.get() and not is_registered(kind, value):
        return value
    return mechanism(kind, value).text()


def located_code(declared: Iterable[str], beside: Path) -> tuple[str, ...]:
    """The declared code with the paths of files made absolute, relative to the folder `beside`."""
    return tuple(str((beside / item).resolve()) if item.endswith(".py") else item for item in declared)


def load_code(declared: Iterable[str]) -> None:
    """Import the user's code that an experiment declares: a file's path, or the name of an installed entry point.

    This runs the code. Raises InputError if there is no such file or entry point, or if its import fails.
    """
    _load_built_ins()
    for item in declared:
        if item.endswith(".py"):
            _load_file(Path(item).resolve())
        else:
            _load_entry_point(item)
        _LOADED.add(item)


def refuse_unloaded(where: str, declared: Iterable[str]) -> None:
    """Raise InputError if code that an experiment declares was not loaded: reading results never runs it."""
    if missing := [item for item in declared if item not in _LOADED]:
        raise InputError(
            f"{where}: uses your code ({', '.join(missing)}), and reading results runs none; "
            "`vitbench plan FILE`, with the experiment's file, runs it"
        )


def _load_file(path: Path) -> None:
    if not path.is_file():
        raise InputError(f"uses_code: no file {path}")
    source = path.read_bytes()
    sha256 = hashlib.sha256(source).hexdigest()
    name = f"vitbench_user_{sha256[:16]}"
    if name in sys.modules:
        return
    spec = importlib.util.spec_from_file_location(name, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    _LOADING.append(sha256)
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        del sys.modules[name]
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"uses_code: {path} cannot be imported ({reason})") from error
    finally:
        _LOADING.pop()


def _load_entry_point(name: str) -> None:
    points = {point.name: point for point in importlib.metadata.entry_points(group=ENTRY_POINTS)}
    if name not in points:
        installed = ", ".join(points) or "none is installed"
        raise InputError(f"uses_code: {name!r} is neither a .py file nor an entry point {ENTRY_POINTS} ({installed})")
    module_name = points[name].module
    _LOADING.append(_installed_sha256(name, module_name.partition(".")[0]))
    try:
        importlib.import_module(module_name)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise InputError(f"uses_code: {name} cannot be imported ({reason})") from error
    finally:
        _LOADING.pop()


def _installed_sha256(name: str, package: str) -> str:
    """Hash of the source of an installed module, or of every Python file of an installed package; nothing is run."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        raise InputError(f"uses_code: {name}: there is no module {package}")
    folders = [Path(folder) for folder in spec.submodule_search_locations or ()]
    if not folders:
        return hashlib.sha256(Path(spec.origin).read_bytes()).hexdigest()
    digest = hashlib.sha256()
    for folder in folders:
        for path in sorted(folder.rglob("*.py")):
            digest.update(f"{path.relative_to(folder).as_posix()}\n".encode() + path.read_bytes())
    return digest.hexdigest()


def source_hashes(texts: Iterable[tuple[str, str]]) -> dict[str, str]:
    """{kind: sha256 of the user's file} of the chosen mechanisms (kind, text) that are not built in."""
    classes = {kind: type(mechanism(kind, text)) for kind, text in texts}
    return {kind: cls.source_sha256 for kind, cls in classes.items() if cls.source_sha256 is not None}
