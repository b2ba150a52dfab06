"""Hand-made rows in the published form of each real set, and a mirror that holds them."""

import csv
import gzip
import hashlib
import io
import json
import tarfile
from pathlib import Path

from swiftkv.workloads import downloads, real
from swiftkv.workloads.real import defog, humaneval, infilling, nq_open, published, qmsum, texts
from swiftkv.workloads.tasks.base import Item

SHOP = """CREATE SCHEMA IF NOT EXISTS public;
CREATE TABLE public.sale (
    id SERIAL PRIMARY KEY,
    item text DEFAULT ''::text, -- what was sold
    price numeric(10,2),
    day date
);
INSERT INTO public.sale (item, price, day) VALUES
('tea', 2.5, CURRENT_DATE - INTERVAL '1 day'), ('pot', 9, '2024-01-02'), ('tea', 3.5, CURRENT_DATE);
"""
QUERIES = {
    "SELECT item, SUM(price) FROM sale GROUP BY item; SELECT item FROM sale WHERE price > 100;": "group_by",
    "SELECT item, price FROM sale ORDER BY price DESC": "order_by",
    "SELECT COUNT(*) FROM sale WHERE day >= DATE('now', '-2 days')": "date_functions",
}
LINES = ["    total = a + b\n", "    return total\n"]
ADD = {"task_id": "Add/0", "prompt": 'def add(a, b):\n    """Sum."""\n', "canonical_solution": "".join(LINES)}
GAPS = [
    {**ADD, "task_id": "Gap/0", "suffix": LINES[1], "canonical_solution": LINES[0]},
    {**ADD, "task_id": "Gap/1", "prompt": ADD["prompt"] + LINES[0], "suffix": "", "canonical_solution": LINES[1]},
]
TURNS = [{"speaker": name, "content": f"{name} speaks {{vocalsound}} ."} for name in ("Ann", "Ben", "Cem", "Dan")]
MEETING = {
    "meeting_transcripts": TURNS,
    "general_query_list": [{"query": "Summarize the meeting.", "answer": "All of them spoke."}],
    "specific_query_list": [
        {"query": "Who came last?", "answer": "Dan did.", "relevant_text_span": [["1", "1"], ["3", "3"]]}
    ],
}
PASSAGE = {
    "question": "who wrote it",
    "answers": ["The Ann Lee", "Lee"],
    "ctxs": [{"title": "It", "text": "Ann Lee wrote it."}],
}
# Documents enough to be drawn from: three of each set, of which one is short and two passages are the same.
MEETINGS = [MEETING | {"meeting_transcripts": TURNS * times} for times in (1, 2, 4)]
PROBLEMS = [{"question": f"What is {n} and {n}?", "answer": f"{n} + {n} = {2 * n}\n#### {2 * n}"} for n in (7, 70, 700)]
FUNCTIONS = [ADD | {"task_id": f"Add/{n}", "prompt": f"def add{n}(a, b):\n" + n * "    # Sum.\n"} for n in range(3)]
PASSAGES = [
    PASSAGE | {"ctxs": [{"title": "It", "text": text}]} for text in ("Ann wrote it.", "Ben read it.", "Ann wrote it.")
]


def lines(rows: list[dict]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def gzipped(rows: list[dict]) -> bytes:
    return gzip.compress(lines(rows))


def questions() -> bytes:
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(["db_name", "query_category", "query", "question", "instructions"])
    writer.writerows(["shop", category, query, "What?", ""] for query, category in QUERIES.items())
    return text.getvalue().encode()


HAND_MADE = {
    infilling.FILE: gzipped(GAPS),
    humaneval.FILE: gzipped([ADD]),
    defog.FILE: questions(),
    qmsum.FILE: json.dumps(MEETING).encode(),
    nq_open.FILE: gzipped([PASSAGE]),
    "defog_data/shop/shop.sql": SHOP.encode(),
}


def make_mirror(folder: Path, monkeypatch, changed: dict[str, bytes] | None = None) -> Path:
    """Have the hand-made files, some of them `changed`, count as the pinned ones, in a mirror at `folder`."""
    known = {}
    (folder / "evals").mkdir()
    for name, data in (HAND_MADE | (changed or {})).items():
        archive = "ddl.tar.xz" if name.endswith(".sql") else ""
        known[name] = {"file": name, "archive": archive, "url": "u", "sha256": hashlib.sha256(data).hexdigest()}
        if archive:
            with tarfile.open(folder / "evals" / archive, "w:xz") as tar:
                member = tarfile.TarInfo(name)
                member.size = len(data)
                tar.addfile(member, io.BytesIO(data))
        else:
            (folder / "evals" / name).write_bytes(data)
    monkeypatch.setattr(published, "sources", lambda: known)
    monkeypatch.setenv(downloads.MIRROR_VARIABLE, str(folder))
    return folder


def items(name: str, tokenizer, count: int = 1, chat: bool = False, **settings) -> list[Item]:
    return real.items(name, {"items": count, **settings}, 0, tokenizer, chat)


def right(item: Item) -> str:
    """A right answer as a model gives it: up to the text that stops it."""
    return item.answer.rstrip(";") if item.task == "defog" else item.answer


def readable() -> dict[str, bytes]:
    """The files of the sets that `swiftkv divergence` reads, for `make_mirror`."""
    return {
        qmsum.FILE: lines(MEETINGS),
        texts.GSM8K_TEST: lines(PROBLEMS),
        humaneval.FILE: gzipped(FUNCTIONS),
        nq_open.FILE: gzipped(PASSAGES),
    }
