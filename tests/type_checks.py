"""Types of arguments and results are checked as the tests run, by beartype and jaxtyping.

jaxtyping's own import hook checks the same, but makes two checkers for every function as it is imported, and again for
each function that is defined within a call. Here they are made at the first call, once for all functions of the same
code, and arrays' axes are followed only where hints name them.
"""

import ast
import dataclasses
import functools
import importlib.machinery
import inspect
import sys
import typing
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from types import CodeType, FunctionType, ModuleType
from typing import Any, NamedTuple

from beartype import beartype
from jaxtyping import AbstractArray, TypeCheckError, jaxtyped

NAME = "__checked_by_tests__"
# What this file makes of a module is kept beside its bytecode, under a name of its own.
KEPT = f".types-{zlib.crc32(Path(__file__).read_bytes()):08x}.pyc"


class Checks(NamedTuple):
    """What is asked of one function's arguments and of its result; the code holds their place in `made`."""

    code: CodeType
    arguments: Callable[..., None] | None  # None where nothing is asked
    result: Callable[[Any], None] | None
    axes: bool  # some hint names axes of arrays, which must agree within a call


made: dict[int, Checks] = {}


def checked(thing: Any) -> Any:
    """A function that checks what it is given and returns, or a class whose generated ``__init__`` does."""
    if isinstance(thing, type):
        init = vars(thing).get("__init__")
        if dataclasses.is_dataclass(thing) and init and not hasattr(init, "__wrapped__"):
            thing.__init__ = checked(init)
        return thing
    if not thing.__annotations__:
        return thing
    code = thing.__code__

    @functools.wraps(thing)
    def call(*args, **kwargs):
        __tracebackhide__ = True
        checks = made.get(id(code)) or made.setdefault(id(code), _checks(thing))
        if checks.axes:
            with jaxtyped("context"):
                return _call(checks, thing, args, kwargs)
        return _call(checks, thing, args, kwargs)

    return call


# Called millions of times in a session: no more layers than this one.
def _call(checks: Checks, function: Callable, args: tuple, kwargs: dict) -> Any:
    __tracebackhide__ = True
    try:
        if checks.arguments is not None:
            checks.arguments(*args, **kwargs)
    except Exception as error:
        raise TypeCheckError(str(error)) from error
    result = function(*args, **kwargs)
    try:
        if checks.result is not None:
            checks.result(result)
    except Exception as error:
        raise TypeCheckError(str(error)) from error
    return result


def _checks(function: FunctionType) -> Checks:
    """The checks of a function, and of all others with its code."""
    hints = {
        name: _resolved(hint, function.__globals__)
        for name, hint in function.__annotations__.items()
    }
    axes = any(map(_names_axes, hints.values()))
    has_result = "return" in hints
    result = hints.pop("return", Any)
    arguments = _stub(function, str(_bare(inspect.signature(function))), hints)
    arguments.__defaults__ = function.__defaults__
    arguments.__kwdefaults__ = function.__kwdefaults__
    returned = _stub(function, "(result)", {"result": result}) if has_result else None
    return Checks(function.__code__, _checker(arguments), returned and _checker(returned), axes)


def _bare(signature: inspect.Signature) -> inspect.Signature:
    """Names and kinds alone; a default only says that there is one."""
    parameters = [
        p.replace(annotation=p.empty, default=p.default if p.default is p.empty else None)
        for p in signature.parameters.values()
    ]
    return signature.replace(parameters=parameters, return_annotation=signature.empty)


def _stub(function: FunctionType, parameters: str, hints: dict[str, Any]) -> FunctionType:
    """A function that does nothing, for beartype to put its checks around; it bears the other's name."""
    names: dict[str, Any] = {}
    exec(f"def stub{parameters}: pass", names)
    stub = names["stub"]
    stub.__name__, stub.__qualname__ = function.__name__, function.__qualname__
    stub.__module__ = function.__module__
    stub.__annotations__ = hints
    return stub


def _checker(stub: FunctionType) -> Callable[..., None] | None:
    """Beartype's check; None where no hint says anything, as it returns what it was given then."""
    check = beartype(stub)
    return None if check is stub else check


def _resolved(hint: Any, names: dict[str, Any]) -> Any:
    """A hint without strings; any type where a name is known to the type checker only."""

    def holder(): ...

    holder.__annotations__ = {"hint": hint}
    try:
        return typing.get_type_hints(holder, names, include_extras=True)["hint"]
    except Exception:
        return Any


def _names_axes(hint: Any) -> bool:
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return True
    return any(map(_names_axes, typing.get_args(hint)))


class Decorate(ast.NodeTransformer):
    """Puts `checked` at every function and class, but for those within ``no_type_check``."""

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        # Innermost: other decorators may return what is no function, or drop the annotations.
        return self._decorated(node, len(node.decorator_list))

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        # Outermost: ``dataclass`` generates the ``__init__`` first.
        return self._decorated(node, 0)

    def _decorated(self, node: ast.FunctionDef | ast.ClassDef, place: int) -> ast.AST:
        if any("no_type_check" in ast.unparse(d) for d in node.decorator_list):
            return node
        self.generic_visit(node)
        node.decorator_list.insert(place, ast.copy_location(ast.Name(NAME, ast.Load()), node))
        return node


class Loader(importlib.machinery.SourceFileLoader):
    """Loads a module with its functions decorated."""

    def source_to_code(self, data, path, *, _optimize=-1):
        tree = Decorate().visit(ast.parse(data, path))
        return compile(tree, path, "exec", dont_inherit=True, optimize=_optimize)

    def exec_module(self, module: ModuleType) -> None:
        setattr(module, NAME, checked)
        super().exec_module(module)

    def get_data(self, path: str) -> bytes:
        return super().get_data(_kept(path))

    def set_data(self, path: str, data: bytes, **options: Any) -> None:
        super().set_data(_kept(path), data, **options)


def _kept(path: str) -> str:
    return path.removesuffix(".pyc") + KEPT if path.endswith(".pyc") else path


class Finder(importlib.machinery.PathFinder):
    """Finds the modules of one package for `Loader`."""

    def __init__(self, package: str) -> None:
        self.package = package

    def find_spec(self, fullname: str, path: Sequence[str] | None = None, target=None):
        if fullname != self.package and not fullname.startswith(f"{self.package}."):
            return None
        spec = super().find_spec(fullname, path, target)
        if spec is not None and type(spec.loader) is importlib.machinery.SourceFileLoader:
            spec.loader = Loader(spec.loader.name, spec.loader.path)
        return spec


def install(package: str) -> None:
    """From now on, a package's modules are checked; none of them may be imported yet."""
    assert package not in sys.modules, f"{package} is imported already: its types go unchecked"
    sys.meta_path.insert(0, Finder(package))
