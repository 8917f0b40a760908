"""Settings: where they come from, and what their errors say."""

from __future__ import annotations

import dataclasses
import json
import os
from pathlib import Path

import pytest

from engine.config import EngineConfig
from orchestrator.api.auth import KeyRing, make_key
from orchestrator.config import ConfigError, EngineOptions, is_loopback, load, misspelt_variables


@pytest.fixture(autouse=True)
def _empty_place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("TENUTO_")]:
        monkeypatch.delenv(name)


def write(text: str) -> None:
    Path("tenuto.toml").write_text(text)


def test_flags_win_over_the_environment_which_wins_over_the_file(monkeypatch: pytest.MonkeyPatch) -> None:
    write('port = 1\nmodel = "a"\npolicy = "fcfs"\n[limits]\npage = 7\nworkers = 3\n[engine]\nthreads = 1\n')
    monkeypatch.setenv("TENUTO_PORT", "2")
    monkeypatch.setenv("TENUTO_MODEL", "b")
    monkeypatch.setenv("TENUTO_LIMITS__PAGE", "8")
    settings = load(port=3, host=None)
    assert (settings.port, settings.model, settings.policy) == (3, "b", "fcfs")
    assert (settings.limits.page, settings.limits.workers, settings.engine.threads) == (8, 3, 1)


def test_defaults_need_no_file_and_no_variable() -> None:
    settings = load()
    assert (settings.host, settings.model, settings.journal, settings.api_keys) == ("127.0.0.1", "none", None, ())


def test_a_file_elsewhere_is_named(tmp_path: Path) -> None:
    other = tmp_path / "other.toml"
    other.write_text("port = 9")
    assert load(other).port == 9
    with pytest.raises(ConfigError, match=r"missing\.toml: cannot be read"):
        load(tmp_path / "missing.toml")


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("port = 70000", ["port = 70000 (tenuto.toml)", "65535"]),
        ("hots = 'x'", ["hots", "is no setting", "nearest is 'host'"]),
        ("[limits]\npage = -3", ["limits", "limits.page must be positive, not -3"]),
        ("[limits]\npge = 3", ["there is no limit 'pge'", "'page'"]),
        ("[limits]\npage = 'many'", ["limits.page = 'many'", "integer"]),
        ("[engine]\ndtype = 'f8'", ["engine.dtype = 'f8'", "'float32'"]),
        ("[engine]\nkv_blcks = 3", ["engine.kv_blcks", "'kv_blocks'"]),
        ("policy = 'fcs'", ["policy = 'fcs'", "'fcfs'"]),
        ("policy = 'x'", ["choose one of: fcfs, plas, program_fcfs, tenuto, urgency"]),
        ("host = '0.0.0.0'", ["host = '0.0.0.0'", "without a key", "tenuto key"]),
        ("[[api_keys]]\nprefix = 'a'\nsha256 = 'b'", ["api_keys.0", "first 12 characters"]),
        ("journal_synchronous = 'off'", ["journal_synchronous = 'off'", "FULL"]),
        ("port =", ["tenuto.toml: is not TOML"]),
        ("start_wait_s = 0", ["start_wait_s = 0"]),
    ],
)
def test_errors_name_the_key_the_value_and_the_fix(text: str, says: list[str]) -> None:
    write(text)
    with pytest.raises(ConfigError) as caught:
        load()
    for piece in says:
        assert piece in str(caught.value)


def test_errors_name_where_the_value_was_given(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TENUTO_LIMITS__WORKERS", "abc")
    with pytest.raises(ConfigError) as caught:
        load(port=-1)
    flag, variable = sorted(str(caught.value).splitlines(), reverse=True)
    assert flag.startswith("port = -1 (flag --port): ")
    assert variable.startswith("limits.workers = 'abc' (TENUTO_LIMITS__WORKERS): ")


def test_flags_of_a_section_are_named_as_they_are_typed() -> None:
    write("[semantic_cache]\nentries = 0")
    cache = {"mode": "wat", "directory": 3}
    with pytest.raises(ConfigError) as caught:
        load(semantic_cache=cache, engine={"compile": "so"})
    told = {line.partition(" ")[0]: line for line in str(caught.value).splitlines()}
    assert told["semantic_cache.mode"].startswith("semantic_cache.mode = 'wat' (flag --cache): ")
    assert "(flag --cache-dir)" in told["semantic_cache.directory"] and "(flag --compile)" in told["engine.compile"]
    assert "(tenuto.toml)" in told["semantic_cache.entries"]


def test_variables_may_hold_json_and_empty_ones_are_not_given(monkeypatch: pytest.MonkeyPatch) -> None:
    _, kept = make_key("acme", bytes(28))
    keys = [{"prefix": kept.prefix, "sha256": kept.sha256, "tenant": "acme"}]
    monkeypatch.setenv("TENUTO_API_KEYS", json.dumps(keys))
    monkeypatch.setenv("TENUTO_PORT", "")
    settings = load()
    assert (settings.api_keys, settings.port) == ((kept,), 7878)
    monkeypatch.setenv("TENUTO_API_KEYS", "[")
    with pytest.raises(ConfigError, match=r'"api_keys".*Give JSON'):
        load()
    monkeypatch.delenv("TENUTO_API_KEYS")
    monkeypatch.setenv("TENUTO_LIMITS__NOPE", "3")
    with pytest.raises(ConfigError, match=r"limits \(TENUTO_LIMITS__NOPE\): there is no limit 'nope'"):
        load()


def test_every_engine_option_is_one_that_the_engine_knows() -> None:
    options = set(EngineOptions.model_fields) - {"replicas"}  # how many engines, which none of them needs to know
    assert options <= {field.name for field in dataclasses.fields(EngineConfig)}


def test_a_bind_beyond_loopback_needs_a_key() -> None:
    _, kept = make_key("acme", bytes(28))
    settings = load(host="0.0.0.0", api_keys=(kept,))
    assert settings.api_keys == (kept,)
    with pytest.raises(ConfigError, match="two keys have the prefix"):
        load(api_keys=(kept, kept))


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.9.9.9", "::1"])
def test_loopback(host: str) -> None:
    assert is_loopback(host)


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "10.0.0.1", "example.org"])
def test_not_loopback(host: str) -> None:
    assert not is_loopback(host)


def test_misspelt_variables_are_told() -> None:
    lines = misspelt_variables(
        {"TENUTO_PROT": "1", "TENUTO_PORT": "1", "TENUTO_LIMITS__PAGE": "1", "TENUTO_URL": "x", "HOME": "/"}
    )
    assert lines == ["TENUTO_PROT is no setting and has no effect; the nearest is 'TENUTO_PORT'"]


def test_keys_are_known_by_prefix_and_hash_only() -> None:
    key, kept = make_key("acme", bytes(range(28)))
    other_key, other = make_key("other", bytes(range(4)) + bytes(24))
    assert kept.prefix == other.prefix == key[:12]
    ring = KeyRing([kept, other])
    assert key not in repr(kept)
    assert kept.sha256 not in repr(kept)
    assert ring.tenant(f"Bearer {key}") == "acme"
    assert ring.tenant(f"bearer {other_key}") == "other"
    wrong_keys = (f"{key}x", kept.prefix, kept.sha256, "")
    for wrong in (None, "", "Bearer", f"Basic {key}", *(f"Bearer {wrong}" for wrong in wrong_keys)):
        assert ring.tenant(wrong) is None
    assert KeyRing().tenant(None) == "default"
    with pytest.raises(ValueError, match="24 random bytes"):
        make_key("acme", bytes(8))
