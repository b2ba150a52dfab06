"""The configuration: validated, merged, and wrong in ways that are named."""

import copy
import hashlib
import json

import pytest
import yaml

from swiftkv import config as module
from swiftkv.config import SwiftKVVariant, check_cut, load_config, merge
from swiftkv.config.settings import Settings
from swiftkv.errors import UserError
from tests.helpers.config import make_config

DEFAULT = load_config(module.ROOT / "config" / "config.yaml")
STAGE = {"sequence_length": 64, "prompt_weight": 1, "tokens": 1}
EASY, WARM = {"difficulty": 0.5}, {"recall": {"records": 1, "values": 1}}
SHA = "0" * 64
HUB_FILE = {"source": "hub", "path": "org/name", "revision": "0" * 40}
SHIPPED = [path for path in sorted((module.ROOT / "config").glob("*.yaml")) if path.name != "claims.yaml"]


def broken(change: dict) -> str:
    with pytest.raises(UserError) as error:
        module.validate(merge(DEFAULT.raw, change), "f.yaml")
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: path.name)
def test_models_give_back_what_was_written(path):
    """Every key, and a whole number as a whole number."""
    raw = load_config(path).raw
    again = Settings.model_validate(raw).model_dump(exclude_unset=True)
    assert json.dumps(again, sort_keys=True) == json.dumps(raw, sort_keys=True)


def test_validation_leaves_the_mapping_and_its_hash_as_they_are():
    before = copy.deepcopy(DEFAULT.raw)
    module.validate(DEFAULT.raw, "f.yaml")
    assert before == DEFAULT.raw == module.read_layers(module.ROOT / "config" / "config.yaml")
    assert DEFAULT.sha256 == hashlib.sha256(json.dumps(before, sort_keys=True).encode()).hexdigest()


def test_default_config_is_valid_and_names_every_arm():
    names = [variant.name for variant in DEFAULT.variants]
    assert DEFAULT.accuracy_arms == [
        "base",
        *names,
        *(f"{name}-undistilled" for name in ("skip50", "skip62", "skip50-across4")),
    ]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"colour": 1}, ["unknown key 'colour'", "allowed are ablations, accuracy, base"]),
        (
            {"distill": {"stepz": 3}},
            ["distill: unknown key 'stepz'", "mean 'steps'?", "allowed are batch_tokens"],
        ),
        ({"distill": {"steps": -1}}, ["distill.steps: -1", "a whole number from 0"]),
        ({"base": {"source": "cloud"}}, ["base.source", "cloud", "allowed is embedded, train, local, hub or package"]),
        ({"base": {"source": "hub"}}, ["base: revision is missing"]),
        (
            {"base": {"source": "package", "path": "x==1"}},
            ["base: sha256 is missing; source package needs"],
        ),
        ({"base": {"source": "package", "path": "x", "sha256": SHA}}, ["base.path: 'x'", "name==version"]),
        ({"base": {"source": "package", "path": "--help==1", "sha256": SHA}}, ["base.path", "name==version"]),
        ({"base": HUB_FILE | {"file": "x.gguf"}}, ["base: sha256 is missing; file needs it"]),
        ({"base": HUB_FILE | {"file": "x.bin", "sha256": SHA}}, ['base.file: "x.bin"', "ends in .gguf"]),
        ({"base": HUB_FILE | {"sha256": SHA}}, ["base.sha256: is that of a GGUF file"]),
        ({"base": {"source": "local", "path": "x.gguf", "sha256": "abc"}}, ["base.sha256", "64 digits of 0-9a-f"]),
        ({"base": {"file": "x.gguf", "sha256": SHA}}, ["base.file: is a key of the sources hub and package"]),
        ({"variants": [{"name": "x", "skip": 1.5}]}, ["variants.0.skip: 1.5", "from 0 and below 1"]),
        ({"variants": [{"name": "base", "skip": 0.5}]}, ["variants", "base"]),
        ({"variants": [{"name": "skip50-undistilled", "skip": 0.5}]}, ["variants", "'skip50-undistilled'", "controls"]),
        ({"scale": "reference"}, ["scale", "'reference'", "results/reference"]),
        ({"scale": "Plan"}, ["scale", "'Plan'"]),
        ({"accuracy": {"undistilled": ["nobody"]}}, ["accuracy.undistilled", "nobody", "skip25"]),
        ({"accuracy": {"margin": 0}}, ["accuracy.margin: 0", "a number above 0"]),
        ({"throughput": {"repeats": 0}}, ["throughput.repeats: 0", "a whole number from 1"]),
        ({"seed": True}, ["seed: true", "a whole number"]),
        ({"protocol": None}, ["protocol: null", "a mapping with the keys"]),
        ({"protocol": {"tasks": ["ifeval", "ifeval"]}}, ["protocol.tasks", "none twice"]),
        ({"diagnosis": {"difficulty": [1, 0]}}, ["diagnosis.difficulty.1: 0", "a number above 0"]),
        ({"tasks": {"own": {"records": 1}}}, ["tasks.own: values is missing"]),
        ({"distill": {"data": {"source": "jsonl"}}}, ["distill.data: files is missing", "source jsonl"]),
        ({"train_base": {"stages": [STAGE]}}, ["train_base.stages.0: recall or difficulty is missing"]),
        ({"train_base": {"stages": [STAGE | EASY | WARM]}}, ["train_base.stages.0: recall and difficulty"]),
    ],
)
def test_wrong_key_or_value_is_named_with_what_is_allowed(change, words):
    message = broken(change)
    assert all(word in message for word in ["f.yaml", *words]), message


