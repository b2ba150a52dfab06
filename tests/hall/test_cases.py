"""Inputs modelled on public bug reports, by the name that each case has in issues, and the test that holds its right
result."""

import ast

import pytest

from swiftkv.config import ROOT

CASES = {
    "D1 devices of a job without a GPU": "hall/test_devices.py::test_what_was_inherited_is_respected",
    "J0 a template that looks at the first message": (
        "workloads/test_documents.py::test_chats_without_question_or_answer_are_kept_or_counted"
    ),
    "J1 a byte order mark before JSON Lines": (
        "hall/test_files.py::test_a_byte_order_mark_before_json_lines_is_no_part_of_them"
    ),
    "J3 empty chats": "workloads/test_documents.py::test_chats_without_question_or_answer_are_kept_or_counted",
    "J4 turns of tools": "workloads/test_chat.py::test_turns_of_tools_and_lists_of_parts_are_named",
    "J5 content as a list of parts": "workloads/test_chat.py::test_turns_of_tools_and_lists_of_parts_are_named",
    "J6 emoji": "workloads/test_chat.py::test_characters_beyond_the_basic_plane_are_read",
    "J6 half of a surrogate pair": "workloads/test_chat.py::test_unknown_rows_are_named",
    "K1 KV kept outside the engine": (
        "vllm/test_kv_connector.py::test_kv_that_was_written_elsewhere_gives_the_same_answers"
    ),
    "M1 no padding token": "base_model/test_foreign_models.py::test_everyone_reads_the_same_model",
    "M1 advice": "base_model/test_foreign_models.py::test_a_model_without_padding_token_is_advised_on",
    "M3 keys that a config.json leaves out": (
        "modeling/test_convert.py::test_a_shape_has_what_its_class_says_of_keys_left_out"
    ),
    "M4 quantised weights": "base_model/test_foreign_models.py::test_quantised_bases_are_refused_by_name",
    "M6 tied, with a head of its own": "base_model/test_foreign_models.py::test_everyone_reads_the_same_model",
    "M8 two formats in one directory": "modeling/test_families.py::test_checkpoints_of_other_makes_are_read_alike",
    "M10 a tokenizer that begins texts": (
        "workloads/test_bos.py::test_generated_prompts_begin_as_a_server_would_begin_them"
    ),
    "M12 defaults of sampling": "evals/test_accuracy.py::test_end_to_end_through_vllm",
    "M13 biases": "modeling/test_families.py::test_checkpoints_of_other_makes_are_read_alike",
    "M14 Llama 3.1's RoPE": "base_model/test_foreign_models.py::test_everyone_reads_the_same_model",
    "M14 in a new process": (
        "base_model/test_foreign_models.py::test_a_student_with_llama3_rope_has_a_tokenizer_in_a_new_process"
    ),
    "S1 a dry run beside a run": (
        "pipeline/test_places.py::test_a_dry_run_with_another_configuration_leaves_a_run_alone"
    ),
    "S2 an edited tokenizer": "pipeline/test_base.py::test_whatever_a_base_is_made_of_reruns_it",
    "S3 blanks in paths": "pipeline/test_places.py::test_a_project_whose_path_holds_blanks",
    "S4 another directory": "pipeline/test_places.py::test_from_another_directory",
    "T1 4e-05": "workloads/test_traffic.py::test_small_floats_as_pandas_writes_them",
    "T3 other columns": "workloads/test_traffic.py::test_what_cannot_be_read_is_named",
    "T3 blanks around names": "workloads/test_traffic.py::test_blanks_around_names_and_fields_and_whole_floats",
    "T4 failed requests": "workloads/test_traffic.py::test_failed_requests_are_left_out_and_said",
    "T6 dates with offsets": "workloads/test_traffic.py::test_dates_keep_their_fraction_and_offset",
    "V1 echo with log-probabilities": (
        "engines/test_serving.py::test_prompt_logprobs_are_a_bad_request_and_the_server_goes_on"
    ),
}


@pytest.mark.parametrize("case", CASES)
def test_every_case_has_its_test(case):
    file, _, name = CASES[case].partition("::")
    tree = ast.parse((ROOT / "tests" / file).read_text(encoding="utf-8"))
    assert name in {node.name for node in tree.body if isinstance(node, ast.FunctionDef)}
