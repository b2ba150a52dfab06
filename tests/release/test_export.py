"""swiftkv export: the folder loads everywhere, and its card says what the result files of this model say."""

import contextlib
import json
import shutil
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
import torch
from huggingface_hub import ModelCard
from safetensors.torch import load_file, save_file
from typer.testing import CliRunner

from swiftkv import files
from swiftkv.cli import cli
from swiftkv.config import BASE_ARM, ROOT, RunConfig, load_config
from swiftkv.errors import UserError
from swiftkv.evals.harness import model_hashes
from swiftkv.modeling.checkpoint import check_checkpoint, load_tensors, weight_files
from swiftkv.modeling.convert import initial_tensors, write_student
from swiftkv.provenance import Provenance
from swiftkv.release import export, licence, model_card
from swiftkv.release.evidence import Evidence
from swiftkv.results import load
from tests.helpers.synthetic_results import HARDWARE, TASKS, build

CONFIG = load_config(ROOT / "config" / "config.yaml")
ARM, CUT, GROUP = "skip50-across2", 4, 2
TOKEN = "hf_only-a-test"


def test_settings_of_the_data_name_files_and_not_their_places():
    data = {"source": "self", "tokens": 3, "mix": [{"kind": "file", "rows": 1, "files": ["/a/b.txt"]}, {"kind": "own"}]}
    assert model_card.named(data)["mix"] == [{"kind": "file", "rows": 1, "files": ["b.txt"]}, {"kind": "own"}]
    assert model_card.named({"source": "jsonl", "files": ["/a/c.jsonl"]})["files"] == ["c.jsonl"]


def distil(base, models) -> None:
    """A student with weights of its own, and the record of a run that made it."""
    start = initial_tensors(load_tensors(base), 8, CUT, GROUP)
    trained = {name: tensor * 1.01 for name, tensor in start.items()}
    with Provenance("distill", CONFIG, inputs=weight_files(base)) as provenance:
        write_student(base, models / ARM, CUT, GROUP, trained)
        provenance.save(models / "distill.jsonl")


def record_scores(scale, base) -> None:
    """Provenance of the synthetic scores as `swiftkv accuracy` and `accuracy-summary` write it."""
    samples = {arm: scale / "accuracy" / arm / "samples.jsonl" for arm in (BASE_ARM, ARM)}
    for arm, model in ((BASE_ARM, base), (ARM, scale / "models" / ARM)):
        settings = {"dtype": "float32"}
        provenance = Provenance("accuracy", CONFIG, model_sha256=model_hashes(model), settings=settings)
        provenance.record["hardware"] = HARDWARE
        provenance.save(samples[arm])
    Provenance("accuracy-summary", CONFIG, inputs=samples.values()).save(scale / "accuracy" / "summary.csv")


@pytest.fixture(scope="module")
def finished(tiny_base, tmp_path_factory):
    """A finished run below `results`, the base in org/tiny-llama, and the export in `out`; not to be changed."""
    root = tmp_path_factory.mktemp("finished")
    with contextlib.chdir(root):
        base = shutil.copytree(tiny_base, Path("org", "tiny-llama"))
        scale = build(Path("results"), CONFIG)
        shutil.rmtree(scale / "models" / ARM)
        distil(base, scale / "models")
        record_scores(scale, base)
        export.run(CONFIG, ARM, Path("out"))
    return root


@pytest.fixture
def exported(finished):
    return finished / "out"


@pytest.fixture
def scale(finished, tmp_path, monkeypatch):
    """results/cpu of a copy of the run, below the working directory."""
    shutil.copytree(finished, tmp_path, dirs_exist_ok=True)
    shutil.rmtree(tmp_path / "out")
    monkeypatch.chdir(tmp_path)
    return tmp_path / "results" / "cpu"


@pytest.fixture
def base(scale, tmp_path):
    return tmp_path / "org" / "tiny-llama"


