"""The gates pass on sound students, fail on unsound ones, and are written before the error."""

from fractions import Fraction

import pytest

from swiftkv import files
from swiftkv.errors import UserError
from swiftkv.evals import gates, reference
from swiftkv.modeling.convert import convert
from tests.helpers.config import make_config

SMALL = {
    "variants": [{"name": "skip50-across2", "skip": 0.5, "key_value_group_size": 2}],
    "verify": {
        "prompt_lengths": [1, 150],
        "generate": 8,
        "max_num_batched_tokens": 64,
        "tolerance": 0.001,
    },
    "accuracy": {"undistilled": []},
}
STUDENT = "skip50-across2"


def small_config(**changes):
    return make_config(SMALL, changes)


@pytest.fixture(scope="module")
def students(tiny_base, tmp_path_factory):
    directory = tmp_path_factory.mktemp("verify") / STUDENT
    convert(tiny_base, directory, 4, 2)
    return {STUDENT: directory}


def test_kv_memory_divides_into_whole_blocks_for_every_model(tiny_base, students):
    checks = gates.Checks(small_config(), tiny_base, students)
    per_block = 2 * 1 * 32 * 4 * gates.BLOCK
    for shape, caches in ((checks.base, 8), (gates.read_shape(students[STUDENT]), 6)):
        assert checks.kv_caches(shape) == caches
        assert checks.kv_bytes() % (per_block * caches) == 0
    assert checks.kv_bytes() / (per_block * 8) * gates.BLOCK >= 8 * checks.max_len


def test_prompts_are_held_out_text_of_every_task_at_every_length(tiny_base):
    first, second = (gates.prompts(small_config(), tiny_base) for _ in range(2))
    prompts, questions = first
    assert first == second and sorted(map(len, prompts)) == [1] * 4 + [150] * 4
    assert len(questions) == len(prompts) and all(len(question) > 3 for question in questions)


def test_reference_sees_a_wrong_logit_and_a_wrong_token(tiny_base):
    from swiftkv.evals.reference import Answer, Reference

    reference = Reference(tiny_base)
    row = reference.logits([1, 2, 3])[-1]
    best, other = int(row.argmax()), int(row.argmin())
    right = Answer([1, 2, 3], [best], [{best: row[best].item(), other: row[other].item()}], 0)
    wrong = Answer([1, 2, 3], [other], [{best: row[best].item() + 0.5}], 0)
    assert (reference.compare([right]).delta, reference.compare([right]).mismatches) == (0, 0)
    assert reference.compare([right, wrong]).delta == pytest.approx(0.5, abs=1e-5)
    assert reference.compare([right, wrong]).mismatches == 1


@pytest.mark.vllm
def test_gates_pass_and_say_what_they_measured(tiny_base, students, tmp_path):
    out = tmp_path / "gates.json"
    gates.run(small_config(), tiny_base, students, out)
    result = files.read_json(out)
    by_name = {(gate["variant"], gate["gate"]): gate for gate in result["gates"]}
    assert result["passed"] and len(by_name) == len(result["gates"])
    assert {gate for variant, gate in by_name if variant == STUDENT} == {
        "early-exit",
        "logits",
        "logits-chunked-prefill",
        "logits-prefix-caching",
        "prefix-cache-hits",
        "prompt-logprobs-refused",
        "kv-capacity",
        "full-prefill-prompt-logits",
    }
    assert by_name["base", "l-equals-L"]["measured"] == 0
    assert by_name[STUDENT, "kv-capacity"]["measured"] == float(Fraction(8, 6))
    assert by_name[STUDENT, "early-exit"]["measured"] == 8
    assert by_name[STUDENT, "prefix-cache-hits"]["measured"] >= 128
    assert files.read_json(f"{out}.provenance.json")["stage"] == "verify"


@pytest.mark.vllm
def test_failed_gates_are_written_and_named(tiny_base, students, tmp_path, monkeypatch):
    """Full prefill by environment breaks the promises of early exit; no tolerance fails every comparison; prompt logits
    have to be off by more than Transformers' own rounding."""
    monkeypatch.setenv("SWIFTKV_FULL_PREFILL", "1")
    off = reference.Reference.prompt_delta
    monkeypatch.setattr(reference.Reference, "prompt_delta", lambda *given: off(*given) + 0.01)
    out = tmp_path / "gates.json"
    with pytest.raises(UserError, match=rf"{STUDENT} early-exit: 604, limit 8"):
        gates.run(small_config(verify={"tolerance": 1e-12}), tiny_base, students, out)
    result = files.read_json(out)
    failed = {gate["gate"] for gate in result["gates"] if not gate["passed"]}
    assert not result["passed"]
    assert {"early-exit", "prompt-logprobs-refused", "logits", "full-prefill-prompt-logits"} <= failed
    assert not {"kv-capacity", "l-equals-L", "prefix-cache-hits"} & failed


def test_damaged_student_is_refused_before_anything_runs(tiny_base, tmp_path):
    with pytest.raises(UserError, match="nowhere"):
        gates.run(small_config(), tiny_base, {STUDENT: tmp_path / "nowhere"}, tmp_path / "gates.json")
    assert not (tmp_path / "gates.json").exists()
