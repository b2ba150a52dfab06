"""Generated SQL, run where it can harm nothing: in a child process, on a database in memory, reading only.

SQLite's authorizer refuses all but reading, its limits bound statements, strings and steps. What they miss (nested
common table expressions blow up in the planner, where no limit holds) the kernel stops: CPU time, memory, no files.
Follows https://www.sqlite.org/security.html. Run as a script, this file is the child: standard library only.
"""

import json
import os
import resource
import signal
import sqlite3
import subprocess
import sys
from functools import cache

READS = {sqlite3.SQLITE_SELECT, sqlite3.SQLITE_READ, sqlite3.SQLITE_FUNCTION}  # not SQLITE_RECURSIVE
LIMITS = {
    sqlite3.SQLITE_LIMIT_SQL_LENGTH: 10_000,
    sqlite3.SQLITE_LIMIT_LENGTH: 10_000,  # bytes of a string, a blob or a table row
    sqlite3.SQLITE_LIMIT_EXPR_DEPTH: 100,
    sqlite3.SQLITE_LIMIT_COMPOUND_SELECT: 20,
    sqlite3.SQLITE_LIMIT_LIKE_PATTERN_LENGTH: 200,
    sqlite3.SQLITE_LIMIT_ATTACHED: 0,
}
STEPS = 1_000_000  # of SQLite's virtual machine, per statement
ROWS = 1000
REPLY_BYTES = 1 << 20
CPU_SECONDS = 0.5  # per request
MEMORY_BYTES = 128 << 20
REFUSALS = (sqlite3.Error, sqlite3.Warning, ValueError)  # ValueError: NUL or a lone surrogate


def read(connection: sqlite3.Connection, statement: str) -> str:
    """The rows of one statement as JSON; null if it fails, returns no table, or exceeds a limit."""
    connection.set_progress_handler(lambda: True, STEPS)
    try:
        cursor = connection.execute(statement)
        rows = None if cursor.description is None else cursor.fetchmany(ROWS + 1)
        text = json.dumps(rows if rows is None or len(rows) <= ROWS else None, default=bytes.hex)
    except REFUSALS:
        return "null"
    except MemoryError:
        os.kill(os.getpid(), signal.SIGKILL)  # the heap is in pieces: the next request needs a fresh process
    return text if len(text) <= REPLY_BYTES else "null"


def answer(script: str, statements: list[str]) -> str:
    """JSON list of what `read` gives for each statement on a fresh database that the trusted `script` fills."""
    connection = sqlite3.connect(":memory:")
    connection.executescript(f"PRAGMA temp_store = MEMORY; {script}")
    for limit, value in LIMITS.items():  # after the script, which may well exceed them
        connection.setlimit(limit, value)
    connection.set_authorizer(lambda action, *_: sqlite3.SQLITE_OK if action in READS else sqlite3.SQLITE_DENY)
    replies = ",".join(read(connection, statement) for statement in statements)
    connection.close()
    return f"[{replies}]"


def serve() -> None:
    """Answer requests, one a line, until the parent is gone; a request beyond its CPU time ends the process."""
    for limit, value in ((resource.RLIMIT_AS, MEMORY_BYTES), (resource.RLIMIT_FSIZE, 0), (resource.RLIMIT_CORE, 0)):
        resource.setrlimit(limit, (value, value))
    for line in sys.stdin:
        signal.setitimer(signal.ITIMER_PROF, CPU_SECONDS)  # set anew by each request; the signal ends the process
        print(answer(*json.loads(line)), flush=True)


@cache
def child() -> subprocess.Popen:
    """The process that runs the statements."""
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    # Isolated and without site packages: it starts at once, and nothing that is installed runs in it.
    return subprocess.Popen([sys.executable, "-I", "-S", __file__], **pipes)


def run(script: str, statements: list[str]) -> list[list[list] | None]:
    """Rows of each read-only statement on a database filled by `script`, which is trusted; blobs are hex text.

    None stands for a statement that is refused, fails or exceeds a limit; for all of them if one ended the process.
    Raises RuntimeError if the child ends by itself, as it does when `script` fails.
    """
    process = child()
    process.stdin.write(json.dumps([script, statements]) + "\n")
    process.stdin.flush()
    if reply := process.stdout.readline():
        return json.loads(reply)
    child.cache_clear()
    if (code := process.wait()) >= 0:
        raise RuntimeError(f"the process that runs SQL ended with code {code}")
    return [None] * len(statements)


if __name__ == "__main__":
    serve()
