"""`Var[T]`: the handle of a semantic variable, and the trees of values in which Vars may stand.

Owns projection (`v.field`, `v[0]`), awaiting, fan-in (`gather`, `first`) and the walk from a tree to the wire's
expressions. Never talks to the server: values come from the program behind the Var.
"""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Awaitable, Callable, Generator, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Generic, NoReturn, TypeVar, overload

from pydantic import BaseModel

from tenuto.context import Program
from tenuto.errors import CallFailed, ForeignVar, NoneSucceeded
from tenuto.typed import Typed
from tenuto.wire import Constant, DictExpr, Expr, ListExpr, Reference

T = TypeVar("T")
T1 = TypeVar("T1")
T2 = TypeVar("T2")
T3 = TypeVar("T3")
T4 = TypeVar("T4")
T5 = TypeVar("T5")

Composite = list[Any] | tuple[Any, ...]


class Handle:
    """What a `Var` is at run time: a reference with its type, or a list of values gathered into one.

    Its value does not exist yet, so everything that would need it raises a `TypeError` that says to `await`.
    Own attributes start with `_`: every other name is a part of the value.
    """

    __slots__ = ("_node", "_program", "_typed")

    def __init__(self, program: Program, node: Reference | Composite, typed: Typed) -> None:
        self._program = program
        self._node = node
        self._typed = typed

    def __repr__(self) -> str:
        if not isinstance(self._node, Reference):
            return f"<Var {self._node!r}>"
        path = "".join(f"[{step}]" if isinstance(step, int) else f".{step}" for step in self._node.path)
        return f"<Var {self._node.variable}{path}: {self._typed!r}>"

    def __await__(self) -> Generator[Any, None, Any]:
        return resolve(self).__await__()

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(name)
        return self._project(name)

    def __getitem__(self, key: str | int) -> Any:
        return self._project(key)

    def _project(self, key: str | int) -> Any:
        if not isinstance(key, str | int) or isinstance(key, bool):
            raise TypeError(
                f"{self!r}[{key!r}]: a part is named by a string or an index; `await` the Var for anything else"
            )
        node = self._node
        if isinstance(node, Reference):
            json_key, typed = self._typed.part(key)
            return Var(self._program, Reference(variable=node.variable, path=(*node.path, json_key)), typed)
        if isinstance(key, str):
            raise TypeError(f"{self!r} is a list and has no field {key!r}")
        if not -len(node) <= key < len(node):
            raise TypeError(f"index {key} is beyond the {len(node)} items of {self!r}")
        return node[key]

    def _needed(self, use: str) -> NoReturn:
        raise TypeError(f"{use} needs the value of {self!r}, which is not there yet: `await` it first")

    def __bool__(self) -> NoReturn:
        self._needed("a truth test (if, while, and, or, not)")

    def __str__(self) -> NoReturn:
        self._needed("str() or an f-string")

    def __format__(self, spec: str) -> NoReturn:
        self._needed("an f-string or format()")

    def __iter__(self) -> NoReturn:
        self._needed("iteration or unpacking")

    def __len__(self) -> NoReturn:
        self._needed("len()")

    def __contains__(self, item: object) -> NoReturn:
        self._needed("`in`")

    def __eq__(self, other: object) -> NoReturn:
        self._needed("a comparison")

    def __call__(self, *args: object, **kwargs: object) -> NoReturn:
        self._needed("a method or call")

    def __hash__(self) -> int:
        return id(self)


def _refuse_operators() -> None:
    def refused(name: str) -> Callable[..., NoReturn]:
        def operator(self: Handle, *_: object) -> NoReturn:
            self._needed(f"`{name}`")

        operator.__name__ = name
        return operator

    binary = "add sub mul truediv floordiv mod pow matmul and or xor lshift rshift divmod".split()  # noqa: SIM905
    other = "ne lt le gt ge neg pos abs invert int float complex index round".split()  # noqa: SIM905
    names = [*binary, *(f"r{name}" for name in binary), *other]
    for name in names:
        setattr(Handle, f"__{name}__", refused(f"__{name}__"))


_refuse_operators()

