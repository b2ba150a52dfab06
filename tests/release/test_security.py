"""What lies beside the weights is not run: pickles and code are neither opened nor copied (SECURITY.md)."""

import ast
import json
import pickle
import shutil
from pathlib import Path

import pytest
from transformers import AutoModelForCausalLM

from swiftkv.base_model import fetch
from swiftkv.config import ROOT
from swiftkv.distill.parallel import World
from swiftkv.distill.teacher import Teacher
from swiftkv.modeling.convert import convert
from swiftkv.workloads.tokens import load_tokenizer
from tests.helpers.config import make_config

BASE = ROOT / "workflow" / "resources" / "base"
PLANTED = ("pytorch_model.bin", "model.pt", "optimizer.pkl", "training_args.bin", "modeling_evil.py")
FORBIDDEN = {"pickle", "dill", "cloudpickle", "joblib", "shelve", "marshal"}
UNSAFE = {"torch.load", "pd.read_pickle", "eval", "exec", "yaml.unsafe_load"}
SOURCES = sorted((ROOT / "swiftkv").rglob("*.py"))


class Bomb:
    """Its pickle makes a file where it is loaded."""

    def __init__(self, mark: Path):
        self.mark = mark

    def __reduce__(self):
        return open, (str(self.mark), "w")


@pytest.fixture
def mined(tmp_path):
    """A base with pickles and code beside its weights, which its configuration names; what they would make."""
    directory, mark = shutil.copytree(BASE, tmp_path / "base"), tmp_path / "exploded"
    for name in PLANTED:
        code = f"open({str(mark)!r}, 'w')\n"
        (directory / name).write_bytes(code.encode() if name.endswith(".py") else pickle.dumps(Bomb(mark)))
    classes = {"AutoConfig": "modeling_evil.C", "AutoModelForCausalLM": "modeling_evil.M"}
    for name, value in (
        ("config.json", classes),
        ("tokenizer_config.json", {"AutoTokenizer": ["modeling_evil.T", None]}),
    ):
        raw = json.loads((directory / name).read_text())
        (directory / name).write_text(json.dumps(raw | {"auto_map": value}))
    pickle.loads(pickle.dumps(Bomb(tmp_path / "works"))).close()
    assert (tmp_path / "works").is_file(), "the bomb would have gone off"
    return directory, mark


def test_planted_pickles_and_code_are_never_read(mined, tmp_path):
    directory, mark = mined
    config = make_config(instead={"base": {"source": "local", "path": str(directory)}})
    fetch.resolve_base(config, tmp_path / "fetched")
    convert(tmp_path / "fetched", tmp_path / "student", 4, 1)
    convert(directory, tmp_path / "direct", 4, 1)
    for place in (directory, tmp_path / "fetched", tmp_path / "student", tmp_path / "direct"):
        load_tokenizer(place)
        AutoModelForCausalLM.from_pretrained(place)
    Teacher(directory, World(), float32=True)
    assert not mark.exists()
    for place in ("fetched", "student", "direct"):
        assert not [name for name in PLANTED if (tmp_path / place / name).exists()]


@pytest.mark.vllm
def test_vllm_reads_none_either(mined):
    from swiftkv.engines.engine import engine
    from swiftkv.evals.reference import generate

    directory, mark = mined
    with engine(directory, max_model_len=256, max_num_seqs=2, max_num_batched_tokens=256, kv_cache_gib=0.02,
                logprobs_mode="raw_logits", max_logprobs=20) as opened:  # fmt: skip
        assert generate(opened, [[5, 6, 7]], 2)[0].tokens
    assert not mark.exists()


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT / "swiftkv").as_posix())
def test_no_source_unpickles_or_trusts_code(path):
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import | ast.ImportFrom):
            names = {alias.name for alias in node.names} | {getattr(node, "module", None) or ""}
            assert not {name.split(".")[0] for name in names} & FORBIDDEN
        if isinstance(node, ast.Call):
            called = ast.unparse(node.func)
            assert called not in UNSAFE
            for keyword in node.keywords:
                if keyword.arg in ("trust_remote_code", "allow_pickle", "shell"):
                    assert isinstance(keyword.value, ast.Constant) and keyword.value.value is False, called
