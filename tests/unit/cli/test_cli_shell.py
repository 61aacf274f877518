"""The shell without a terminal, and its completion."""

from __future__ import annotations

from pathlib import Path

import pytest
from clifakes import FakeClient, run
from prompt_toolkit.completion import CompleteEvent
from prompt_toolkit.document import Document

from paceline.cli.context import Target
from paceline.cli.shell.completion import SqlCompleter
from paceline.cli.shell.session import DOT_COMMANDS, Feeder, Quit, Session
from paceline.errors import SqlError, UsageError


class Shell:
    def __init__(self, fake: FakeClient) -> None:
        self.out: list[str] = []
        self.session = Session(fake, Target(["127.0.0.1:4001"], None), out=self.out.append)  # type: ignore[arg-type]

    def __call__(self, text: str) -> str:
        self.out.clear()
        self.session.handle(text)
        return "\n".join(self.out)


@pytest.fixture
def shell(fake: FakeClient) -> Shell:
    return Shell(fake)


def feed(*lines: str) -> list[str | None]:
    feeder = Feeder()
    return [*(feeder.feed(line) for line in lines), feeder.flush()]


def test_lines_are_collected_until_the_statement_ends() -> None:
    assert feed("SELECT 1", "  + 1;", "SELECT 2") == [None, "SELECT 1\n  + 1;", None, "SELECT 2"]


def test_semicolon_inside_a_string_or_trigger_ends_nothing() -> None:
    trigger = ["CREATE TRIGGER a AFTER INSERT ON t BEGIN", " SELECT ';';", "END;"]
    assert feed(*trigger) == [None, None, "\n".join(trigger), None]


def test_dot_commands_are_inputs_of_their_own() -> None:
    assert feed(".tables", "", "SELECT", ".5;") == [".tables", None, None, "SELECT\n.5;", None]


def test_read_shows_rows_and_their_number(shell: Shell, fake: FakeClient) -> None:
    fake.rows = (["a"], [[1], [2]])
    assert shell("SELECT a FROM t;") == "a\n─\n1\n2\n(2 rows)"


def test_write_shows_its_receipt(shell: Shell) -> None:
    assert shell("DELETE FROM t;") == "1 row affected; quorum at 1/42, durable on n1, n2, applied on n1"


def test_several_statements_of_one_input_are_one_transaction(shell: Shell, fake: FakeClient) -> None:
    shell("DELETE FROM t; DELETE FROM u;")
    assert [len(call[1]) for call in fake.calls] == [2]


def test_settings_travel_with_the_statements(shell: Shell, fake: FakeClient) -> None:
    shell(".durability any 2")
    shell("DELETE FROM t;")
    shell(".read session")
    shell("SELECT 1;")
    assert fake.calls[0][2] == "any 2"
    assert fake.calls[1][3:] == ("session", None), "the client knows what this shell has seen"
    shell(".durability default")
    shell("DELETE FROM t;")
    assert fake.calls[2][2] is None


def test_local_read_sends_no_token(shell: Shell, fake: FakeClient) -> None:
    shell("DELETE FROM t;")
    shell("SELECT 1;")
    assert fake.calls[-1][3:] == ("local", None)


def test_modes_change_the_output(shell: Shell, fake: FakeClient) -> None:
    fake.rows = (["a", "b"], [[1, b"\x01"]])
    shell(".mode csv")
    assert shell("SELECT 1;") == "a,b\n1,x'01'"
    shell(".mode json")
    assert shell("SELECT 1;") == '{"a": 1, "b": {"base64": "AQ=="}}'
    assert shell("DELETE FROM t;") == "", "programs that read the output want no receipt in it"


def test_read_bounded_and_durability_with_applied_are_kept_for_what_follows(
    shell: Shell, fake: FakeClient
) -> None:
    shell(".read bounded 500")
    assert shell(".read") == "read is bounded 500"
    shell("SELECT 1;")
    assert fake.calls[-1][3] == "bounded 500"
    shell(".durability first 1 (n2, n3) + applied")
    shell("DELETE FROM t;")
    assert fake.calls[-1][2] == "first 1 (n2, n3)+applied"


def test_timer_is_switched_without_an_argument(shell: Shell) -> None:
    shell(".timer")
    assert "time: " in shell("SELECT 1;")
    shell(".timer off")
    assert "time: " not in shell("SELECT 1;")


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (".tabels", "no command .tabels", "did you mean .tables?"),
        (".read linear", "unknown read level 'linear'", "linearizable, bounded MS"),
        (".read bounded", "how old", "bounded 500"),
        (".mode", "", ""),
        (".durability most", "most", ""),
    ],
)
def test_wrong_dot_commands_are_explained(shell: Shell, text: str, message: str, hint: str) -> None:
    if not message:
        assert shell(text) == "mode is table"
        return
    with pytest.raises(UsageError) as caught:
        shell(text)
    assert message in caught.value.message and hint in (caught.value.hint or "")


def test_help_lists_every_dot_command(shell: Shell) -> None:
    text = shell(".help")
    assert all(name in text for name in DOT_COMMANDS)


def test_nodes_and_status_show_the_members(shell: Shell) -> None:
    assert "n3" in shell(".nodes") and "127.0.0.1:4021" in shell(".nodes")
    assert "leader n1" in shell(".status")


def test_quit_leaves(shell: Shell) -> None:
    with pytest.raises(Quit):
        shell(".quit")


def test_piped_input_runs_and_stops_at_the_first_error(fake: FakeClient) -> None:
    result = run(["shell"], input=".mode csv\nSELECT 1;\n.quit\nSELECT 2;\n")
    assert (result.exit_code, result.stdout) == (0, "x\n1\n")
    fake.error = SqlError("no such table: t", code=1, extended=1, name="SQLITE_ERROR")
    fake.calls.clear()
    result = run(["shell"], input="SELECT 1 FROM t;\nSELECT 2;\n")
    assert result.exit_code == 1 and "paceline: no such table: t" in result.stderr
    assert len(fake.calls) == 1


def complete(fake: FakeClient, text: str) -> list[str]:
    fake.rows = (["name", "name"], [["flights", "id"], ["flights", "dest"], ["planes", "tail"]])
    session = Session(fake, Target([], None))  # type: ignore[arg-type]
    found = SqlCompleter(session).get_completions(Document(text), CompleteEvent())
    return [completion.text for completion in found]


def test_completion_knows_dot_commands_and_their_arguments(fake: FakeClient) -> None:
    assert complete(fake, ".re") == [".read"]
    assert complete(fake, ".read s") == ["session"]
    assert complete(fake, ".schema fl") == ["flights"]
    assert "quorum" in complete(fake, ".durability q")


def test_completion_knows_tables_columns_and_keywords(fake: FakeClient) -> None:
    assert complete(fake, "SELECT * FROM fl") == ["flights"]
    assert complete(fake, "SELECT * FROM flights WHERE de")[0] == "dest"
    assert "tail" not in complete(fake, "SELECT * FROM flights WHERE ta"), "columns of tables in use only"
    assert complete(fake, "SELECT flights.") == ["id", "dest"]
    assert "SELECT" in complete(fake, "SEL")


def test_history_is_private(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    from paceline.cli.shell.prompt import _history

    monkeypatch.setenv("HOME", str(tmp_path))
    _history()
    assert (tmp_path / ".paceline_history").stat().st_mode & 0o777 == 0o600
