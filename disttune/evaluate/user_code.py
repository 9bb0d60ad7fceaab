"""The user's functions: loading them from a file, naming the line that failed, and their digest.

A file is imported under a name made of its path and content, with its folder on `sys.path` (which
stays there: a function may import its siblings when it is called). It is never compiled to disk, so
an edit within the same second cannot be missed.
"""

import ast
import hashlib
import importlib.util
import inspect
import sys
import traceback
from collections.abc import Callable, Iterable, Mapping
from importlib.machinery import SourceFileLoader
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any

from disttune.config.errors import UserCodeError
from disttune.config.nearest import unknown_name

_MESSAGE_CHARACTERS = 500


def load_function(
    reference: str, folder: Path, n_arguments: int | None = 1, where: str = "evaluation.function"
) -> Callable[..., Any]:
    """Import the function that a job file names.

    Args:
        reference: "path/file.py:name"; a relative path is looked up in `folder`.
        folder: of the job file.
        n_arguments: positional arguments it will be called with (1: the model of an evaluation
            function, 0: a calibration loader); None leaves that unchecked.
        where: the key that holds the reference, for messages.
    Raises:
        UserCodeError: no such file or function, the import failed, or the function cannot be called
            with that many arguments.
    """
    file_name, _, name = reference.rpartition(":")
    if not file_name.endswith(".py") or not name.isidentifier():
        raise UserCodeError(f'{where} = "{reference}": expected "file.py:function"')
    path = code_file(reference, folder)
    place = f'{where} = "{shown_path(path, folder)}:{name}"'
    if not path.is_file():
        near = [p.name for p in path.parent.glob("*.py")]
        raise UserCodeError(f"{place}: {path.parent} has {unknown_name('file', path.name, near)}")
    module = _import_file(path, place)
    if not hasattr(module, name):
        functions = [n for n, v in vars(module).items() if callable(v) and _defined_in(v, module)]
        raise UserCodeError(f"{place}: the file has {unknown_name('function', name, functions)}")
    function: Callable[..., Any] = getattr(module, name)
    check_callable(function, n_arguments, place)
    return function


def code_file(reference: str, folder: Path) -> Path:
    """The file of a "file.py:name" reference, made absolute."""
    return (folder / reference.rpartition(":")[0]).absolute()


def source_file(function: object) -> Path | None:
    """The file that a function object comes from, where it is known."""
    code = getattr(function, "__code__", None)
    return Path(code.co_filename) if code else None


def shown_path(path: Path, folder: Path) -> str:
    """A path as users write it: relative to the job's folder where it lies below."""
    absolute, root = path.absolute(), folder.absolute()
    return absolute.relative_to(root).as_posix() if absolute.is_relative_to(root) else str(path)


def check_callable(function: object, n_arguments: int | None, where: str) -> None:
    """See to it that something can be called with so many positional arguments.

    Raises:
        UserCodeError: it is not callable, takes other arguments, or would return a generator or
            coroutine instead of a number.
    """
    if not callable(function):
        raise UserCodeError(f"{where} is of type {type(function).__name__}, not a function")
    if n_arguments is None:
        return
    if inspect.iscoroutinefunction(function):
        raise UserCodeError(f"{where} is an `async def`; a plain function is needed")
    if n_arguments == 1 and inspect.isgeneratorfunction(function):
        raise UserCodeError(f"{where} contains `yield`; it must `return` its metric")
    try:
        signature = inspect.signature(function)
    except (TypeError, ValueError):  # some builtins have none
        return
    try:
        signature.bind(*[None] * n_arguments)
    except TypeError as error:
        needed = "no argument" if n_arguments == 0 else "one argument, the model"
        raise UserCodeError(
            f"{where} must be callable with {needed}, but its signature is {signature} ({error}); "
            "give the other parameters defaults"
        ) from None


def code_digest(paths: Iterable[Path], folder: Path | None = None) -> str:
    """32 hexadecimal digits over files: see `files_digest`.

    Args:
        paths: files to read.
        folder: names count relative to it; without it only the file names count.
    """
    names = ((p.relative_to(folder).as_posix() if folder else p.name, p) for p in paths)
    return files_digest({name: path.read_bytes() for name, path in names})


