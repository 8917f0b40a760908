"""Both distributions, built as wheels: the SDK alone needs its few dependencies and nothing else."""

from __future__ import annotations

import importlib.metadata
import re
import subprocess
import sys
import tomllib
import zipfile
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def built(source: Path, out: Path) -> Path:
    """The wheel of a project."""
    command = [sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(out), str(source)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = out.glob("*.whl")
    return wheel


def installed(wheel: Path, target: Path) -> Path:
    """A directory with the wheel's packages, as an installer would lay them out."""
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(target)
    return target


def required(wheel: Path) -> list[str]:
    """Requirements in the wheel's metadata, extras left out."""
    with zipfile.ZipFile(wheel) as archive:
        (name,) = (name for name in archive.namelist() if name.endswith(".dist-info/METADATA"))
        lines = archive.read(name).decode().splitlines()
    found = [line.removeprefix("Requires-Dist: ") for line in lines if line.startswith("Requires-Dist: ")]
    return [requirement for requirement in found if "extra ==" not in requirement]


def distribution_name(requirement: str) -> str:
    found = re.match(r"[A-Za-z0-9._-]+", requirement)
    assert found is not None
    return found[0]


def closure(requirements: list[str]) -> dict[str, importlib.metadata.Distribution]:
    """Installed distributions that the requirements need, and those that these need."""
    found: dict[str, importlib.metadata.Distribution] = {}
    open_names = [distribution_name(requirement) for requirement in requirements]
    while open_names:
        name = open_names.pop().lower().replace("_", "-")
        if name in found:
            continue
        try:
            found[name] = importlib.metadata.distribution(name)
        except importlib.metadata.PackageNotFoundError:
            continue  # for another platform or Python
        open_names += [distribution_name(r) for r in found[name].requires or () if "extra ==" not in r]
    return found


def linked(distributions: dict[str, importlib.metadata.Distribution], target: Path) -> Path:
    """A directory that holds these distributions and nothing else, file by file."""
    for distribution in distributions.values():
        for file in distribution.files or ():
            source = Path(str(distribution.locate_file(file)))
            if ".." not in file.parts and source.is_file() and not (target / file).exists():
                (target / file).parent.mkdir(parents=True, exist_ok=True)
                (target / file).symlink_to(source)
    return target


USE_OF_THE_SDK = """
import sys
sys.path[:0] = sys.argv[1:]
import tenuto, tenuto.testing
from tenuto import llm, tool, workflow

@tool(effects="read")
def double(number: int) -> int:
    return 2 * number

@llm
def say(number: int, text: str) -> str:
    "{{number}} {{text}}"

@workflow
async def wf(text: str) -> str:
    return say(double(3), text)

assert [call.id for call in wf.graph("x").calls] == ["double", "say"]
ours = {name for name in ("orchestrator", "engine", "dag", "torch", "fastapi") if name in sys.modules}
assert not ours, ours
print(tenuto.__file__)
"""

USE_OF_ALL = """
import sys
sys.path[:0] = sys.argv[1:]
import dag, engine, examples, orchestrator, tenuto
from orchestrator.app import create_app
from orchestrator.config import Settings
create_app(Settings(model="none"))
for package in (dag, engine, examples, orchestrator, tenuto):
    print(package.__file__)
"""


def test_the_sdk_installs_alone(tmp_path: Path) -> None:
    wheel = built(ROOT / "sdk", tmp_path / "dist")
    declared = tomllib.loads((ROOT / "sdk" / "pyproject.toml").read_text())["project"]["dependencies"]
    assert sorted(map(distribution_name, required(wheel))) == sorted(map(distribution_name, declared))
    assert sorted(map(distribution_name, declared)) == ["httpx", "opentelemetry-api", "pydantic", "sniffio"]
    target = installed(wheel, tmp_path / "sdk")
    assert (target / "tenuto" / "py.typed").is_file()
    assert {path.name for path in target.iterdir() if not path.name.endswith(".dist-info")} == {"tenuto"}
    (tmp_path / "light").mkdir()
    light = linked(closure(required(wheel)), tmp_path / "light")
    command = [sys.executable, "-I", "-S", "-c", USE_OF_THE_SDK, str(target), str(light)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert Path(done.stdout.strip()).is_relative_to(target)


def test_everything_installs_from_one_wheel(tmp_path: Path) -> None:
    wheel = built(ROOT, tmp_path / "dist")
    target = installed(wheel, tmp_path / "all")
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    packages = {path.name for path in target.iterdir() if not path.name.endswith(".dist-info")}
    assert packages == {Path(path).name for path in project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]}
    assert (target / "tenuto" / "py.typed").is_file()
    both = tomllib.loads((ROOT / "sdk" / "pyproject.toml").read_text())["project"]["dependencies"]
    assert set(both) <= set(project["project"]["dependencies"])
    command = [sys.executable, "-I", "-c", USE_OF_ALL, str(target)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert all(Path(line).is_relative_to(target) for line in done.stdout.split())
