"""What full blocks contain: a chained hash per block, and the lineage (parent and children) of the blocks kept.

A hash names a block's tokens and everything before them, under a salt; equal hashes mean equal KV.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator, Sequence
from hashlib import blake2b

from engine.config import BLOCK_TOKENS

ROOT = -1
_BLOCK_BYTES = BLOCK_TOKENS * 4


class KeyedTokens(ABC):
    """Tokens that know their blocks' names without being spelled out: those of simulated prompts."""

    @abstractmethod
    def extend_keys(self, hashes: list[bytes], salt: str) -> None:
        """Append the names of the full blocks that `hashes` lacks; equal names mean equal tokens from the root on."""


def extend_chain(hashes: list[bytes], tokens: Sequence[int] | KeyedTokens, salt: str) -> None:
    """Append the hashes of the full blocks of `tokens` that `hashes` lacks.

    Hash of block i = BLAKE2b-128(hash of block i - 1, or of the salt; the block's ids as int32).
    """
    if isinstance(tokens, KeyedTokens):
        tokens.extend_keys(hashes, salt)
        return
    known = len(hashes)
    full = len(tokens) // BLOCK_TOKENS
    if known >= full:
        return
    parent = hashes[-1] if hashes else blake2b(salt.encode(), digest_size=16).digest()
    data = array("i", tokens[known * BLOCK_TOKENS : full * BLOCK_TOKENS]).tobytes()
    for first in range(0, len(data), _BLOCK_BYTES):
        parent = blake2b(parent + data[first : first + _BLOCK_BYTES], digest_size=16).digest()
        hashes.append(parent)


class PrefixIndex:
    """Finds blocks by hash and knows the tree they form.

    Invariant, `check()`: a block is listed under exactly the hash it has; its parent is listed too, or it is a root;
    parents and children agree.
    """

    def __init__(self, total: int) -> None:
        self._blocks: dict[bytes, int] = {}
        self._hash: list[bytes | None] = [None] * total
        self._parent = [ROOT] * total
        self._children: dict[int, set[int]] = {}
        self._program = [""] * total

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block: int) -> bool:
        return self._hash[block] is not None

    def get(self, digest: bytes) -> int | None:
        return self._blocks.get(digest)

    def match(self, hashes: Sequence[bytes], limit: int) -> list[int]:
        """The longest chain of at most `limit` blocks from the root that is here."""
        found = []
        for digest in hashes[:limit]:
            block = self._blocks.get(digest)
            if block is None:
                break
            found.append(block)
        return found

    def program(self, block: int) -> str:
        """The program that first stored the block."""
        return self._program[block]

    def insert(self, block: int, digest: bytes, parent: int, program: str) -> None:
        """List `block` under `digest`, which is not listed yet; `parent` is listed, or `ROOT`."""
        self._blocks[digest] = block
        self._hash[block] = digest
        self._parent[block] = parent
        self._program[block] = program
        if parent != ROOT:
            self._children.setdefault(parent, set()).add(block)

    def remove(self, block: int) -> None:
        """Forget a listed block that has no children."""
        digest = self._hash[block]
        assert digest is not None and block not in self._children, "only listed leaves can be removed"
        del self._blocks[digest]
        self._hash[block] = None
        parent = self._parent[block]
        if parent != ROOT:
            siblings = self._children[parent]
            siblings.remove(block)
            if not siblings:
                del self._children[parent]

    def subtree(self, block: int) -> Iterator[int]:
        """`block` and all its descendants, children before parents."""
        order, stack = [], [block]
        while stack:
            node = stack.pop()
            order.append(node)
            stack.extend(self._children.get(node, ()))
        return reversed(order)

    def check(self) -> None:
        """Raise AssertionError unless the hash table and the tree agree."""
        listed = {block for block, digest in enumerate(self._hash) if digest is not None}
        assert listed == set(self._blocks.values()) and len(listed) == len(self._blocks), "a block is listed twice"
        for digest, block in self._blocks.items():
            assert self._hash[block] == digest, "a block is listed under a hash it has not"
            parent = self._parent[block]
            assert parent == ROOT or (parent in listed and block in self._children[parent]), "a parent is missing"
        for parent, children in self._children.items():
            assert children and all(self._parent[child] == parent for child in children), "children disagree"
            assert parent in listed and children <= listed, "an unlisted block is in the tree"
