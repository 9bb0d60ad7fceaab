"""Digest of the functions a script hands over: their code, and what of the user's they use.

Counted are the syntax of the functions, of the user's functions, classes and modules they refer to, and the
plain values (numbers, text, arrays and containers of them) among their globals, closures, defaults and
attributes. Installed packages and other objects (sessions, open files) are not; nor are globals that the
module's functions change (counters) and those set from a clock.
"""

import ast
import functools
import inspect
import linecache
import sys
import sysconfig
import textwrap
from collections.abc import Iterator
from pathlib import Path
from types import CodeType, FunctionType, MethodType, ModuleType
from typing import Any

from disttune.evaluate.user_code import files_digest

MAX_ITEMS = 10_000  # of a container that count; beyond that its length
PLAIN = (bool, int, float, complex, str, bytes)
CLOCKS = frozenset({"time", "time_ns", "monotonic", "perf_counter", "process_time", "now", "utcnow", "today"})
PACKAGE_FOLDERS = frozenset({"site-packages", "dist-packages"})


def functions_digest(handed: object, containers: bool = True) -> str:
    """32 hexadecimal digits over functions, alone or in dicts and lists.

    Args:
        handed: what `autotune` was given as `eval_fn`.
        containers: whether lists, dicts and sets that the functions use count; not where the functions
            run in this process, for they may collect something there.
    """
    walk = _Walk(containers)
    if isinstance(handed, dict | list | tuple):
        walk.container("eval_fn", handed)
    else:
        walk.visit("eval_fn", handed)
    return files_digest(walk.parts)


def used_by(function: object) -> Iterator[tuple[str, Any]]:
    """Name and value of what a callable refers to: globals, closure, defaults, attributes, arguments."""
    if isinstance(function, functools.partial):
        yield "func", function.func
        yield from ((f"args[{i}]", v) for i, v in enumerate(function.args))
        yield from function.keywords.items()
    elif isinstance(function, MethodType):
        yield function.__name__, function.__func__
        yield "self", function.__self__
    elif isinstance(function, FunctionType):
        names = _names(function.__code__)
        changing = _changing_globals(function)
        yield from (
            (n, function.__globals__[n]) for n in names if n in function.__globals__ and n not in changing
        )
        for name, cell in zip(function.__code__.co_freevars, function.__closure__ or (), strict=True):
            if (value := _content(cell)) is not None:
                yield name, value
        yield from ((f"default {i}", v) for i, v in enumerate(function.__defaults__ or ()))
        yield from (function.__kwdefaults__ or {}).items()
    elif not isinstance(function, type) and hasattr(function, "__dict__"):
        yield from vars(function).items()


def is_users(value: object) -> bool:
    """Whether a function, class or module comes from the user's code, not from an installed package."""
    name = value.__name__ if isinstance(value, ModuleType) else getattr(value, "__module__", None)
    module = sys.modules.get(name or "")
    file = getattr(module, "__file__", None)
    if module is None or name == "__main__":
        return True
    if file is None:
        return False
    installed = [sysconfig.get_path(kind) for kind in ("purelib", "platlib", "stdlib", "platstdlib")]
    return not PACKAGE_FOLDERS.intersection(Path(file).parts) and not any(
        Path(file).is_relative_to(place) for place in installed
    )


