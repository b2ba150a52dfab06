"""Layer similarity: the numbers, on a model where they are known, and the file."""

import math

import pandas as pd
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from swiftkv.errors import UserError
from swiftkv.evals import similarity
from tests.helpers.config import make_config


@pytest.fixture
def model(tiny_base):
    return AutoModelForCausalLM.from_pretrained(tiny_base).eval()


@pytest.fixture
def config():
    return make_config(instead={"similarity": {"prompts": 5}})


def test_sums_of_known_vectors():
    states = torch.tensor([[[1.0, 0.0]], [[1.0, 1.0]], [[0.0, 3.0]]])
    previous, final, change = similarity.sums(states)
    half = math.sqrt(0.5)
    torch.testing.assert_close(previous[1:], torch.tensor([half, half]).double())
    torch.testing.assert_close(final, torch.tensor([0.0, half, 1.0]).double())
    torch.testing.assert_close(change[1:], torch.tensor([1.0, math.sqrt(5) / math.sqrt(2)]).double())
    assert previous[0].isnan()
    assert change[0].isnan()


def test_a_layer_that_does_nothing_has_similarity_one(model, tiny_base):
    with torch.no_grad():
        model.model.layers[3].self_attn.o_proj.weight.zero_()
        model.model.layers[3].mlp.down_proj.weight.zero_()
    frame = similarity.measure(model, AutoTokenizer.from_pretrained(tiny_base), ["some text", "more"])
    idle = frame[frame.layer == 5].iloc[0]
    assert idle.cosine_to_previous == pytest.approx(1.0, abs=1e-6)
    assert idle.relative_change == 0.0
    others = frame[~frame.layer.isin([1, 5])]
    assert (others.relative_change > 0.01).all()


def test_the_final_row_is_before_the_norm(model):
    states = similarity.residual_stream(model, torch.arange(6)[None])
    logits = model.lm_head(model.model.norm(states[-1]))
    torch.testing.assert_close(logits, model(torch.arange(6)[None]).logits[0])


def test_run_writes_one_row_per_layer(config, tiny_base, tmp_path):
    out = tmp_path / "similarity.csv"
    similarity.run(config, tiny_base, out)
    frame = pd.read_csv(out)
    columns = "layer cosine_to_previous cosine_to_final relative_change prompts tokens"
    assert list(frame.columns) == columns.split()
    assert list(frame.layer) == list(range(1, 10))
    assert set(frame.prompts) == {8}  # two of each of the four tasks
    assert frame.cosine_to_final.iloc[-1] == pytest.approx(1.0)
    assert frame.cosine_to_previous[1:].between(-1, 1).all()
    assert (tmp_path / "similarity.csv.provenance.json").is_file()


def test_missing_model_is_a_user_error(config, tmp_path):
    with pytest.raises(UserError, match="no such model directory"):
        similarity.run(config, tmp_path / "none", tmp_path / "out.csv")