if TYPE_CHECKING:

    class Var(Awaitable[T], Any):  # type: ignore[misc]  # the base Any lets a Var stand wherever its value may
        """The handle of a T that a call will write. `await` gives the value; passing it on makes an edge."""

        def __init__(self, program: Program, node: Reference | Composite, typed: Typed) -> None: ...
        def __await__(self) -> Generator[Any, None, T]: ...
        def __getattr__(self, name: str) -> Var[Any]: ...
        def __getitem__(self, key: str | int) -> Var[Any]: ...

else:

    class Var(Handle, Generic[T]):
        """The handle of a T that a call will write. `await` gives the value; passing it on makes an edge."""

        __slots__ = ()


def children(tree: Any) -> Iterable[Any]:
    """What a tree's node holds; nothing for a leaf. Gathered Vars are nodes."""
    if isinstance(tree, Handle):
        return () if isinstance(tree._node, Reference) else tree._node
    if isinstance(tree, list | tuple):
        return tree
    if isinstance(tree, Mapping):
        return tree.values()
    if isinstance(tree, BaseModel):
        return [value for _, value in tree]
    if dataclasses.is_dataclass(tree) and not isinstance(tree, type):
        return [getattr(tree, field.name, None) for field in dataclasses.fields(tree)]
    return ()


def handles(tree: Any) -> Iterator[Handle]:
    """Every Var in a tree that refers to a variable, in order."""
    stack = [tree]
    while stack:
        node = stack.pop()
        if isinstance(node, Handle) and isinstance(node._node, Reference):
            yield node
        else:
            stack.extend(reversed(list(children(node))))


def holds_vars(tree: Any) -> bool:
    """Whether a tree holds any Var, gathered or not."""
    return isinstance(tree, Handle) or next(handles(tree), None) is not None


def check_owner(program: Program, tree: Any, where: str) -> None:
    """Raise `ForeignVar` if the tree holds a Var of another program."""
    for handle in handles(tree):
        if handle._program is not program:
            raise ForeignVar(f"{where}: {handle!r} belongs to another program; `await` it there and pass its value")


def expression(tree: Any, dump: Callable[[Any], Any]) -> Expr:
    """The wire's expression of a tree; `dump` gives the JSON form of what holds no Var."""
    if isinstance(tree, Handle):
        if isinstance(tree._node, Reference):
            return tree._node
        return ListExpr(items=tuple(expression(item, dump) for item in tree._node))
    if not holds_vars(tree):
        return Constant(value=dump(tree))
    if isinstance(tree, list | tuple):
        return ListExpr(items=tuple(expression(item, dump) for item in tree))
    return DictExpr(items={key: expression(value, dump) for key, value in entries(tree).items()})


def entries(tree: Any) -> dict[str, Any]:
    """The object form of a dict, pydantic model or dataclass, one level deep. Raises `TypeError` for keys not text."""
    if isinstance(tree, BaseModel):
        fields = type(tree).model_fields
        keys = {name: field.serialization_alias or field.alias or name for name, field in fields.items()}
        return {keys.get(name, name): value for name, value in tree}
    if isinstance(tree, Mapping):
        for key in tree:
            if not isinstance(key, str):
                raise TypeError(f"an object with Vars needs string keys, not {key!r}")
        return dict(tree)
    return {field.name: getattr(tree, field.name) for field in dataclasses.fields(tree)}


async def resolve(tree: Any) -> Any:
    """The tree with every Var replaced by its typed value. Raises `CallFailed` as soon as one of them has failed."""
    found = list(handles(tree))
    owners = {id(handle._program): handle._program for handle in found}
    values: dict[tuple[int, str], Any] = {}
    for owner in owners.values():
        names = list(dict.fromkeys(variable_of(handle) for handle in found if handle._program is owner))
        values |= {(id(owner), name): value for name, value in zip(names, await owner.values(names), strict=True)}
    return substitute(tree, lambda handle: pick(handle, values[id(handle._program), variable_of(handle)]))


def variable_of(handle: Handle) -> str:
    """The variable that a Var refers to (gathered Vars refer to none: see `handles`)."""
    assert isinstance(handle._node, Reference)
    return handle._node.variable