MINE = {"scale": "mine", "variants": [{"name": "half", "skip": 0.5}, {"name": "skip50", "skip": 0.5}]}


@pytest.mark.parametrize(
    ("parent", "section", "key"), [("config.yaml", "accuracy", "undistilled"), ("served.yaml", "served", "arms")]
)
def test_variants_of_ones_own_need_no_key_beside_them(parent, section, key, tmp_path, monkeypatch):
    """What the parent chose of its variants keeps those that are still there, however the file is given."""
    raw = MINE | {"extends": str(module.ROOT / "config" / parent)}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw))
    monkeypatch.chdir(tmp_path)
    loaded = load_config("mine.yaml")
    frozen = module.resolve(DEFAULT.raw, ["mine.yaml"], raw)
    assert loaded.raw[section][key] == frozen.raw[section][key] == ["skip50"]
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw | {"variants": [{"name": "half", "skip": 0.5}]}))
    assert load_config("mine.yaml").raw[section][key] == (["half"] if section == "served" else [])


def test_a_name_that_the_user_chose_is_never_left_out(tmp_path):
    raw = MINE | {"extends": str(module.ROOT / "config" / "config.yaml"), "accuracy": {"undistilled": ["skip62"]}}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match=r"accuracy\.undistilled: 'skip62' is not a variant; allowed are \['half'"):
        load_config(tmp_path / "mine.yaml")


def test_cut_of_each_published_share_is_a_whole_layer():
    shares = [(0.25, 6), (0.5, 4), (0.625, 3)]
    assert [SwiftKVVariant("v", share).num_key_value_layers(8) for share, _ in shares] == [cut for _, cut in shares]


@pytest.mark.parametrize(
    ("variant", "layers", "word"),
    [
        (SwiftKVVariant("odd", 0.3), 8, "0.3 of 8 layers"),
        (SwiftKVVariant("groups", 0.5, 3), 8, "key_value_group_size 3 does not divide the 4"),
    ],
)
def test_cut_or_group_that_does_not_fit_is_named(variant, layers, word):
    with pytest.raises(UserError, match=word):
        variant.num_key_value_layers(layers)


def test_a_share_that_is_no_whole_cut_names_those_that_are_near():
    with pytest.raises(UserError, match=r"0\.25 of 30 layers .* nearest is cut: 22 or 23"):
        SwiftKVVariant("v", 0.25).num_key_value_layers(30)


def test_a_cut_is_of_models_of_one_depth():
    config = make_config(instead={"variants": [{"name": "v", "cut": 6, "key_value_group_size": 2}]})
    (variant,) = config.variants
    assert (variant.skip, variant.num_key_value_layers(8), variant.key_value_group_size) == (0.25, 6, 2)
    with pytest.raises(
        UserError, match=r"variants\.v\.cut: 6 is of the 8 layers of throughput.model, and this model has 32"
    ):
        variant.num_key_value_layers(32)