def files_digest(files: Mapping[str, bytes]) -> str:
    """32 hexadecimal digits over named files, in any order.

    Of Python files the syntax tree counts (comments and layout do not, docstrings do), of others,
    and of Python files that cannot be parsed, every byte.

    Args:
        files: contents by relative name.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name in sorted(files):
        part = _syntax_bytes(files[name]) if name.endswith(".py") else files[name]
        for piece in (name.encode(), part):
            digest.update(len(piece).to_bytes(8, "little"))
            digest.update(piece)
    return digest.hexdigest()


def failed_line(error: BaseException, file: str | Path | None = None) -> str:
    """Where in the user's code an exception came from, e.g. "eval.py, line 12", or "".

    Args:
        error: with its traceback.
        file: the user's code file. The last frame in its folder or below (outside of installed
            packages) counts, else the last frame of all.
    """
    if isinstance(error, SyntaxError) and error.filename:
        return f"{_short(error.filename, file)}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    users = [f for f in frames if file and _is_users(f.filename, Path(file).parent)]
    for frame in (users or frames)[-1:]:
        return f"{_short(frame.filename, file)}, line {frame.lineno}"
    return ""


def describe_exception(error: BaseException, file: str | Path | None = None) -> str:
    """One line for an exception, e.g. "ValueError: bad shape (eval.py, line 12)"."""
    text = error.msg if isinstance(error, SyntaxError) else str(error)  # the former repeats file and line
    text = " ".join(text.split())
    if len(text) > _MESSAGE_CHARACTERS:
        text = text[:_MESSAGE_CHARACTERS] + " ..."
    line = failed_line(error, file)
    return type(error).__name__ + (f": {text}" if text else "") + (f" ({line})" if line else "")


class _UncachedLoader(SourceFileLoader):
    """Compiles from source each time: cached bytecode is compared by whole seconds only."""

    def get_code(self, fullname: str) -> CodeType:
        path = self.get_filename(fullname)
        code: CodeType = self.source_to_code(self.get_data(path), path)
        return code


def _import_file(path: Path, where: str) -> ModuleType:
    key = hashlib.blake2b(str(path).encode() + b"\0" + path.read_bytes(), digest_size=6).hexdigest()
    name = f"disttune_user_{path.stem}_{key}"
    if name in sys.modules:
        return sys.modules[name]
    if str(path.parent) not in sys.path:
        sys.path.insert(0, str(path.parent))
    spec = importlib.util.spec_from_file_location(name, path, loader=_UncachedLoader(name, str(path)))
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        missing = error.name if isinstance(error, ModuleNotFoundError) else None
        mend = f"; install {missing} where every rank runs, or put it beside {path.name}" if missing else ""
        raise UserCodeError(f"{where}: import failed: {describe_exception(error, path)}{mend}") from error
    return module


def _defined_in(value: object, module: ModuleType) -> bool:
    return getattr(value, "__module__", None) == module.__name__


def _is_users(file_name: str, folder: Path) -> bool:
    try:
        return "site-packages" not in Path(file_name).relative_to(folder).parts
    except ValueError:
        return False


def _short(file_name: str, file: str | Path | None) -> str:
    if file and _is_users(file_name, Path(file).parent):
        return Path(file_name).relative_to(Path(file).parent).as_posix()
    return Path(file_name).name


def _syntax_bytes(source: bytes) -> bytes:
    try:
        return repr(_syntax(ast.parse(source))).encode("utf-8", "surrogatepass")
    except (SyntaxError, ValueError, RecursionError):
        return source


def _syntax(node: Any) -> Any:
    """Nested tuples of a syntax tree without positions. Not `ast.dump`: what that leaves out differs
    between versions of Python, and a job may be resumed under another one."""
    if isinstance(node, ast.AST):
        fields = ((name, _syntax(value)) for name, value in ast.iter_fields(node))
        return (type(node).__name__, *((n, v) for n, v in fields if v not in (None, ())))
    return tuple(_syntax(n) for n in node) if isinstance(node, list) else node