def pick(handle: Handle, value: Any) -> Any:
    """A Var's typed value out of its variable's JSON value. Raises `CallFailed` if it lacks the part."""
    assert isinstance(handle._node, Reference)
    for step in handle._node.path:
        try:
            value = value[step]
        except (KeyError, IndexError, TypeError):
            raise CallFailed("no_such_part", f"{handle!r}: the value has no {step!r}", handle._node.variable) from None
    return handle._typed.load(value)


def substitute(tree: Any, value_of: Callable[[Handle], Any]) -> Any:
    """Rebuild a tree with its Vars replaced; parts without Vars stay the very objects they are."""
    if isinstance(tree, Handle):
        if isinstance(tree._node, Reference):
            return value_of(tree)
        return type(tree._node)(substitute(item, value_of) for item in tree._node)
    if not holds_vars(tree):
        return tree
    if isinstance(tree, tuple) and hasattr(tree, "_fields"):
        return type(tree)(*(substitute(item, value_of) for item in tree))
    if isinstance(tree, list | tuple):
        return type(tree)(substitute(item, value_of) for item in tree)
    if isinstance(tree, BaseModel):
        return type(tree).model_validate({key: substitute(value, value_of) for key, value in entries(tree).items()})
    if isinstance(tree, Mapping):
        return {key: substitute(value, value_of) for key, value in tree.items()}
    given = {
        field.name: substitute(getattr(tree, field.name), value_of) for field in dataclasses.fields(tree) if field.init
    }
    return dataclasses.replace(tree, **given)


@overload
def gather(vars: Iterable[Var[T]], /) -> Var[list[T]]: ...
@overload
def gather(a: Var[T1], b: Var[T2], /) -> Var[tuple[T1, T2]]: ...
@overload
def gather(a: Var[T1], b: Var[T2], c: Var[T3], /) -> Var[tuple[T1, T2, T3]]: ...
@overload
def gather(a: Var[T1], b: Var[T2], c: Var[T3], d: Var[T4], /) -> Var[tuple[T1, T2, T3, T4]]: ...
@overload
def gather(a: Var[T1], b: Var[T2], c: Var[T3], d: Var[T4], e: Var[T5], /) -> Var[tuple[T1, T2, T3, T4, T5]]: ...
@overload
def gather(*vars: Var[T]) -> Var[tuple[T, ...]]: ...
def gather(*vars: Any) -> Any:
    """Many Vars as one, in the order given: `gather(vars)` of a list, `gather(a, b)` of a tuple.

    `await` waits for all, and raises `CallFailed` as soon as one has failed (the others go on). Passed on
    un-awaited it is a fan-in: the consumer starts when the last of them is there.
    """
    items: Composite = vars
    if len(vars) == 1 and not (isinstance(vars[0], Handle) and isinstance(vars[0]._node, Reference)):
        items = list(vars[0]._node if isinstance(vars[0], Handle) else vars[0])
    owner = next(handles(items), None)
    if owner is None:
        raise TypeError("gather needs at least one Var")
    check_owner(owner._program, items, "gather")
    kind = list[Any] if isinstance(items, list) else tuple[Any, ...]
    return Var(owner._program, items, Typed(kind, "gather"))


async def first(vars: Iterable[Awaitable[T]], *, accept: Callable[[T], bool] | None = None) -> T:
    """The first value to arrive that did not fail and that `accept` (if given) holds for.

    The other calls are not cancelled: they go on, and the program ends on the server when they have ended; the
    workflow need not wait for them. Raises `NoneSucceeded` with every failure if there is none; exceptions other than
    `CallFailed` propagate untouched.
    """

    async def value(var: Awaitable[T]) -> T:
        return await var

    order = [asyncio.create_task(value(var)) for var in vars]
    if not order:
        raise NoneSucceeded("first was given no calls")
    waiting = set(order)
    try:
        while waiting:
            done, waiting = await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
            for future in (future for future in order if future in done):
                if not isinstance(future.exception(), CallFailed):
                    found = future.result()
                    if accept is None or accept(found):
                        return found
    finally:
        for future in waiting:
            future.cancel()
    errors = [error for future in order if isinstance(error := future.exception(), CallFailed)]
    refused = len(order) - len(errors)
    raise NoneSucceeded(f"none of {len(order)} calls gave a value: {len(errors)} failed, {refused} refused", errors)