class _Walk:
    def __init__(self, containers: bool):
        self.parts: dict[str, bytes] = {}
        self._containers = containers
        self._seen: dict[int, object] = {}  # kept alive, so that no other object gets its id

    def visit(self, name: str, value: object) -> None:
        if isinstance(value, dict | list | tuple | set | frozenset):
            if self._containers:
                self.container(name, value)
        elif isinstance(value, ModuleType):
            self._module(name, value)
        elif isinstance(value, type):
            if is_users(value):
                self.parts[f"{name}.py"] = _source(value)
        elif callable(value) or is_users(type(value)):
            self._object(name, value)
        else:
            self._value(name, value)

    def container(self, name: str, value: Any) -> None:
        if id(value) in self._seen:
            return
        self._seen[id(value)] = value
        self.parts[f"{name}#"] = str(len(value)).encode()
        for key, item in _items(value)[:MAX_ITEMS]:
            if isinstance(item, dict | list | tuple | set | frozenset):
                self.container(f"{name}[{key}]", item)
            else:
                self.visit(f"{name}[{key}]", item)

    def _module(self, name: str, module: ModuleType) -> None:
        file = getattr(module, "__file__", None)
        if is_users(module) and file is not None and Path(file).is_file():
            self.parts[f"{name}.py"] = Path(file).read_bytes()

    def _object(self, name: str, thing: Any) -> None:
        """A function, or an object of a class of the user's."""
        wraps = isinstance(thing, functools.partial | MethodType)
        if id(thing) in self._seen or not (wraps or is_users(thing)):
            return
        self._seen[id(thing)] = thing
        if not wraps:
            self.parts[f"{name}.py"] = _source(thing)
        for used, value in used_by(thing):
            self.visit(f"{name}.{used}", value)

    def _value(self, name: str, value: object) -> None:
        if value is None or isinstance(value, PLAIN):
            self.parts[name] = repr(value).encode("utf-8", "surrogatepass")
        elif hasattr(value, "tobytes") and hasattr(value, "dtype"):
            head = f"{value.dtype}{getattr(value, 'shape', ())}"
            self.parts[name] = head.encode() + (b"" if value.dtype.hasobject else value.tobytes())


def _items(value: Any) -> list[tuple[object, object]]:
    """Entries of a container, in an order that does not change from one process to the next."""
    if isinstance(value, dict):
        return [(repr(key), item) for key, item in value.items()]
    return list(enumerate(sorted(value, key=repr) if isinstance(value, set | frozenset) else value))


def _source(thing: Any) -> bytes:
    """Source of a function or class; code of what has none (and of a lambda, whose lines hold more)."""
    if not isinstance(thing, FunctionType | type):
        thing = type(thing)
    try:
        if thing.__name__ != "<lambda>":
            # a wrapper's own code, not that of the wrapped
            lines = inspect.getsource(thing) if isinstance(thing, type) else _lines_of(thing.__code__)
            return textwrap.dedent(lines).encode()
    except (OSError, TypeError):
        pass
    if isinstance(thing, FunctionType):
        return _code(thing.__code__)
    code = [(n, _source(v)) for n, v in vars(thing).items() if isinstance(v, FunctionType)]
    plain = [(n, v) for n, v in vars(thing).items() if isinstance(v, PLAIN) and not n.startswith("__")]
    return repr((code, plain)).encode("utf-8", "surrogatepass")


def _lines_of(code: CodeType) -> str:
    """As `inspect.getsource`, which first goes through every imported module to find the file."""
    lines = linecache.getlines(code.co_filename)
    if len(lines) < code.co_firstlineno:
        return inspect.getsource(code)
    return "".join(inspect.getblock(lines[code.co_firstlineno - 1 :]))


def _code(code: CodeType) -> bytes:
    """What a code object does, without its lines."""
    constants = b"".join(
        _code(c) if isinstance(c, CodeType) else repr(_items(c) if isinstance(c, frozenset) else c).encode()
        for c in code.co_consts
    )
    return code.co_code + repr((code.co_names, code.co_varnames, code.co_freevars)).encode() + constants


def _names(code: CodeType) -> tuple[str, ...]:
    """Names that a code object, or one inside it, looks up."""
    inner = (n for c in code.co_consts if isinstance(c, CodeType) for n in _names(c))
    return tuple(dict.fromkeys((*code.co_names, *inner)))


@functools.cache
def _changing_names(file: str) -> frozenset[str]:
    """Globals of a module that its functions rebind, or that are set from a clock."""
    try:
        tree = ast.parse("".join(linecache.getlines(file)))
    except (SyntaxError, ValueError, RecursionError):
        return frozenset()
    rebound = {name for node in ast.walk(tree) if isinstance(node, ast.Global) for name in node.names}
    timed = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign) and any(_asks_a_clock(part) for part in ast.walk(node.value))
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    return frozenset(rebound | timed)


def _asks_a_clock(node: ast.AST) -> bool:
    """Whether it is a call like `time.time()`, `perf_counter()` or `datetime.datetime.now()`."""
    if not isinstance(node, ast.Call):
        return False
    function = node.func
    name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
    return name in CLOCKS


def _changing_globals(function: FunctionType) -> frozenset[str]:
    """What a function's module changes while it runs says nothing about its code."""
    return _changing_names(function.__code__.co_filename)


def _content(cell: Any) -> Any:
    try:
        return cell.cell_contents
    except ValueError:  # not assigned yet
        return None
