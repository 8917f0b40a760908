"""Program hold: which programs may use an engine's memory, so that those inside do not push each other out.

Owns the books of one engine: what each program inside holds there and what it will need. Pure: it is told what
happens and asked who may enter; who waits, and in which order, is the gate's affair.
"""

from __future__ import annotations

from dataclasses import dataclass

RESERVE = 0.07
"""Share of the memory that is left to shared prefixes and to the growth of those inside: half of it to each."""


@dataclass(slots=True)
class _Inside:
    """A program inside: tokens of its running calls, and those kept for it while none runs."""

    running: int = 0
    needed: int = 0
    kept: int = 0

    @property
    def tokens(self) -> int:
        """A call that goes on with what is kept needs that no second time."""
        return max(self.kept, self.needed)


class Hold:
    """Programs inside one engine, in tokens of private KV.

    A program enters with its first call and stays inside while a call of it runs or KV is kept for it. Invariant
    (`check`): `used` is the sum of what those inside hold or need; `at_work` counts those with a running call.
    Capacity 0: nobody knows how much fits, so everybody may enter.
    """

    def __init__(self, capacity: int = 0, reserve: float = RESERVE) -> None:
        self._reserve = reserve
        self.resize(capacity)
        self._inside: dict[str, _Inside] = {}
        self.used = 0
        self.at_work = 0

    def __len__(self) -> int:
        return len(self._inside)

    def resize(self, capacity: int) -> None:
        """So many tokens fit from now on; 0 = unknown."""
        self.capacity = capacity
        self._room = int(capacity * (1 - self._reserve))
        self._most = int(capacity * (1 - self._reserve / 2))

    def is_inside(self, program: str) -> bool:
        """Whether the program's calls may go to the engine without asking for memory."""
        return program in self._inside

    def shortage(self, tokens: int) -> int:
        """Tokens that must come free before a newcomer that needs so many fits; 0 = it fits.

        One that would never fit beside others enters when nobody is inside: it is then served as it would be alone.
        """
        if not self.capacity or not self._inside:
            return 0
        return max(0, self.used + tokens - self._room)

    @property
    def excess(self) -> int:
        """Tokens by which those inside have outgrown their part of the memory."""
        return max(0, self.used - self._most) if self.capacity else 0

    def began(self, program: str, tokens: int) -> None:
        """A call goes to the engine; its prompt and expected output are so many private tokens."""
        inside = self._inside.setdefault(program, _Inside())
        self.at_work += inside.running == 0
        inside.running += 1
        self._change(inside, needed=inside.needed + tokens)

    def ended(self, program: str, tokens: int, left: int) -> None:
        """The call of `began(program, tokens)` has left the engine; `left` tokens of KV stay behind it for now."""
        inside = self._inside[program]
        inside.running -= 1
        self.at_work -= inside.running == 0
        kept = max(left, inside.kept) if inside.running else left
        self._change(inside, needed=inside.needed - tokens, kept=kept)
        self._settle(program, inside)

    def kept(self, program: str, tokens: int) -> None:
        """So many tokens are kept for a program that waits; 0: none any more, so it must ask again."""
        inside = self._inside.get(program)
        if inside is not None:
            self._change(inside, kept=tokens)
            self._settle(program, inside)

    def _change(self, inside: _Inside, *, needed: int | None = None, kept: int | None = None) -> None:
        self.used -= inside.tokens
        inside.needed = inside.needed if needed is None else needed
        inside.kept = inside.kept if kept is None else kept
        self.used += inside.tokens

    def _settle(self, program: str, inside: _Inside) -> None:
        if not inside.running and not inside.kept:
            del self._inside[program]

    def check(self) -> None:
        """Raise AssertionError if the books differ."""
        assert self.used == sum(inside.tokens for inside in self._inside.values()), "used tokens are miscounted"
        assert self.at_work == sum(inside.running > 0 for inside in self._inside.values()), "programs are miscounted"
        for program, inside in self._inside.items():
            assert inside.running or inside.kept, f"{program} is inside for nothing"
            assert inside.running >= 0 and inside.needed >= 0 and inside.kept >= 0, f"{program} holds less than nothing"
