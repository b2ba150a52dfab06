"""Training of the base model: it learns, resumes where it stopped, and stops at the first NaN."""

import pytest
import torch
from safetensors.torch import load_file

from swiftkv.base_model import curriculum, pretrain
from swiftkv.config import ROOT, load_config
from swiftkv.errors import UserError
from tests.helpers.config import make_config

TINY = {
    "train_base": {
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 2,
        "num_key_value_heads": 1,
        "vocab_size": 600,
        "batch_tokens": 400,
        "stages": [
            {"difficulty": 0.3, "sequence_length": 200, "prompt_weight": 0.1, "tokens": 2400},
            {"difficulty": 0.5, "sequence_length": 400, "prompt_weight": 3.0, "tokens": 2400},
        ],
    },
    "tasks": {"rag": {"records": 4, "values": 1}, "code": {"records": 2, "values": 1}},
}


@pytest.fixture
def config(monkeypatch):
    monkeypatch.setattr(pretrain.torch, "compile", lambda function, **_: function)  # minutes of C++ for no gain here
    return make_config(TINY, instead={"tasks": TINY["tasks"]})


def test_stages_follow_each_other_with_growing_contexts(config):
    first, second = curriculum.stages_of(config.train_base, config.tasks)
    assert (first.rows, first.end, second.rows, second.end) == (2, 6, 1, 12)
    assert first.settings["rag"]["records"] == 2 and second.settings["rag"]["records"] == 2


def test_learning_rate_warms_up_stays_and_falls_to_zero(config):
    rates = [pretrain.rate_at(step, 1000, config.train_base) for step in range(1001)]
    assert rates[0] < rates[50] < rates[150] == rates[600] > rates[900] > rates[1000] == 0


def test_interrupted_training_ends_with_the_same_weights(config, tmp_path, monkeypatch):
    pretrain.run(config, tmp_path / "whole", tmp_path / "work-a")
    monkeypatch.setattr(pretrain, "SAVE_EVERY_S", 0)
    step = pretrain.Trainer.train_step

    def dies(trainer, data):
        if trainer.step == 7:
            raise KeyboardInterrupt
        return step(trainer, data)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(pretrain.Trainer, "train_step", dies)
        pretrain.run(config, tmp_path / "parts", tmp_path / "work-b")
    assert not (tmp_path / "parts").exists()
    pretrain.run(config, tmp_path / "parts", tmp_path / "work-b")
    whole, parts = (load_file(tmp_path / name / "model.safetensors") for name in ("whole", "parts"))
    assert whole.keys() == parts.keys() and all(torch.equal(whole[key], parts[key]) for key in whole)


def test_tokenizer_is_kept_with_the_checkpoint(config, tmp_path, monkeypatch):
    first = curriculum.Curriculum(config, tmp_path).tokenizer.get_vocab()
    monkeypatch.setattr(curriculum, "train_tokenizer", lambda *_, **__: pytest.fail("trained again"))
    assert curriculum.Curriculum(config, tmp_path).tokenizer.get_vocab() == first


def test_nan_loss_names_the_step_and_keeps_the_checkpoint(config, tmp_path, monkeypatch):
    monkeypatch.setattr(pretrain, "SAVE_EVERY_S", 0)
    step = pretrain.Trainer.train_step

    def poisoned(trainer, data):
        if trainer.step == 5:
            with torch.no_grad():
                trainer.model.model.norm.weight.fill_(float("nan"))
        return step(trainer, data)

    monkeypatch.setattr(pretrain.Trainer, "train_step", poisoned)
    with pytest.raises(UserError, match="loss is nan at step 5"):
        pretrain.run(config, tmp_path / "out", tmp_path / "work")
    kept = load_file(tmp_path / "work" / "state.safetensors")
    assert not (tmp_path / "out").exists() and all(torch.isfinite(t).all() for t in kept.values())


def test_damaged_checkpoint_is_named(config, tmp_path):
    (tmp_path / "state.safetensors").write_bytes(b"half a file")
    with pytest.raises(UserError, match=r"state\.safetensors: damaged"):
        pretrain.run(config, tmp_path / "out", tmp_path)


def test_first_layer_starts_out_looking_one_token_back():
    torch.manual_seed(0)
    tokenizer = curriculum.train_tokenizer(TINY["tasks"], 600, seed=0, contexts=50)
    recipe = load_config(ROOT / "config" / "config.yaml").train_base
    model = pretrain.build(recipe, tokenizer).eval()
    model.set_attn_implementation("eager")
    ids = torch.randint(2, len(tokenizer), (2, 60))
    attention = model(ids, output_attentions=True).attentions[0]  # [batch, heads, query, key]
    assert attention.diagonal(-1, 2, 3).min() > 0.5
