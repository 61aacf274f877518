"""What a configuration file may say, and what a person reads when it says something else."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paceline.config import ENVIRONMENT, Settings, load, split_address, to_toml
from paceline.errors import UsageError

MEMBERS = """
[[cluster.members]]
name = "n1"
listen = "127.0.0.1:4001"
http = "127.0.0.1:4002"
peer = "127.0.0.1:4003"

[[cluster.members]]
name = "n2"
listen = "127.0.0.1:4011"
http = "127.0.0.1:4012"
peer = "127.0.0.1:4013"
"""
GOOD = 'name = "n1"\ndata = "d"\n[cluster]\nname = "app"\nleader = "n1"\n' + MEMBERS
JOINING = (
    'name="n4"\ndata="."\nlisten="{0}:1"\nhttp="{0}:2"\npeer="{0}:3"\n[cluster]\njoin=["127.0.0.1:4003"]\n'
)

Write = Callable[[str], str]


@pytest.fixture
def write(tmp_path: Path) -> Write:
    def writer(text: str) -> str:
        path = tmp_path / "n.toml"
        path.write_text(text)
        return str(path)

    return writer


def test_founding_file_fills_everything(write: Write, tmp_path: Path) -> None:
    config = load(write(GOOD), env={})
    assert config.name == "n1" and config.leader == "n1" and config.cluster == "app"
    assert config.data == str(tmp_path / "d"), "data is relative to the file"
    assert (config.listen, config.http, config.peer) == ("127.0.0.1:4001", "127.0.0.1:4002", "127.0.0.1:4003")
    assert config.advertise == config.listen and config.advertise_peer == config.peer
    assert [member.name for member in config.members] == ["n1", "n2"]
    assert config.settings == Settings() and config.settings.durability == "quorum"


def test_joining_file_needs_no_members_and_no_leader(write: Write) -> None:
    config = load(write(JOINING.format("127.0.0.1")), env={})
    assert config.join == ("127.0.0.1:4003",) and config.members == () and config.leader is None


def test_node_that_names_itself_leader_is_a_cluster_of_one() -> None:
    flags = {"name": "a", "data": "d", "listen": "localhost:1", "http": "localhost:2", "peer": "localhost:3"}
    config = load(None, flags | {"cluster.leader": "a"}, env={})
    assert [member.name for member in config.members] == ["a"] and config.members[0].peer == "localhost:3"


def test_flags_win_over_environment_and_environment_over_file(write: Write) -> None:
    path = write(GOOD + '[settings]\ndurability = "all"\nheartbeat_ms = 50\nlog_level = "debug"\n')
    env = {"PACELINE_DURABILITY": "local", "PACELINE_HEARTBEAT_MS": "70", "PACELINE_FOREIGN_KEYS": "true"}
    config = load(path, {"settings.durability": "async", "settings.log_level": None}, env=env)
    assert config.settings.durability == "async"
    assert config.settings.heartbeat_ms == 70
    assert config.settings.log_level == "debug", "a flag that was not given changes nothing"
    assert config.settings.foreign_keys is True


def test_wildcard_listener_advertises_its_row(write: Write) -> None:
    text = 'listen = "0.0.0.0:4001"\ninsecure = true\n' + GOOD
    assert load(write(text), env={}).advertise == "127.0.0.1:4001"


WRONG = [
    (
        "unknown key",
        "[cluster]\n",
        "[cluster]\nleeder = 'n1'\n",
        "unknown key cluster.leeder",
        "cluster.leader",
    ),
    (
        "key in the wrong table",
        'data = "d"',
        'data = "d"\ndurability = "all"',
        "key durability",
        "settings.dur",
    ),
    ("far from any key", 'data = "d"', 'data = "d"\nzzz = 1', "unknown key zzz", "known at the top: name"),
    ("bad type", 'data = "d"', "data = 7", "data = 7: expected a text", ""),
    ("bad name", 'name = "n1"\ndata', 'name = "n 1"\ndata', 'name = "n 1": expected 1-40 letters', ""),
    ("no data", 'data = "d"\n', "", "data is missing", "--data"),
    ("bad address", "127.0.0.1:4012", "127.0.0.1", 'http = "127.0.0.1": expected an address', ""),
    ("bad port", "127.0.0.1:4012", "127.0.0.1:70000", "127.0.0.1:70000", ""),
    ("leader is no member", 'leader = "n1"', 'leader = "n9"', 'leader = "n9": expected one of n1, n2', ""),
    ("no leader", 'leader = "n1"', "", "cluster.leader is missing", "n1, n2"),
    ("not a member", 'name = "n1"\ndata', 'name = "n3"\ndata', 'name = "n3": expected one of cluster.m', ""),
    ("twice the address", "4011", "4001", "127.0.0.1:4001 stands there twice", "unique"),
    ("twice the name", 'name = "n2"', 'name = "n1"', "n1 stands there twice", ""),
    (
        "member without peer",
        'peer = "127.0.0.1:4013"',
        "",
        "members[2] has no peer",
        "name, listen, http, peer",
    ),
    ("member key", 'name = "n2"', 'name = "n2"\npear = 1', "members[2].pear", "did you mean"),
    ("both ways", 'leader = "n1"', 'leader = "n1"\njoin = ["a:1"]', "both cluster.members and", ""),
    (
        "other address than the row",
        'data = "d"',
        'data = "d"\nlisten = "127.0.0.1:9"',
        "as in this node's row",
        "",
    ),
    ("equal addresses", "127.0.0.1:4002", "127.0.0.1:4001", "127.0.0.1:4001 stands there twice", ""),
    ("open to the world", 'data = "d"', 'data = "d"\nlisten = "0.0.0.0:4001"', "not loopback", "--insecure"),
    ("not TOML", 'data = "d"', "data = ", "not valid TOML", ""),
    ("table is a value", "[cluster]", "settings = 3\n[cluster]", "settings = 3: expected a table", ""),
    ("number too large", "[cluster]", "[settings]\nheartbeat_ms = 99999\n[cluster]", "from 10 to 10000", ""),
    (
        "boolean is no number",
        "[cluster]",
        "[settings]\nheartbeat_ms = true\n[cluster]",
        "= true: expected an int",
        "",
    ),
    ("bad choice", "[cluster]", '[settings]\nlog_level = "loud"\n[cluster]', "one of debug, info", ""),
    (
        "empty durability",
        "[cluster]",
        '[settings]\ndurability = " "\n[cluster]',
        "text that is not empty",
        "",
    ),
]


@pytest.mark.parametrize(("old", "new", "message", "hint"), [w[1:] for w in WRONG], ids=[w[0] for w in WRONG])
def test_error_names_file_key_value_and_expectation(
    write: Write, old: str, new: str, message: str, hint: str
) -> None:
    path = write(GOOD.replace(old, new, 1))
    with pytest.raises(UsageError) as caught:
        load(path, env={})
    assert caught.value.message.startswith(path + ": ")
    assert message in caught.value.message
    assert hint in (caught.value.hint or "")


def test_missing_file_is_named() -> None:
    with pytest.raises(UsageError, match=r"nowhere\.toml: no such file"):
        load("nowhere.toml", env={})


def test_directory_for_a_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="directory"):
        load(str(tmp_path), env={})


def test_binary_file_is_named(tmp_path: Path) -> None:
    path = tmp_path / "x.toml"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(UsageError, match="UTF-8"):
        load(str(path), env={})


def test_bad_environment_value_names_the_variable(write: Write) -> None:
    with pytest.raises(UsageError, match=r'environment: PACELINE_HEARTBEAT_MS = "fast": expected an integer'):
        load(write(GOOD), env={"PACELINE_HEARTBEAT_MS": "fast"})


def test_unknown_override_is_an_error(write: Write) -> None:
    with pytest.raises(UsageError, match=r"unknown key cluster\.leadr"):
        load(write(GOOD), {"cluster.leadr": "n1"}, env={})


def test_neither_members_nor_join_founds_nothing_by_accident(write: Write) -> None:
    text = 'name="a"\ndata="."\nlisten="127.0.0.1:1"\nhttp="127.0.0.1:2"\npeer="127.0.0.1:3"\n'
    with pytest.raises(UsageError, match=r"neither cluster\.members nor cluster\.join"):
        load(write(text), env={})


def test_joining_with_a_wildcard_needs_an_advertised_address(write: Write) -> None:
    text = "insecure = true\n" + JOINING.format("0.0.0.0")
    with pytest.raises(UsageError, match="others can reach; set advertise"):
        load(write(text), env={})
    more = 'advertise="10.0.0.1:1"\nadvertise_http="10.0.0.1:2"\nadvertise_peer="10.0.0.1:3"\n'
    assert load(write(more + text), env={}).advertise_peer == "10.0.0.1:3"


@pytest.mark.parametrize("address", ["10.0.0.1:1", "example.org:1", "[2001:db8::1]:1"])
def test_addresses_beyond_loopback_need_insecure(write: Write, address: str) -> None:
    text = JOINING.format("127.0.0.1").replace('peer="127.0.0.1:3"', f'peer="{address}"')
    with pytest.raises(UsageError, match="not loopback"):
        load(write(text), env={})
    assert load(write(text), {"insecure": True}, env={}).peer == address


@pytest.mark.parametrize("host", ["127.0.0.1", "127.9.9.9", "localhost", "[::1]"])
def test_loopback_addresses_are_fine(write: Write, host: str) -> None:
    load(write(JOINING.format(host)), env={})


def test_every_setting_has_a_key_and_a_variable() -> None:
    for name in Settings.__struct_fields__:
        assert ENVIRONMENT[f"PACELINE_{name.upper()}"] == f"settings.{name}"
    assert ENVIRONMENT["PACELINE_CLUSTER_LEADER"] == "cluster.leader"


def test_no_variable_means_something_else_to_the_command_line() -> None:
    assert not {"PACELINE_CONNECT", "PACELINE_DIR", "PACELINE_DEBUG", "PACELINE_CONFIG"} & ENVIRONMENT.keys()


def test_split_address_takes_brackets_off() -> None:
    assert split_address("[::1]:80") == ("::1", 80)


@given(
    durability=st.text(min_size=1).filter(str.strip).filter(lambda t: "\0" not in t),
    heartbeat=st.integers(10, 10_000),
    foreign_keys=st.booleans(),
)
def test_written_file_loads_as_the_same_configuration(
    tmp_path_factory: pytest.TempPathFactory, durability: str, heartbeat: int, foreign_keys: bool
) -> None:
    directory = tmp_path_factory.mktemp("config")
    path = directory / "n.toml"
    path.write_text(GOOD)
    overrides = {
        "settings.durability": durability,
        "settings.heartbeat_ms": heartbeat,
        "settings.foreign_keys": foreign_keys,
    }
    config = load(str(path), overrides, env={})
    path.write_text(to_toml(config, base=str(directory)), encoding="utf-8")
    assert load(str(path), env={}) == config
    assert 'data = "d"' in path.read_text(encoding="utf-8")


def test_joining_configuration_survives_the_file(write: Write) -> None:
    config = load(write("insecure=true\n" + JOINING.format("10.0.0.9")), env={})
    assert load(write(to_toml(config)), env={}) == config


def test_authority_is_auto_unless_the_file_says_designated(write: Write) -> None:
    assert load(write(GOOD), env={}).authority == "auto"
    text = GOOD.replace('leader = "n1"', 'leader = "n1"\nauthority = "designated"')
    assert load(write(text), env={}).authority == "designated"
    with pytest.raises(UsageError, match="expected one of auto, designated"):
        load(write(text.replace("designated", "anarchy")), env={})


def test_joining_node_does_not_decide_the_authority(write: Write) -> None:
    text = JOINING.format("127.0.0.1") + 'authority = "auto"\n'
    with pytest.raises(UsageError, match=r"cluster\.authority.*decides it"):
        load(write(text), env={})


def test_election_timeout_is_at_least_five_heartbeats(write: Write) -> None:
    def timeout(settings: str) -> int:
        return load(write(GOOD + f"[settings]\n{settings}\n"), env={}).settings.election_timeout_ms

    assert timeout("") == Settings().election_timeout_ms
    assert timeout("heartbeat_ms = 400") == 2000, "slow heartbeats raise a timeout that nobody chose"
    assert timeout("heartbeat_ms = 40\nelection_timeout_ms = 200") == 200
    with pytest.raises(
        UsageError, match=r"election_timeout_ms = 199: expected at least 200, .*heartbeat_ms \(40\)"
    ):
        timeout("heartbeat_ms = 40\nelection_timeout_ms = 199")