@pytest.fixture
def evidence(scale):
    return Evidence(CONFIG, CONFIG.variant(ARM), scale / "models" / ARM)


def table(text: str, header: str) -> dict[str, list[str]]:
    """The pipe table whose header begins so: first cell -> the others."""
    lines = text[text.index(f"| {header} |") :].split("\n\n")[0].splitlines()[2:]
    cells = [[cell.strip() for cell in line.strip("|").split("|")] for line in lines]
    return {first: rest for first, *rest in cells}


def numbers(cell: str) -> list[float]:
    """`1.59 [1.55, 1.62]` as three numbers."""
    return [float(part.strip("[],%")) for part in cell.split()]


def test_accuracy_is_that_of_the_result_file(exported, finished):
    shown = table((exported / "README.md").read_text(), "task")
    rows = load("cpu", finished / "results").accuracy.query("arm == @ARM").set_index("task")
    assert list(shown) == [*TASKS, "mean"]
    for task, (items, score, base, difference, detectable, retention) in shown.items():
        row = rows.loc[task]
        found = [*numbers(score), *numbers(base), *numbers(difference), *numbers(detectable), *numbers(retention)]
        names = "score base_score difference ci_low ci_high detectable_difference retention".split()
        assert found == pytest.approx([100 * row[name] for name in names], abs=0.051)
        assert int(items) == row["items"]


def test_speed_latency_and_capacity_are_those_of_the_result_files(exported, finished):
    text, results = (exported / "README.md").read_text(), load("cpu", finished / "results")
    shown = table(text, "workload")
    rows = results.throughput.query("arm == @ARM").set_index("point")
    assert set(shown) == set(rows.index)
    for point, (lengths, requests, speedup, limit, share) in shown.items():
        row = rows.loc[point]
        assert lengths == f"{row.input_len}:{row.output_len}" and int(requests) == row.num_requests
        measured = [*numbers(speedup), *numbers(limit)]
        assert measured == pytest.approx([row.speedup, row.ci_low, row.ci_high, row.limit], abs=0.0051)
        assert numbers(share) == pytest.approx([100 * row.share_of_limit], abs=0.51)
    latency = results.latency.set_index("arm").loc[ARM]
    assert f"{latency.tpot_ratio:.3f} [{latency.ci_low:.3f}, {latency.ci_high:.3f}]" in text
    assert f"{results.kv_capacity.set_index('arm').ratio_to_base[ARM]:.3f} (formula" in text
    assert text.count(HARDWARE["cpu"]) == 2  # of the scores and of the speed


def test_recipe_and_parameters(exported, finished):
    text = (exported / "README.md").read_text()
    last = load("cpu", finished / "results").distill.query("variant == @ARM").iloc[-1]
    assert f"{last.step} steps, {last.tokens:,} tokens, {last.seconds:.0f} s" in text
    settings = table(text, "setting")
    assert set(settings) == set(CONFIG.raw["distill"])
    assert settings["learning_rate"] == [f"`{CONFIG.distill.learning_rate}`"]
    tensors = load_file(exported / "model.safetensors")
    own = sum(tensor.numel() for name, tensor in tensors.items() if "_swiftkv" in name)
    whole = sum(tensor.numel() for tensor in tensors.values())
    facts = table(text, "property")
    assert facts["trained parameters"] == [f"{own:,} of {whole:,} ({own / whole:.2%})"]
    record = files.read_json(finished / "results" / "cpu" / "models" / ARM / "config.json.provenance.json")
    assert facts["base weights it was made from (sha256)"] == list(record["data_sha256"].values())
    assert facts["cut (`num_key_value_layers`)"] == ["4 of 8 layers"]
    assert facts["layers that prompt tokens skip"] == ["50.0%"] and "6 caches for 8 layers" in text


