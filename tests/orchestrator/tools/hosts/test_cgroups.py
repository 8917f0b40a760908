"""Control groups for tools' processes, on a directory tree that looks like cgroup v2."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from orchestrator.tools import CallFailure
from orchestrator.tools.cgroups import Cgroup, usable_parent
from orchestrator.tools.processes import ProcessLimits, ProcessTools
from tests.orchestrator.tools.hosts.support import SERVED, ask

LIMITS = ProcessLimits(memory_bytes=64 * 2**20, cpu_s=None)


def tree(tmp_path: Path, handed_on: str, controllers: str = "cpu memory pids", own: str = "0::/unit/server") -> Path:
    """A hierarchy whose group `unit` hands these controllers on; the process is in `unit/server`."""
    (tmp_path / "self").write_text(f"12:pids:/elsewhere\n{own}\n")
    root = tmp_path / "cgroup"
    for group in ("unit", "unit/server"):
        (root / group).mkdir(parents=True)
        (root / group / "cgroup.controllers").write_text(controllers if group == "unit" else "")
        (root / group / "cgroup.subtree_control").write_text(handed_on if group == "unit" else "")
    return root


def found(tmp_path: Path) -> Path | None:
    return usable_parent(tmp_path / "cgroup", tmp_path / "self")


def test_the_group_above_is_used_where_it_hands_memory_on_or_may_be_told_to(tmp_path: Path) -> None:
    root = tree(tmp_path, "cpu memory")
    assert found(tmp_path) == root / "unit"
    (root / "unit" / "cgroup.subtree_control").write_text("cpu")
    assert found(tmp_path) == root / "unit"
    assert (root / "unit" / "cgroup.subtree_control").read_text() == "+memory"
    assert sorted(path.name for path in (root / "unit").iterdir() if path.is_dir()) == ["server"]


@pytest.mark.parametrize("fault", ["no memory controller", "not version 2", "nothing there", "no proc"])
def test_without_a_memory_controller_there_is_none(tmp_path: Path, fault: str) -> None:
    root = tree(tmp_path, "cpu", "cpu pids", "4:memory:/unit" if fault == "not version 2" else "0::/unit/server")
    if fault == "nothing there":
        shutil.rmtree(root)
    if fault == "no proc":
        (tmp_path / "self").unlink()
    assert found(tmp_path) is None


async def test_each_process_has_a_group_with_the_limit_and_is_killed_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path, "memory")
    left: list[Path] = []

    def removed(group: Cgroup) -> bool:
        left.append(group.path)
        return True

    monkeypatch.setattr(Cgroup, "remove", removed)
    host = ProcessTools([SERVED], processes=2, limits=LIMITS, cgroups=usable_parent(root, tmp_path / "self"))
    await host.start()
    (child,) = host._idle
    assert child.cgroup is not None
    group = child.cgroup.path
    assert group.parent == root / "unit" and group.name.startswith("tenuto-")
    assert (group / "memory.max").read_text() == str(64 * 2**20)
    assert (group / "memory.swap.max").read_text() == "0" and (group / "memory.oom.group").read_text() == "1"
    assert (group / "cgroup.procs").read_text() == str(child.process.pid)
    assert await ask(host, "hog", megabytes=200) == 200 * 2**20  # no rlimit on address space beside the group's
    (group / "memory.events").write_text("low 0\nmax 17\noom 1\noom_kill 1\n")
    with pytest.raises(CallFailure, match="needs more memory") as caught:
        await ask(host, "die")
    assert caught.value.type == "resource_exhausted"
    assert (group / "cgroup.kill").read_text() == "1"
    with pytest.raises(CallFailure, match="code 7") as caught:  # another group, in which nothing ran out
        await ask(host, "die")
    assert caught.value.type == "worker_lost"
    await host.close()
    assert left[0] == group and len(set(left)) == 2


async def test_a_group_that_takes_no_process_is_given_up_for_rlimits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tree(tmp_path, "memory")

    def refused(group: Cgroup, pid: int) -> None:
        raise PermissionError("Operation not permitted")

    monkeypatch.setattr(Cgroup, "add", refused)
    limits = ProcessLimits(memory_bytes=3 * 2**30)
    host = ProcessTools([SERVED], limits=limits, cgroups=root / "unit")
    await host.start()
    with pytest.raises(CallFailure, match="memory") as caught:
        await ask(host, "hog", megabytes=4000)
    assert caught.value.type == "resource_exhausted"
    (child,) = host._idle
    assert child.cgroup is None
    await host.close()
    gone = ProcessTools([SERVED], limits=limits, cgroups=tmp_path / "nowhere")  # neither can be made there
    await gone.start()
    assert await ask(gone, "double", x=2) == 4
    await gone.close()
