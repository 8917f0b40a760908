"""Groups of calls: task groups, whose joint end matters, and groups whose prompts begin alike.

Pure functions of a graph's structure. A prefix group is a hint: the engine matches tokens and has the last word.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import NamedTuple

from dag.graph import ProgramGraph
from tenuto.wire import LLMCall, TextPart


@dataclass(frozen=True, slots=True)
class TaskGroup:
    """Two or more calls of one depth whose joint end is what matters: finishing one early gains nothing.

    `declared`: the name given by the client, or None if deduced. `consumer`: the call that waits for all of
    them; None for declared groups and for the program's own end. `parent`: index, in the tuple that
    `task_groups` returned, of the group that `consumer` is a member of.
    """

    members: tuple[str, ...]
    depth: int
    consumer: str | None = None
    declared: str | None = None
    parent: int | None = None


def task_groups(graph: ProgramGraph) -> tuple[TaskGroup, ...]:
    """Every task group, deepest first (parents before children). O(calls log calls + edges).

    Deduced: the producers of one consumer that lie at the same depth, and the client's own readings at one
    depth (Parrot's deduction, nested). Declared: calls of equal `group` at one depth: a call and its ancestor
    have no joint end, so a name used at several depths makes a group at each. A set of calls that is both is
    one group, with both marks.
    """
    found: dict[tuple[str, ...], TaskGroup] = {}
    ends: dict[int, list[str]] = {}
    named: dict[tuple[str, int], list[str]] = {}
    for name, call in graph.calls.items():
        depth = graph.depth(name)
        if call.group is not None:
            named.setdefault((call.group, depth), []).append(name)
        if graph.read_by_client(name):
            ends.setdefault(depth, []).append(name)
    for (group, depth), members in named.items():
        _add(found, TaskGroup(tuple(members), depth, declared=group))
    for depth, members in ends.items():
        _add(found, TaskGroup(tuple(members), depth))
    order = {name: index for index, name in enumerate(graph.calls)}
    for name in graph.calls:
        siblings: dict[int, list[str]] = {}
        for predecessor in graph.predecessors(name):
            siblings.setdefault(graph.depth(predecessor), []).append(predecessor)
        for depth, members in siblings.items():
            _add(found, TaskGroup(tuple(sorted(members, key=order.__getitem__)), depth, consumer=name))
    return _nested(sorted(found.values(), key=lambda group: -group.depth))


def _add(found: dict[tuple[str, ...], TaskGroup], group: TaskGroup) -> None:
    if len(group.members) < 2:
        return
    known = found.get(group.members)
    if known is not None:
        group = TaskGroup(
            group.members, group.depth, known.consumer or group.consumer, known.declared or group.declared
        )
    found[group.members] = group


def _nested(groups: list[TaskGroup]) -> tuple[TaskGroup, ...]:
    smallest: dict[str, int] = {}  # of the groups that hold a call, the tightest is the one it nests in
    for index, group in enumerate(groups):
        for member in group.members:
            known = smallest.get(member)
            if known is None or len(group.members) < len(groups[known].members):
                smallest[member] = index
    return tuple(
        TaskGroup(group.members, group.depth, group.consumer, group.declared, smallest.get(group.consumer))
        if group.consumer is not None
        else group
        for group in groups
    )


@dataclass(frozen=True, slots=True)
class PrefixGroup:
    """Calls of one model whose prompts begin with the same parts: same roles, texts and variables.

    `calls`: those for which this is the longest shared prefix; calls of groups below share it too (`parent` is
    the index of the group with the next shorter prefix, None at the root). `parts`: prompt parts shared, from
    the first message on. `text_chars`: constant characters in them. `variables`: those they read, in order;
    the prefix is known in full once these are written.
    """

    model: str | None
    calls: tuple[str, ...]
    parts: int
    text_chars: int
    variables: tuple[str, ...]
    parent: int | None = None


_Step = tuple[str, str] | tuple[str, str, tuple[str | int, ...]]


@dataclass(slots=True, eq=False)
class _Trie:
    """Prompts by their parts. `count`: calls below, `ends`: calls whose prompt ends here."""

    count: int = 0
    ends: list[str] = field(default_factory=list)
    children: dict[_Step, _Trie] = field(default_factory=dict)


class _Prefix(NamedTuple):
    """The way from the root to a node of the trie; a linked list, as ways share their beginnings."""

    parts: int
    text_chars: int
    variable: str | None
    before: _Prefix | None


def constant_prefix_groups(graph: ProgramGraph) -> tuple[PrefixGroup, ...]:
    """Every set of two or more LLM calls with a common prompt prefix, as a tree; parents before children.

    Found on the parts alone, without comparing text character by character. O(prompt parts of all calls).
    """
    models: dict[str | None, _Trie] = {}
    for name, call in graph.calls.items():
        if isinstance(call, LLMCall):
            node = models.setdefault(call.model, _Trie())
            node.count += 1
            for step in _prompt_steps(call):
                node = node.children.setdefault(step, _Trie())
                node.count += 1
            node.ends.append(name)
    groups: list[PrefixGroup] = []
    for model, root in models.items():
        _collect(model, root, groups)
    return tuple(groups)


def _prompt_steps(call: LLMCall) -> Iterator[_Step]:
    for message in call.messages:
        yield ("role", message.role)
        for part in message.parts:
            yield ("text", part.text) if isinstance(part, TextPart) else ("variable", part.variable, part.path)


def _collect(model: str | None, root: _Trie, groups: list[PrefixGroup]) -> None:
    stack: list[tuple[_Trie, _Prefix, int | None]] = [(root, _Prefix(0, 0, None, None), None)]
    while stack:
        node, prefix, parent = stack.pop()
        if prefix.parts and (node.ends or len(node.children) > 1):
            calls = [*node.ends]
            calls.extend(_only_call(child) for child in node.children.values() if child.count == 1)
            variables = tuple(_variables(prefix))
            groups.append(PrefixGroup(model, tuple(calls), prefix.parts, prefix.text_chars, variables, parent))
            parent = len(groups) - 1
        for step, child in reversed(node.children.items()):
            if child.count > 1:
                stack.append((child, _longer(prefix, step), parent))


def _longer(prefix: _Prefix, step: _Step) -> _Prefix:
    if step[0] == "role":
        return prefix
    if step[0] == "text":
        return _Prefix(prefix.parts + 1, prefix.text_chars + len(step[1]), None, prefix)
    return _Prefix(prefix.parts + 1, prefix.text_chars, step[1], prefix)


def _only_call(node: _Trie) -> str:
    while not node.ends:
        node = next(iter(node.children.values()))
    return node.ends[0]


def _variables(prefix: _Prefix | None) -> list[str]:
    names: list[str] = []
    while prefix is not None:
        if prefix.variable is not None:
            names.append(prefix.variable)
        prefix = prefix.before
    return list(dict.fromkeys(reversed(names)))
