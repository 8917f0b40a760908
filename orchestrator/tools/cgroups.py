"""Control groups (cgroup v2) for processes that run tools: memory counted with all children, an end that reaches all.

Owns the directories. A server may use them where its own group, or the one above it, was given to it and hands the
memory controller on (systemd: `Delegate=yes` with `DelegateSubgroup=server`). The server is never moved anywhere.
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/sys/fs/cgroup")
OWN = Path("/proc/self/cgroup")


@dataclass(frozen=True, slots=True)
class Cgroup:
    """The group of one process and all that it starts."""

    path: Path

    @classmethod
    def make(cls, parent: Path, name: str, memory_bytes: int) -> Cgroup:
        """A fresh group with hard memory: no swap, and all of it dies together. Raises OSError."""
        group = cls(parent / name)
        group.path.mkdir()
        try:
            (group.path / "memory.max").write_text(str(memory_bytes))
            for file, value in (("memory.swap.max", "0"), ("memory.oom.group", "1")):
                with contextlib.suppress(OSError):  # kernels without swap accounting lack the first
                    (group.path / file).write_text(value)
        except OSError:
            group.remove()
            raise
        return group

    def add(self, pid: int) -> None:
        """Take a process in, before it starts others. Raises OSError."""
        (self.path / "cgroup.procs").write_text(str(pid))

    def kill(self) -> None:
        """End everything inside."""
        with contextlib.suppress(OSError):
            (self.path / "cgroup.kill").write_text("1")

    @property
    def ran_out(self) -> bool:
        """True if the kernel has ended something inside for its memory."""
        try:
            events = dict(line.split() for line in (self.path / "memory.events").read_text().splitlines())
        except (OSError, ValueError):
            return False
        return int(events.get("oom_kill", "0")) > 0

    def remove(self) -> bool:
        """Forget the group; False if something inside still lives."""
        try:
            self.path.rmdir()
        except FileNotFoundError:
            return True
        except OSError:
            return False
        return True


def usable_parent(root: Path = ROOT, own: Path = OWN) -> Path | None:
    """The group under which this process may make others with a memory limit; None if there is none such."""
    try:
        place = next(line[3:] for line in own.read_text().splitlines() if line.startswith("0::"))
    except (OSError, StopIteration):
        return None
    path = root / place.strip().lstrip("/")
    candidates = [path] if path == root else [path, path.parent]
    return next((candidate for candidate in candidates if _hands_memory_on(candidate)), None)


def _hands_memory_on(group: Path) -> bool:
    """Whether new groups inside have a memory controller, which is switched on if that is allowed."""
    control = group / "cgroup.subtree_control"
    try:
        if "memory" not in control.read_text().split():
            if "memory" not in (group / "cgroup.controllers").read_text().split():
                return False
            control.write_text("+memory")  # refused while processes are in the group itself
        probe = group / "tenuto-probe"
        probe.mkdir()
        probe.rmdir()
    except OSError:
        return False
    return True
