"""The summary of `divergence`: known numbers, intervals that hold them, sets that weigh the same."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from swiftkv import files
from swiftkv.errors import UserError
from swiftkv.evals.divergence_summary import summarise, summary
from swiftkv.registry import FILES
from tests.helpers.config import make_config

NUMBERS = {"qmsum": [(3.0, 3.5, 0.4, 0.75), (2.0, 2.1, 0.2, 0.85)], "gsm8k_test": [(1.0, 1.4, 0.6, 0.5)] * 3}


def rows_of(numbers=NUMBERS) -> pd.DataFrame:
    """Base and student from (base NLL, NLL, KL, agreement) per document."""
    made = []
    for arm in ("base", "skip50"):
        for name, documents in numbers.items():
            for number, (base_nll, nll, kl, agreement) in enumerate(documents):
                mine = (nll, kl, agreement) if arm == "skip50" else (base_nll, 0.0, 1.0)
                counted = {"tokens": 99, "read_tokens": 100, "text_tokens": 100 + number}
                means = dict(zip(("nll", "kl", "agreement"), mine, strict=True)) | {"base_nll": base_nll}
                made.append({"arm": arm, "set": name, "document": f"{name}/{number}", "mode": "full"} | counted | means)
    return pd.DataFrame(made)


@pytest.fixture(scope="module")
def table():
    return summary(rows_of(), seed=0).set_index(["arm", "set"])


def test_means_over_documents_and_over_sets(table):
    qmsum, gsm8k, mean = (table.loc["skip50", name] for name in ("qmsum", "gsm8k_test", "mean"))
    assert (qmsum.documents, qmsum.cut, qmsum.tokens, mean.documents, mean.cut) == (2, 1, 198, 5, 3)
    assert qmsum.perplexity == pytest.approx(np.exp(2.8)) and qmsum.base_perplexity == pytest.approx(np.exp(2.5))
    assert mean.perplexity == pytest.approx(np.exp((2.8 + 1.4) / 2))
    assert [qmsum.kl, gsm8k.kl, mean.kl] == pytest.approx([0.3, 0.6, 0.45])
    assert [qmsum.agreement, mean.agreement] == pytest.approx([0.8, 0.65])
    assert [qmsum.nll_difference, mean.nll_difference] == pytest.approx([0.3, 0.35])


def test_intervals_are_over_documents(table):
    qmsum, gsm8k, mean = (table.loc["skip50", name] for name in ("qmsum", "gsm8k_test", "mean"))
    assert 0.2 <= qmsum.kl_ci_low < 0.3 < qmsum.kl_ci_high <= 0.4
    assert gsm8k.kl_ci_low == gsm8k.kl_ci_high == pytest.approx(0.6)
    assert mean.kl_ci_low < 0.45 < mean.kl_ci_high
    assert qmsum.detectable_nll_difference > 0 and gsm8k.detectable_nll_difference == pytest.approx(0, abs=1e-12)


def test_the_base_is_its_own_reference(table):
    base = table.loc["base"]
    assert (base.kl == 0).all() and (base.agreement == 1).all() and base.detectable_nll_difference.isna().all()
    assert (base.kl_ci_low == base.kl_ci_high).all() and (base.perplexity == base.base_perplexity).all()


LIKELIHOODS = st.floats(0.1, 9)
DOCUMENT = st.tuples(LIKELIHOODS, LIKELIHOODS, st.floats(0, 5), st.floats(0, 1))


@settings(max_examples=15)
@given(st.lists(DOCUMENT, min_size=2, max_size=6))
def test_more_documents_of_the_same_kind_narrow_the_interval(documents):
    """And leave the means as they are."""
    few, many = (summary(rows_of({"qmsum": documents * times}), 0).iloc[2] for times in (1, 4))
    for value in ("kl", "agreement", "nll_difference", "perplexity"):
        assert many[value] == pytest.approx(few[value])
    for name in ("kl", "agreement", "nll"):
        width = [row[f"{name}_ci_high"] - row[f"{name}_ci_low"] for row in (few, many)]
        assert width[1] <= width[0] + 1e-9


def test_a_file_that_is_missing_or_another(tmp_path):
    with pytest.raises(UserError, match=r"documents\.jsonl: no such file"):
        summarise(make_config(), tmp_path / "documents.jsonl", tmp_path / "summary.csv")
    files.write_jsonl(tmp_path / "documents.jsonl", [{"arm": "base"}])
    with pytest.raises(UserError, match=r"documents\.jsonl: column set, document, mode"):
        summarise(make_config(), tmp_path / "documents.jsonl", tmp_path / "summary.csv")
    assert not (tmp_path / "summary.csv").exists()


def test_what_is_written_is_what_is_registered(tmp_path):
    files.write_jsonl(tmp_path / "documents.jsonl", rows_of().to_dict("records"))
    summarise(make_config(), tmp_path / "documents.jsonl", tmp_path / "summary.csv")
    assert tuple(pd.read_csv(tmp_path / "summary.csv").columns) == FILES["divergence"].columns
    record = files.read_json(tmp_path / "summary.csv.provenance.json")
    assert list(record["data_sha256"].values()) == [files.sha256(tmp_path / "documents.jsonl")]
