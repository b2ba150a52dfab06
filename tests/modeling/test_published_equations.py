"""What others make of a student directory: a decoder written from the papers computes what ours do."""

import json

import pytest
import torch
from safetensors.torch import load_file

from swiftkv.modeling.convert import convert, with_older_names
from tests.helpers.models import FAMILY_CHANGES, save_family_base
from tests.helpers.published_equations import PublishedDecoder
from tests.helpers.vllm_helpers import RAW, SETTINGS, prompts

# A theta that is not the default of anybody's, and the scaled one of Llama 3.1.
ROPES = {
    "llama": {"rope_type": "default", "rope_theta": 500000.0},
    "llama3": FAMILY_CHANGES["llama"]["rope_parameters"],
    "qwen2": {"rope_type": "default", "rope_theta": 1000000.0},
}
LENGTHS = (1, 7, 64, 200)


@pytest.fixture(scope="module")
def student(tmp_path_factory):
    """A function (name of ROPES, group) -> a student of cut 4 of 8."""
    root = tmp_path_factory.mktemp("others")

    def make(name: str, group: int):
        base, out = root / name, root / f"{name}-{group}"
        if not base.exists():
            save_family_base(base, name.removesuffix("3"), rope_parameters=ROPES[name])
        if not out.exists():
            convert(base, out, 4, group)
        return out

    return make


def ours(directory, ids: torch.Tensor) -> torch.Tensor:
    """Logits [T, vocabulary] of our Transformers class, in float64 but for the angles of its rotary embedding."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(directory, dtype=torch.float64).eval()
    with torch.inference_mode():
        return model(ids[None]).logits[0]


@pytest.mark.parametrize("group", [1, 2, 4])
@pytest.mark.parametrize("name", ROPES)
def test_an_outsider_computes_what_our_class_does(student, name, group):
    directory = student(name, group)
    decoder, mistaken = PublishedDecoder(directory), PublishedDecoder(directory, theta=10000.0)
    wrong = 0
    for ids in map(torch.tensor, prompts(LENGTHS)):
        theirs, expected = decoder.logits(ids), ours(directory, ids)
        assert torch.equal(theirs.argmax(-1), expected.argmax(-1))
        torch.testing.assert_close(theirs, expected, rtol=0, atol=1e-3)
        # Early exit: the same, at the position that is answered.
        torch.testing.assert_close(decoder.logits(ids, early_exit=True)[0], expected[-1], rtol=0, atol=1e-3)
        wrong += int((mistaken.logits(ids).argmax(-1) != expected.argmax(-1)).sum())
    assert wrong > 20  # what readers of `rope_theta` make of a student that does not say it


@pytest.mark.vllm
@pytest.mark.parametrize("name", ["llama3", "qwen2"])
def test_an_outsider_with_early_exit_answers_as_vllm_does(student, name):
    from swiftkv.engines.engine import engine
    from swiftkv.evals.reference import generate

    directory, asked = student(name, 2), prompts((1, 64, 200))
    with engine(directory, **SETTINGS | RAW | {"max_num_batched_tokens": 97}) as opened:
        answers = generate(opened, asked, 6)
    decoder = PublishedDecoder(directory)
    for prompt, answer in zip(asked, answers, strict=True):
        ids = list(prompt)
        for token in answer.tokens:
            assert int(decoder.logits(torch.tensor(ids), early_exit=True).argmax()) == token
            ids.append(token)


@pytest.mark.parametrize(
    ("raw", "added"),
    [
        ({}, {}),
        ({"rope_theta": 5e5}, {"rope_theta": 5e5}),
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}}, {"rope_theta": 5e5}),
        # Transformers 5 heeds what stands in `rope_parameters` first.
        ({"rope_parameters": {"rope_type": "default", "rope_theta": 5e5}, "rope_theta": 1e4}, {"rope_theta": 5e5}),
        (
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ),
        (
            {"rope_parameters": {"rope_type": "linear", "factor": 2.0, "rope_theta": 5e5}, "rope_scaling": None},
            {"rope_theta": 5e5, "rope_scaling": {"rope_type": "linear", "factor": 2.0}},
        ),
    ],
)
def test_the_rotary_embedding_has_its_older_names_too(raw, added):
    raw = {"model_type": "llama", **raw}
    assert with_older_names(raw) == raw | added
    assert with_older_names(with_older_names(raw)) == with_older_names(raw)


def test_students_say_both(student):
    config = json.loads((student("llama3", 1) / "config.json").read_text())
    scaling = {key: value for key, value in ROPES["llama3"].items() if key != "rope_theta"}
    assert config["rope_parameters"] == ROPES["llama3"] and config["rope_theta"] == 500000.0
    assert config["rope_scaling"] == scaling
    assert not any(".7.self_attn.k_proj." in name for name in load_file(student("llama3", 1) / "model.safetensors"))
