"""Simulated prompts: tokens named by stream and index, never spelled out, and the codec that reads them.

Two prompts share exactly the prefix over which their pieces agree. Nothing here costs time or memory by the token.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from hashlib import blake2b
from typing import TYPE_CHECKING, cast, overload

from engine.config import BLOCK_TOKENS
from engine.kv.prefix import KeyedTokens
from engine.protocol import ChatMessage, InvalidGrammar, InvalidRequest
from engine.text import TextStream

if TYPE_CHECKING:
    from engine.text import TextCodec

_MASK = (1 << 60) - 1
_VOCABULARY = 95


Piece = tuple[int, int, int]
"""(stream, start, end): tokens `start` .. `end` of one stream; streams are numbers here."""


class StreamTokens(KeyedTokens):
    """A sequence of tokens as pieces of streams. Stands in for the `list[int]` of a real prompt.

    Invariant: pieces are not empty, and neighbours that follow on in one stream are one piece, so equal tokens have
    equal pieces. `ends[i]` is the position at which piece i ends. What is appended goes on in the stream `out`;
    `output` is the length at which the generation ends by itself.
    """

    __slots__ = ("_ends", "_pieces", "out", "output", "size")

    def __init__(self, pieces: Sequence[Piece] = (), *, out: int = -1, output: int = 0) -> None:
        self._pieces: list[Piece] = []
        self._ends: list[int] = []
        self.out, self.output = out, output
        self.size = 0
        """The number of tokens."""
        for piece in pieces:
            self._put(piece)

    def _put(self, piece: Piece) -> None:
        stream, start, end = piece
        if end <= start:
            return
        at = self.size
        self.size = at + end - start
        if self._pieces:
            last = self._pieces[-1]
            if last[0] == stream and last[2] == start:
                self._pieces[-1] = (stream, last[1], end)
                self._ends[-1] = self.size
                return
        self._pieces.append(piece)
        self._ends.append(self.size)

    @property
    def pieces(self) -> Sequence[Piece]:
        self._settle()
        return self._pieces

    def __len__(self) -> int:
        return self.size

    def __bool__(self) -> bool:
        return self.size > 0

    def __eq__(self, other: object) -> bool:
        if isinstance(other, StreamTokens):
            return self.pieces == other.pieces
        return isinstance(other, list) and len(other) == len(self) and list(self) == other

    __hash__ = None  # type: ignore[assignment]  # mutable

    def __iter__(self) -> Iterator[int]:
        for stream, start, end in self.pieces:
            for index in range(start, end):
                yield _token(stream, index)

    @overload
    def __getitem__(self, place: int) -> int: ...
    @overload
    def __getitem__(self, place: slice) -> StreamTokens: ...
    def __getitem__(self, place: int | slice) -> int | StreamTokens:
        if isinstance(place, slice):
            first, last, step = place.indices(len(self))
            if step != 1:
                raise ValueError("only runs of tokens can be cut out")
            return StreamTokens(self._cut(first, last), out=self.out, output=self.output)
        position = place if place >= 0 else place + len(self)
        if not 0 <= position < len(self):
            raise IndexError(place)
        ((stream, index, _),) = self._cut(position, position + 1)
        return _token(stream, index)

    def __add__(self, other: StreamTokens) -> StreamTokens:
        return StreamTokens([*self.pieces, *other.pieces], out=other.out, output=other.output)

    def copied(self, number: int) -> StreamTokens:
        """These tokens in copy `number` of their program."""
        self._settle()
        copy = StreamTokens(out=self.out + number, output=self.output)
        copy._pieces = (
            [(s + number if s & _PRIVATE else s, start, end) for s, start, end in self._pieces]
            if number
            else self._pieces[:]
        )
        copy._ends, copy.size = self._ends[:], self.size
        return copy

    def append(self, token: int) -> None:
        """One more token of the output; which one is the stream's affair."""
        self.size += 1

    def grow(self, count: int) -> None:
        """`count` more tokens of the output."""
        self.size += count

    def _settle(self) -> None:
        """Write down as pieces what was appended since the last time."""
        count = self.size - (self._ends[-1] if self._ends else 0)
        if count:
            last = self._pieces[-1]
            self.size -= count
            start = last[2] if last[0] == self.out else 0
            self._put((self.out, start, start + count))

    def _cut(self, first: int, last: int) -> list[Piece]:
        """The pieces of positions `first` .. `last`."""
        self._settle()
        found: list[Piece] = []
        number = bisect_right(self._ends, first)
        while first < last:
            stream, start, end = self._pieces[number]
            begin = self._ends[number] - (end - start)
            until = min(last, self._ends[number])
            found.append((stream, start + first - begin, start + until - begin))
            first, number = until, number + 1
        return found

    def extend_keys(self, hashes: list[bytes], salt: str) -> None:
        """Keys are numbers: a run of blocks inside one piece is named in sequence from a hash of all before it.

        Equal tokens from the root on have equal keys, since they have equal pieces; 60-bit hashes make unequal ones
        collide with a chance of 1e-6 in a million blocks.
        """
        keys = cast("list[int]", hashes)
        full = len(self) // BLOCK_TOKENS
        block = len(keys)
        if block >= full:
            return
        self._settle()
        previous = keys[-1] if keys else _salted(salt)
        while block < full:
            first = block * BLOCK_TOKENS
            number = bisect_right(self._ends, first)
            stream, start, end = self._pieces[number]
            begin = self._ends[number] - (end - start)
            inside = min(self._ends[number] // BLOCK_TOKENS, full) - block
            if inside <= 0:
                previous = hash((previous, *self._cut(first, first + BLOCK_TOKENS))) & _MASK
                keys.append(previous)
                block += 1
                continue
            if block == 0 or begin > first - BLOCK_TOKENS:
                previous = hash((previous, stream, start + first - begin)) & _MASK
            else:
                previous += 1
            keys += range(previous, previous + inside)
            previous += inside - 1
            block += inside

    def common(self, other: StreamTokens) -> int:
        """How many tokens at the start are the same."""
        mine, theirs = self.pieces, other.pieces
        if mine is theirs:
            return len(self)
        for number in range(min(len(mine), len(theirs))):
            if mine[number] != theirs[number]:
                a, b = mine[number], theirs[number]
                shared = min(a[2], b[2]) - a[1] if a[:2] == b[:2] else 0
                return (self._ends[number - 1] if number else 0) + shared
        return min(len(self), len(other))


def _token(stream: int, index: int) -> int:
    return hash((stream, index)) & _MASK


def _salted(salt: str) -> int:
    return int.from_bytes(blake2b(salt.encode(), digest_size=8).digest()) & _MASK


_PRIVATE = 1 << 59
"""Marks streams that each copy of a program has for itself; a copy's number goes into the lowest bits."""
_COPIES = 32


class Template:
    """The prompt of one call of a program, for any copy of it."""

    __slots__ = ("_tokens",)

    def __init__(self, tokens: StreamTokens) -> None:
        self._tokens = tokens

    def __len__(self) -> int:
        return len(self._tokens)

    def copy(self, number: int) -> StreamTokens:
        """The prompt in copy `number` of its program."""
        return self._tokens.copied(number)


class PromptBook:
    """Prompts by name: what a reference in a message stands for, in the program that says it.

    Streams get numbers in the order of their naming. Copies of a program differ in their private streams only.
    """

    def __init__(self) -> None:
        self._templates: dict[str, Template] = {}
        self._streams: dict[str, int] = {}
        self._copies: dict[str, int] = {}

    def put(
        self,
        name: str,
        pieces: Iterable[tuple[str, int, int]],
        *,
        private: Callable[[str], bool],
        out: str,
        output: int,
    ) -> None:
        """Let `name` stand for a prompt whose output goes on in the stream `out` and ends after `output` tokens."""
        number = self._number
        tokens = StreamTokens(
            [(number(stream, private(stream)), start, end) for stream, start, end in pieces],
            out=number(out, own=True),
            output=output,
        )
        self._templates[name] = Template(tokens)

    def _number(self, stream: str, own: bool) -> int:
        known = self._streams.get(stream)
        if known is None:
            known = self._streams[stream] = (len(self._streams) << _COPIES) + (_PRIVATE if own else 0)
        return known

    def enrol(self, program: str, copy: int) -> None:
        """A program of this id is copy number `copy` of its template."""
        self._copies[program] = copy

    def leave(self, program: str) -> None:
        """The program has ended."""
        self._copies.pop(program, None)

    def get(self, name: str, program: str) -> StreamTokens | None:
        """The prompt `name` as `program` says it."""
        template = self._templates.get(name)
        return None if template is None else template.copy(self._copies.get(program, 0))

    def length(self, name: str) -> int | None:
        """Tokens of the prompt `name`."""
        template = self._templates.get(name)
        return None if template is None else len(template)


_OPEN, _CLOSE = "\u27e8", "\u27e9"


def reference(name: str) -> str:
    """The text that stands for the prompt `name` at the end of a message."""
    return f"{_OPEN}{name}{_CLOSE}"


class StreamCodec:
    """Reads references to a book's prompts; other text is spelled out, a byte a token. What it decodes is printable."""

    longest_token = 4
    vocab_size = 256

    def __init__(self, book: PromptBook) -> None:
        self._book = book

    def render(self, messages: Sequence[ChatMessage], tools: Sequence[object] = ()) -> str:
        return "".join(f"{message.role}: {message.content}\n" for message in messages)

    def encode(self, text: str) -> list[int]:
        """The bytes of a text. References are read by `prompt`, which must know who says them."""
        return list(text.encode())

    def named(self, messages: Sequence[ChatMessage]) -> str | None:
        """The name of the prompt that the messages stand for; None if they are spelled out."""
        content = messages[-1].content if messages else ""
        return content[content.rfind(_OPEN) + 1 : -1] if content.endswith(_CLOSE) else None

    def prompt(self, name: str, program: str) -> StreamTokens:
        """The prompt `name` of a program. Raises `InvalidRequest`."""
        prompt = self._book.get(name, program)
        if prompt is None:
            raise InvalidRequest(f"the prompt book has no prompt {name!r}")
        return prompt

    def count(self, messages: Sequence[ChatMessage]) -> int:
        """Tokens of the prompt that messages make."""
        name = self.named(messages)
        known = None if name is None else self._book.length(name)
        return len(self.encode(self.render(messages))) if known is None else known

    def decode(self, ids: Sequence[int]) -> str:
        return "".join(chr(32 + token % _VOCABULARY) for token in ids)

    def spell(self, ids: Sequence[int]) -> str:
        """As `decode`: there are no special tokens."""
        return self.decode(ids)

    def stream(self, stops: Sequence[str] = ()) -> TextStream:
        """The text of a new output, which ends before the first of `stops`."""
        return TextStream(cast("TextCodec", self), stops)

    def to_json(self) -> str:
        raise InvalidGrammar("a simulated engine holds its output to no grammar")