def test_settings_are_shown_only_if_they_are_those_of_the_run(evidence):
    run = evidence.distillation[1]
    alone = replace(evidence.variant, distill={"learning_rate": 0.5, "train": "layers"})
    assert model_card.settings(replace(evidence, variant=alone), run)["learning_rate"] == 0.5
    trained = model_card.parameters(replace(evidence, variant=alone))["trained_parameters"]
    assert trained != model_card.parameters(evidence)["trained_parameters"]
    other = replace(evidence, config=RunConfig({**CONFIG.raw, "seed": 1}, CONFIG.path))
    assert "not recorded" in model_card.distillation(other)
    assert model_card.parameters(other)["trained_parameters"] == "not recorded"


def test_front_matter_parses_offline_and_holds_the_scores(exported, finished):
    card = ModelCard.load(exported / "README.md")
    data = card.data
    assert (data.library_name, data.pipeline_tag, data.tags) == ("transformers", "text-generation", ["swiftkv"])
    rows = load("cpu", finished / "results").accuracy.query("arm == @ARM").set_index("task")
    found = {(e.dataset_type.removeprefix("swiftkv_"), e.metric_type): e.metric_value for e in data.eval_results}
    assert found == {(task, name): rows.loc[task, name] for task in TASKS for name in ("score", "exact_match")}
    assert "not measured" not in card.text.replace("what the student loses on others is not measured", "")


@pytest.mark.parametrize(
    ("base", "words"),
    [
        ({"source": "hub", "path": "org/x", "revision": "f" * 40}, "[org/x](https://huggingface.co/org/x) at revision"),
        ({"source": "hub", "path": "org/x", "revision": "f" * 40, "file": "q.gguf"}, "`q.gguf` of [org/x]("),
        ({"source": "package", "path": "x==1"}, "the GGUF file in the Python package `x==1`"),
        ({"source": "local", "path": "/somewhere/x.gguf"}, "the local model `x.gguf`"),
    ],
)
def test_the_base_in_words(base, words):
    assert model_card.base_name(base).startswith(words)


@pytest.mark.parametrize("frame", ["accuracy", "throughput", "latency", "kv_capacity"])
def test_what_was_not_measured_says_so(evidence, frame):
    load("cpu").path(frame).unlink()
    card = model_card.card(evidence, "name", "org/name", "float32")
    assert card.text.count("not measured.") == 2  # of the frame, and the limits' sentence on other tasks
    assert (card.data.eval_results is None) == (frame == "accuracy")