@pytest.mark.parametrize(
    ("variant", "message"),
    [
        ({}, "skip or cut is missing"),
        ({"cut": 4, "skip": 0.5}, "skip and cut exclude each other"),
        ({"cut": 0}, r"variants\.0\.cut: 0 is not allowed; allowed is .*1"),
    ],
)
def test_a_variant_has_one_depth(tmp_path, variant, message):
    raw = MINE | {"extends": str(module.ROOT / "config" / "config.yaml"), "variants": [{"name": "v"} | variant]}
    (tmp_path / "mine.yaml").write_text(yaml.safe_dump(raw))
    with pytest.raises(UserError, match=message):
        load_config(tmp_path / "mine.yaml")


def test_cut_larger_than_the_model_is_named():
    with pytest.raises(UserError, match="num_key_value_layers is 9; allowed is 1 to 8"):
        check_cut(9, 8, 1)


def test_extends_lays_the_child_over_the_parent(tmp_path):
    (tmp_path / "parent.yaml").write_text(yaml.safe_dump(DEFAULT.raw))
    (tmp_path / "child.yaml").write_text("extends: parent.yaml\ndistill: {steps: 7}\n")
    child = load_config(tmp_path / "child.yaml")
    assert child.raw["distill"] == {**DEFAULT.raw["distill"], "steps": 7}
    assert child.sha256 != DEFAULT.sha256


@pytest.mark.parametrize("change", [{"source": "embedded"}, {"path": "workflow/resources/base"}])
def test_another_base_leaves_the_gguf_file_of_the_former_behind(change, tmp_path):
    parent = merge(DEFAULT.raw, {"base": {"source": "local", "path": "x.gguf", "sha256": SHA}})
    (tmp_path / "parent.yaml").write_text(yaml.safe_dump(parent))
    assert load_config(tmp_path / "parent.yaml").base.is_gguf
    (tmp_path / "child.yaml").write_text(yaml.safe_dump({"extends": "parent.yaml", "base": change}))
    child = load_config(tmp_path / "child.yaml").raw["base"]
    assert child == {"source": "local", "path": "x.gguf"} | change


def test_circular_extends_missing_file_and_bad_yaml_are_user_errors(tmp_path):
    (tmp_path / "a.yaml").write_text("extends: b.yaml\n")
    (tmp_path / "b.yaml").write_text("extends: a.yaml\n")
    (tmp_path / "bad.yaml").write_text("a: [1\n")
    for name, word in (("a.yaml", "circle"), ("none.yaml", "no such config"), ("bad.yaml", "not valid YAML")):
        with pytest.raises(UserError, match=word):
            load_config(tmp_path / name)


def test_freeze_writes_what_load_reads_and_leaves_an_unchanged_file_alone(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    frozen = module.resolve(DEFAULT.raw)
    module.freeze(frozen)
    before = (tmp_path / frozen.path).stat().st_mtime_ns
    module.freeze(frozen)
    assert (tmp_path / frozen.path).stat().st_mtime_ns == before
    assert load_config(frozen.path).sha256 == DEFAULT.sha256


def test_what_an_overlay_extends_is_resolved_and_nothing_written(tmp_path, monkeypatch):
    """As with `snakemake --configfile child.yaml --config seed=5`, which merges the child over the default alone."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "root.yaml").write_text(yaml.safe_dump(DEFAULT.raw))
    (tmp_path / "parent.yaml").write_text("extends: root.yaml\nscale: parent\ndistill: {steps: 7, warmup: 0.5}\n")
    child = {"extends": "parent.yaml", "scale": "child", "distill": {"warmup": 0.25}}
    (tmp_path / "child.yaml").write_text(yaml.safe_dump(child))
    given = {**child, "seed": 5}
    frozen = module.resolve(merge(DEFAULT.raw, given), ["child.yaml"], given)
    assert frozen.raw["distill"] == {**DEFAULT.raw["distill"], "steps": 7, "warmup": 0.25}
    assert (frozen.scale, frozen.seed) == ("child", 5)
    assert not (tmp_path / "results").exists()
