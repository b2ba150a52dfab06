"""Generated SQL reads a database in memory and nothing else, however it is written."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftkv.workloads import sqlite_sandbox

SCRIPT = "CREATE TABLE t (a, b); INSERT INTO t VALUES (1, 'x'), (2, NULL);"
ROWS = [[1, "x"], [2, None]]
MANY = ", ".join(f"t t{i}" for i in range(30))  # 2 ** 30 rows
NESTED = "".join(f", c{i} AS (SELECT p.a FROM c{i - 1} p JOIN c{i - 1} q)" for i in range(1, 25))


def run(statement: str):
    return sqlite_sandbox.run(SCRIPT, [statement])[0]


def test_rows_come_back_as_they_are():
    assert run("SELECT * FROM t") == ROWS
    assert run("SELECT x'00ff', 1.5, 'é', NULL") == [["00ff", 1.5, "é", None]]
    assert run("WITH u AS (SELECT a FROM t) SELECT max(a) FROM u;") == [[2]]


def test_statements_of_one_request_do_not_disturb_each_other():
    found = sqlite_sandbox.run(SCRIPT, ["SELECT a FROM t", "DROP TABLE t", "SELECT", "SELECT a FROM t"])
    assert found == [[[1], [2]], None, None, [[1], [2]]]


REFUSED = {
    "insert": "INSERT INTO t VALUES (3, 'y')",
    "update": "UPDATE t SET a = 5",
    "delete": "DELETE FROM t",
    "drop": "DROP TABLE t",
    "create": "CREATE TABLE u (a)",
    "create temporary": "CREATE TEMP TABLE u (a)",
    "create virtual": "CREATE VIRTUAL TABLE v USING fts5(a)",
    "attach": "ATTACH DATABASE '{folder}/made.db' AS made",
    "vacuum into": "VACUUM INTO '{folder}/made.db'",
    "writefile": "SELECT writefile('{folder}/made.db', 'x')",
    "readfile": "SELECT readfile('/etc/hostname')",
    "pragma": "PRAGMA table_info(t)",
    "pragma heap limit": "PRAGMA hard_heap_limit = 1",
    "pragma function": "SELECT * FROM pragma_table_info('t')",
    "extension": "SELECT load_extension('x')",
    "transaction": "BEGIN",
    "two statements": "SELECT 1; SELECT 2",
    "read, then write": "SELECT 1; DROP TABLE t",
    "nothing": "",
    "comment": "-- nothing",
    "NUL": "SELECT '\0'",
    "lone surrogate": "SELECT '\ud800'",
}
STOPPED = {
    "endless recursion": "WITH RECURSIVE c(x) AS (SELECT 1 UNION ALL SELECT x + 1 FROM c) SELECT count(*) FROM c",
    "cross join, counted": f"SELECT count(*) FROM {MANY}",
    "cross join, returned": f"SELECT 1 FROM {MANY}",
    "cross join, sorted": f"SELECT randomblob(9000) AS r FROM {MANY} ORDER BY r",
    "cross join, distinct": f"SELECT DISTINCT hex(randomblob(4000)) FROM {MANY}",
    "too many rows": "SELECT 1 FROM t t1, t t2, t t3, t t4, t t5, t t6, t t7, t t8, t t9, t t10",
    "planner": f"WITH c0 AS (SELECT 1 AS a){NESTED} SELECT count(*) FROM c24",
    "printf": "SELECT printf('%.*c', 1000000000, 'x')",
    "zeroblob": "SELECT zeroblob(1000000000)",
    "randomblob": "SELECT randomblob(1000000000)",
    "replace": "SELECT replace(hex(zeroblob(4900)), '0', hex(zeroblob(4900)))",
    "group_concat": "SELECT group_concat(hex(randomblob(4000))) FROM t t1, t t2, t t3",
    "slow function": f"SELECT sum(instr(hex(zeroblob(4900)), substr(hex(zeroblob(2400)), 2) || 'b')) FROM {MANY}",
    "wide reply": f"SELECT {', '.join(['hex(zeroblob(4900))'] * 300)}",
    "long statement": f"SELECT '{'x' * 20_000}'",
    "deep statement": f"SELECT {'(' * 200}1{')' * 200}",
    "long compound": " UNION ALL ".join(["SELECT 1"] * 50),
}


@pytest.mark.parametrize("statement", [*REFUSED.values(), *STOPPED.values()], ids=[*REFUSED, *STOPPED])
def test_what_does_not_only_read_a_little_is_refused_or_stopped(statement, tmp_path):
    assert run(statement.replace("{folder}", str(tmp_path))) is None
    assert run("SELECT * FROM t") == ROWS, "and the next statement runs as if nothing had been"
    assert not list(tmp_path.iterdir())


def test_limits_admit_what_is_just_within():
    thousand = "(SELECT 1 FROM t t1, t t2, t t3, t t4, t t5, t t6, t t7, t t8, t t9, t t10 LIMIT 1000)"
    assert len(run(f"SELECT * FROM {thousand}")) == sqlite_sandbox.ROWS
    assert run(f"SELECT length('{'x' * 9000}')") == [[9000]]


def test_the_child_holds_little_memory_and_cannot_write():
    run("SELECT 1")
    with open(f"/proc/{sqlite_sandbox.child().pid}/limits", encoding="ascii") as file:
        limits = {line[:25].strip(): line[25:].split() for line in file}
    assert limits["Max address space"][:2] == [str(sqlite_sandbox.MEMORY_BYTES)] * 2
    assert limits["Max file size"][:2] == ["0", "0"]


def test_a_killed_child_is_replaced():
    run("SELECT 1")
    before = sqlite_sandbox.child().pid
    assert run(STOPPED["planner"]) is None
    assert run("SELECT 1") == [[1]]
    assert sqlite_sandbox.child().pid != before


def test_a_script_that_fails_is_an_error():
    with pytest.raises(RuntimeError, match="ended with code 1"):
        sqlite_sandbox.run("CREATE TABLE", ["SELECT 1"])
    assert run("SELECT 1") == [[1]]


WORDS = st.sampled_from("SELECT * FROM t a b ( ) , ; DROP TABLE PRAGMA WITH UNION 1 'x' WHERE count JOIN ON =".split())


@settings(max_examples=200)
@given(st.one_of(st.text(), st.lists(WORDS, max_size=12).map(" ".join)))
def test_any_text_gets_an_answer_and_changes_nothing(statement):
    found, after = sqlite_sandbox.run(SCRIPT, [statement, "SELECT * FROM t"])
    assert found is None or isinstance(found, list)
    assert after == ROWS
