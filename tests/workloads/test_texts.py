"""Published texts: what a document is, in which order they are drawn, and the published files themselves."""

import os

import pytest

from swiftkv.errors import UserError
from swiftkv.workloads import downloads
from swiftkv.workloads.real import texts
from tests.helpers.real_rows import FUNCTIONS, PASSAGES, PROBLEMS, make_mirror, readable

COUNTS = {"qmsum": 35, "gsm8k_test": 1319, "humaneval": 164, "nq_passages": 2600}


@pytest.fixture
def mirror(tmp_path, monkeypatch):
    return make_mirror(tmp_path, monkeypatch, readable())


def test_documents_are_whole(mirror):
    found = {name: {text.id: text.text for text in read()} for name, read in texts.TEXTS.items()}
    assert found["qmsum"]["qmsum/0"] == "".join(f"{name}: {name} speaks .\n" for name in ("Ann", "Ben", "Cem", "Dan"))
    assert found["gsm8k_test"]["gsm8k_test/0"] == f"{PROBLEMS[0]['question']}\n{PROBLEMS[0]['answer']}"
    assert found["humaneval"]["Add/2"] == FUNCTIONS[2]["prompt"] + FUNCTIONS[2]["canonical_solution"]
    assert list(found["nq_passages"].values()) == [f"It\n{row['ctxs'][0]['text']}" for row in PASSAGES[:2]]


@pytest.mark.parametrize("name", texts.TEXTS)
def test_the_order_depends_on_the_seed_alone(name, mirror):
    orders = {tuple(text.id for text in texts.shuffled(name, seed)) for seed in range(9)}
    assert len({frozenset(order) for order in orders}) == 1 and len(orders) > 1
    assert texts.shuffled(name, 3) == texts.shuffled(name, 3)


def test_a_missing_file_names_the_section(mirror):
    (mirror / "evals" / texts.GSM8K_TEST).unlink()
    with pytest.raises(UserError, match=r"gsm8k_test\.jsonl: cannot be read .*; divergence needs gsm8k_test\.jsonl in"):
        texts.shuffled("gsm8k_test", 0)


@pytest.mark.skipif(
    not os.environ.get(downloads.MIRROR_VARIABLE), reason=f"needs the published files ({downloads.MIRROR_VARIABLE})"
)
@pytest.mark.parametrize("name", texts.TEXTS)
def test_published_sets_hold_every_document_once(name):
    found = texts.TEXTS[name]()
    assert len(found) == len({text.id for text in found}) == len({text.text for text in found}) == COUNTS[name]
    assert all(len(text.text) > 20 for text in found)