def test_without_any_result_or_record(tiny_student, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export.run(CONFIG, ARM, tmp_path / "out", model=tiny_student)
    text = (tmp_path / "out" / "README.md").read_text()
    assert text.count("not measured.") == 5 and "None: converted from the base" in text
    assert table(text, "property")["trained parameters"] == ["none"]
    shutil.copytree(tiny_student, tmp_path / "bare")
    (tmp_path / "bare" / "config.json.provenance.json").unlink()
    export.run(CONFIG, ARM, tmp_path / "out", model=tmp_path / "bare")
    text = (tmp_path / "out" / "README.md").read_text()
    facts = table(text, "property")
    assert facts["trained parameters"] == facts["base weights it was made from (sha256)"] == ["not recorded"]
    assert "## Distillation\n\nnot recorded." in text and "a base model that is not recorded" in text


def test_an_export_can_be_exported_again(exported, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    export.run(CONFIG, ARM, tmp_path / "again", model=exported)
    texts = [(path / "README.md").read_text() for path in (exported, tmp_path / "again")]
    one, two = (table(text, "property")["base weights it was made from (sha256)"] for text in texts)
    assert one == two


def change_weights(directory) -> None:
    tensors = load_file(directory / "model.safetensors")
    tensors["model.norm_swiftkv.weight"] += 1
    save_file(tensors, directory / "model.safetensors")


def test_scores_of_other_weights_are_refused_naming_both(scale, tmp_path):
    student = scale / "models" / ARM
    scored = files.sha256(student / "model.safetensors")
    change_weights(student)
    with pytest.raises(UserError, match=f"samples.jsonl: .*{scored}.*{files.sha256(student / 'model.safetensors')}"):
        export.run(CONFIG, ARM, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_scores_against_another_base_are_refused(scale, base, tmp_path):
    change_record(scale / "accuracy" / BASE_ARM / "samples.jsonl", model_sha256={"model.safetensors": "0" * 64})
    with pytest.raises(UserError, match=f"base/samples.jsonl: belongs to weights {'0' * 64}, .*the base that"):
        export.run(CONFIG, ARM, tmp_path / "out")


def test_a_summary_of_older_scores_is_refused(scale, tmp_path):
    (scale / "accuracy" / ARM / "samples.jsonl").open("a").write("\n")
    with pytest.raises(UserError, match=r"summary\.csv: not made from .*samples\.jsonl"):
        export.run(CONFIG, ARM, tmp_path / "out")


def test_the_curve_of_another_run_is_refused(scale, tmp_path):
    change_record(
        scale / "models" / "distill.jsonl", start="2020-01-01T00:00:00+00:00", end="2020-01-02T00:00:00+00:00"
    )
    with pytest.raises(UserError, match=r"distill\.jsonl: record of the run from 2020-01-01"):
        export.run(CONFIG, ARM, tmp_path / "out")


def change_record(result, **changes) -> None:
    path = f"{result}.provenance.json"
    files.write_json(path, files.read_json(path) | changes)


@pytest.mark.parametrize(
    ("changes", "culprit"),
    [
        ({"variant": "skip50", "model": ARM}, r"cut and AcrossKV group are \(4, 2\), those of variant skip50 \(4, 1\)"),
        ({"variant": "skip99"}, "skip99"),
        ({"dtype": "float64"}, "--dtype float64: allowed are float32 and bfloat16"),
        ({"push": "no-organisation"}, "--push no-organisation: the name must be ORG/NAME"),
        ({"push": "a/b/c"}, "--push a/b/c"),
        ({"model": "none"}, "none: no such model directory"),
        ({"model": "base"}, "model_type 'llama' is not supported"),
    ],
)
def test_wrong_options(scale, base, tmp_path, changes, culprit):
    models = {"none": tmp_path / "none", "base": base, ARM: scale / "models" / ARM}
    options = {"variant": ARM, **changes}
    if "model" in options:
        options["model"] = models[options["model"]]
    with pytest.raises(UserError, match=culprit):
        export.run(CONFIG, out=tmp_path / "out", **options)
    assert not (tmp_path / "out").exists()


def test_an_export_is_replaced_and_nothing_else(scale, tmp_path):
    for _ in range(2):
        export.run(CONFIG, ARM, tmp_path / "out")
    with pytest.raises(UserError, match="names the stage export"):
        export.run(CONFIG, ARM, scale / "models" / ARM)
    assert (scale / "models" / ARM / "model.safetensors").is_file()


def test_a_damaged_student_and_other_logits_stop_the_export(scale, tmp_path, monkeypatch):
    def damage(evidence, directory, *options):
        write(evidence, directory, *options)
        change_weights(directory)

    write = export.write_model
    with monkeypatch.context() as patch:
        patch.setattr(export, "write_model", damage)
        with pytest.raises(UserError, match="gives other logits in float32"):
            export.run(CONFIG, ARM, tmp_path / "out")
    (scale / "models" / ARM / "model.safetensors").write_bytes(b"short")
    with pytest.raises(UserError, match="truncated"):
        export.run(CONFIG, ARM, tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_folder_is_that_of_a_published_checkpoint(exported, finished):
    from transformers import AutoModelForCausalLM, AutoTokenizer

    source = finished / "results" / "cpu" / "models" / ARM
    check_checkpoint(exported)
    assert (exported / "model.safetensors").read_bytes() == (source / "model.safetensors").read_bytes()
    assert {"README.md", "config.json", "generation_config.json", "tokenizer.json"} <= set(listed(exported))
    ids = AutoTokenizer.from_pretrained(exported)("SELECT", return_tensors="pt")["input_ids"]
    models = [AutoModelForCausalLM.from_pretrained(path, dtype="auto").eval() for path in (exported, source)]
    with torch.no_grad():
        assert torch.equal(*(model(ids).logits for model in models))


def listed(directory) -> list[str]:
    return sorted(path.name for path in directory.iterdir())


@pytest.mark.vllm
def test_vllm_takes_the_folder(exported):
    from swiftkv.engines.engine import load_vllm, prepare_environment

    prepare_environment(in_process=True)
    vllm = load_vllm()
    model = vllm.EngineArgs(model=str(exported), max_model_len=64).create_model_config()
    assert (model.hf_config.num_key_value_layers, model.hf_config.key_value_group_size) == (CUT, GROUP)
    assert vllm.ModelRegistry.resolve_model_cls(model.architectures, model)[0].__module__ == "swiftkv.vllm.llama"


def test_bfloat16(scale, tmp_path):
    export.run(CONFIG, ARM, tmp_path / "out", dtype="bfloat16")
    assert {t.dtype for t in load_file(tmp_path / "out" / "model.safetensors").values()} == {torch.bfloat16}
    assert json.loads((tmp_path / "out" / "config.json").read_text())["dtype"] == "bfloat16"
    assert "Scored before the cast to bfloat16, not after." in (tmp_path / "out" / "README.md").read_text()


@pytest.mark.parametrize("dtype", [None, "bfloat16"])
def test_dead_tensors_of_the_base_are_added_on_request(scale, base, tmp_path, dtype):
    export.run(CONFIG, ARM, tmp_path / "out", dtype=dtype, keep_dead=True)
    made, own = load_tensors(tmp_path / "out"), load_tensors(scale / "models" / ARM)
    dead = {f"model.layers.{j}.self_attn.{n}_proj.weight" for j in range(CUT, 8) for n in "qkv"}
    assert made.keys() - own.keys() == dead
    wanted = own | {name: tensor for name, tensor in load_tensors(base).items() if name in dead}
    assert all(torch.equal(tensor, wanted[name].to(tensor.dtype)) for name, tensor in made.items())
    shutil.rmtree(base)
    with pytest.raises(UserError, match=r"--keep-dead: the base that .* is not where it was"):
        export.run(CONFIG, ARM, tmp_path / "other", keep_dead=True)
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("group", "keep_dead", "words"),
    [(2, True, "it has no AcrossKV"), (1, False, "`swiftkv export --keep-dead` adds"), (1, True, "that it reads;")],
)
def test_the_card_says_which_stacks_take_it(evidence, group, keep_dead, words):
    alone = replace(evidence, variant=replace(evidence.variant, key_value_group_size=group))
    shown = table(model_card.card(alone, "name", "org/name", "float32", keep_dead).text, "stack")
    assert shown["vLLM 0.26 to 0.33 with the suite's plugin"] == ["yes"] and len(shown) == 4
    assert words in shown["the authors' plugin (ArcticInference)"][0]


def test_an_older_student_gets_the_older_names(scale, tmp_path):
    path = scale / "models" / ARM / "config.json"
    raw = files.read_json(path)
    files.write_json(path, {key: value for key, value in raw.items() if key != "rope_theta"})
    export.run(CONFIG, ARM, tmp_path / "out")
    assert files.read_json(tmp_path / "out" / "config.json") == raw


def test_shards_keep_their_index(tiny_student, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    sharded = shutil.copytree(tiny_student, tmp_path / "sharded")
    tensors = load_tensors(sharded)
    (sharded / "model.safetensors").unlink()
    huggingface_hub.save_torch_state_dict(tensors, sharded, max_shard_size="200KB")
    export.run(CONFIG, ARM, tmp_path / "out", model=sharded)
    assert len(weight_files(tmp_path / "out")) > 1
    assert "model.safetensors.index.json" in listed(tmp_path / "out")


def test_records_name_no_command_and_no_directory_of_a_machine(exported):
    record = files.read_json(exported / "config.json.provenance.json")
    assert record["stage"] == "export" and record["student"]["stage"] == "distill" and record["end"]
    assert "command" not in record and "command" not in record["student"]
    made = export.public(
        {"command": ["swiftkv"], "stage": "x", "data_sha256": {"/home/me/base/model.safetensors": "1"}}
    )
    assert made == {"stage": "x", "data_sha256": {"base/model.safetensors": "1"}}


@pytest.mark.parametrize(
    ("added", "front", "text"),
    [
        ({}, {"license": "other"}, "names no licence"),
        ({"README.md": "---\nlicense: mit\n---\n# Base\n"}, {"license": "mit"}, "`mit`"),
        (
            {
                "README.md": "---\nlicense: other\nlicense_name: own\nlicense_link: LICENSE\n---\n",
                "LICENSE": "own terms",
            },
            {"license": "other", "license_name": "own", "license_link": "LICENSE"},
            "`own`, [LICENSE](LICENSE)",
        ),
        ({"LICENSE": "LLAMA 3.1 COMMUNITY LICENSE AGREEMENT", "NOTICE": "n"}, {"license": "llama3.1"}, "[NOTICE]"),
        ({"LICENSE.txt": "own terms"}, {"license": "other"}, "[LICENSE.txt](LICENSE.txt)"),
        ({"README.md": "# Base without front matter\n", "LICENSE": "own"}, {"license": "other"}, "[LICENSE]"),
    ],
)
def test_licence_is_the_base_s(evidence, base, tmp_path, added, front, text):
    for name, content in added.items():
        (base / name).write_text(content)
    found = licence.licence(evidence)
    assert found == front and text in licence.licence_text(evidence, found)
    assert {path.name for path in licence.licence_files(evidence)} == set(added) - {"README.md"}


def test_broken_front_matter_of_the_base(evidence, base):
    (base / "README.md").write_text("---\nlicense: [\n---\n")
    with pytest.raises(UserError, match=r"README\.md: front matter is not valid YAML"):
        licence.licence(evidence)


@pytest.mark.parametrize("source", ["hub", "embedded"])
def test_base_is_the_one_that_was_fetched(scale, base, tmp_path, source):
    fetched = {"source": source, "path": "org/tiny", "revision": "a" * 40}
    Provenance("base", CONFIG, inputs=weight_files(base), base=fetched).save(base / "config.json")
    (base / "README.md").write_text("---\nlicense: mit\n---\n" if source == "hub" else "# Base\n")
    export.run(CONFIG, ARM, tmp_path / "out")
    card = ModelCard.load(tmp_path / "out" / "README.md")
    assert (card.data.base_model, card.data.license) == (
        ("org/tiny", "mit") if source == "hub" else (None, "apache-2.0")
    )
    assert ("synthetic tasks, and neither" in card.text) == ("LICENSE" in listed(tmp_path / "out")) == (source != "hub")


def test_another_model_in_the_base_s_place_says_nothing(evidence, base):
    Provenance("base", CONFIG, base={"source": "hub", "path": "org/other"}).save(base / "config.json")
    (base / "README.md").write_text("---\nlicense: mit\n---\n")
    other = {name: tensor + 1 for name, tensor in load_tensors(base).items()}
    save_file(other, base / "model.safetensors", metadata={"format": "pt"})
    card = model_card.card(evidence, "name", "org/name", "float32")
    assert (card.data.license, card.data.base_model) == ("other", None)
    assert "a base model that is not recorded" in card.text


def test_training_files_are_named_without_their_directory(evidence):
    data = {"source": "jsonl", "files": ["/home/someone/chats.jsonl"]}
    config = RunConfig({**CONFIG.raw, "distill": {**CONFIG.raw["distill"], "data": data}}, CONFIG.path)
    settings = model_card.settings(replace(evidence, config=config), {"config_sha256": config.sha256})
    assert "chats.jsonl" in settings["data"] and "someone" not in settings["data"]


class FakeHub:
    """HfApi that keeps what it is asked for, or fails."""

    def __init__(self, public: bool = False, error: Exception | None = None):
        self.public, self.error, self.asked = public, error, {}

    def create_repo(self, repo_id, **options):
        if self.error:
            raise self.error
        self.asked["create"] = (repo_id, options)

    def repo_info(self, repo_id):
        return SimpleNamespace(private=not self.public)

    def upload_folder(self, **options):
        self.asked["upload"] = options


@pytest.fixture
def hub(monkeypatch):
    def use(token: str | None = TOKEN, **options) -> FakeHub:
        fake = FakeHub(**options)
        monkeypatch.setattr(huggingface_hub, "get_token", lambda: token)
        monkeypatch.setattr(huggingface_hub, "HfApi", lambda: fake)
        return fake

    return use


def test_push(scale, tmp_path, hub, capfd):
    fake, out = hub(), tmp_path / "out"
    export.run(CONFIG, ARM, out, push="org/tiny-swiftkv")
    assert fake.asked["create"] == ("org/tiny-swiftkv", {"private": True, "exist_ok": True})
    upload = fake.asked["upload"]
    assert (upload["repo_id"], upload["folder_path"]) == ("org/tiny-swiftkv", out)
    assert str(files.read_json(out / "config.json.provenance.json")["git"]["sha"]) in upload["commit_message"]
    assert "vllm serve org/tiny-swiftkv" in (out / "README.md").read_text()
    assert TOKEN not in "".join(capfd.readouterr())
    assert not [path for path in out.iterdir() if TOKEN.encode() in path.read_bytes()]


@pytest.mark.parametrize(
    ("options", "culprit"),
    [
        ({"token": None}, "no token; run `hf auth login` or set HF_TOKEN"),
        ({"error": ConnectionError(f"no route\nwith Bearer {TOKEN}")}, "ConnectionError: no route with Bearer <token>"),
        ({"error": ValueError("not allowed")}, "ValueError: not allowed"),
        ({"public": True}, "exists and is public; say --public"),
    ],
)
def test_a_failed_push_is_one_line(exported, hub, options, culprit):
    fake = hub(**options)
    with pytest.raises(UserError, match="--push org/name: ") as failure:
        export.push_folder(exported, "org/name", True, "message")
    text = str(failure.value)
    assert culprit in text and f"the folder {exported} is complete" in text
    assert "\n" not in text and TOKEN not in text and "upload" not in fake.asked


def test_public_push_and_folder_that_stays(scale, tmp_path, hub, exported):
    fake = hub(public=True)
    export.push_folder(exported, "org/name", False, "message")
    assert fake.asked["create"][1]["private"] is False and fake.asked["upload"]["commit_message"] == "message"
    hub(token=None)
    with pytest.raises(UserError, match="no token"):
        export.run(CONFIG, ARM, tmp_path / "out", push="org/name")
    check_checkpoint(tmp_path / "out")


def test_command_passes_its_options_on(monkeypatch, tmp_path):
    given = {}
    names = "variant out model push private dtype keep_dead".split()
    monkeypatch.setattr(export, "run", lambda config, *rest: given.update(zip(names, rest, strict=True)))
    arguments = ["export", "--config", str(ROOT / "config" / "config.yaml"), "--variant", ARM, "--out", str(tmp_path)]
    arguments += ["--model", "m", "--push", "org/name", "--public", "--dtype", "bfloat16", "--keep-dead"]
    assert CliRunner().invoke(cli, arguments).exit_code == 0
    assert given == {"variant": ARM, "out": tmp_path, "model": Path("m"), "push": "org/name"} | {
        "private": False,
        "dtype": "bfloat16",
        "keep_dead": True,
    }
