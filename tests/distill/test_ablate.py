"""Ablations: arms that share data train together, each differs from the recipe as it says, and the table is right."""

import pandas as pd
import pytest
from scipy import stats

from swiftkv.distill import ablate
from swiftkv.distill.loop import Options
from swiftkv.errors import UserError
from tests.helpers.distillation import VARIANTS, distill_config

ARMS = [
    {"name": "recipe", "published": "hf-8b-skip50-avg-7task"},
    {"name": "none", "distill": {"steps": 0}, "published": "paper-8b-skip50-undistilled-avg-7task"},
    {"name": "layers", "distill": {"train": "layers"}},
    {"name": "other", "tasks": {"recall": {"records": 2, "values": 2}}},
]


def make(arms=ARMS, seeds=(0, 1)):
    config = distill_config(VARIANTS[2:], steps=2, sequence_length=600, batch_tokens=1200)
    config.raw["tasks"] = {task: {"records": 3, "values": 1} for task in config.tasks}
    config.raw["ablations"] = {"seeds": list(seeds), "probes": 1, "arms": arms}
    return config


def test_arms_of_the_same_data_share_a_run_and_keep_their_settings():
    config = make()
    groups = ablate.arms_by_data(config)
    assert [[arm.name for arm in group] for group in groups] == [["recipe", "none", "layers"], ["other"]]
    joint, other = (ablate.group_config(config, group, 7) for group in groups)
    assert [v.name for v in joint.variants] == [f"half-across4.{name}" for name in ("recipe", "none", "layers")]
    assert [v.distill for v in joint.variants] == [{}, {"steps": 0}, {"train": "layers"}]
    assert (joint.seed, joint.tasks, other.tasks) == (7, config.tasks, ARMS[3]["tasks"])


def test_summary_is_paired_by_seed():
    rows = [
        {"seed": seed, "variant": "v", "arm": arm, "tokens": 5, "kl": kl, "answers_right": right, "dropped": None}
        for arm, values in (("recipe", [(0.1, 0.9), (0.2, 0.7)]), ("none", [(0.5, 0.8), (0.6, 0.6)]))
        for seed, (kl, right) in enumerate(values)
    ]
    recipe, none = ablate.summarise(make(), pd.DataFrame(rows)).to_dict("records")
    low, high = stats.t.interval(0.95, 1, loc=0.8, scale=stats.sem([0.9, 0.7]))
    assert (recipe["answers_right"], recipe["answers_right_low"]) == pytest.approx((0.8, low))
    assert recipe["answers_right_high"] == pytest.approx(high)
    assert (none["difference"], none["difference_low"], none["difference_high"]) == pytest.approx((-0.1,) * 3)
    assert none["published_difference"] == pytest.approx((70.06 - 72.70) / 100)


def test_run_trains_judges_and_resumes(tiny_base, tmp_path, capsys):
    config = make()
    ablate.run(config, tiny_base, tmp_path / "out", tmp_path / "work", Options(float32=True))
    frame = pd.read_csv(tmp_path / "out" / "ablations.csv")
    assert sorted(frame.arm.unique()) == sorted([arm["name"] for arm in ARMS] + [ablate.EXIT])
    assert (frame.groupby("arm").size() == 2).all()
    kl = frame.set_index(["arm", "seed"]).kl
    assert kl["none", 0] == kl["none", 1] > 0  # nothing is trained, so no seed matters
    assert kl["recipe", 0] != kl["recipe", 1]
    assert len({kl[arm["name"], 0] for arm in ARMS}) == len(ARMS)
    ablate.run(config, tiny_base, tmp_path / "again", tmp_path / "work", Options(float32=True))
    assert "half-across4.recipe resumed at step 2 of 2" in capsys.readouterr().out
    assert pd.read_csv(tmp_path / "again" / "ablations.csv").equals(frame)
    assert "| none |" in (tmp_path / "out" / "summary.md").read_text()


def test_an_unknown_published_id_is_refused():
    with pytest.raises(UserError, match=r"'nowhere' is not an id of published.csv"):
        ablate.published(make([{"name": "recipe", "published": "nowhere"}, {"name": "none"}]))


def test_a_configuration_without_ablations_is_refused(tiny_base, tmp_path):
    with pytest.raises(UserError, match="has no `ablations`"):
        ablate.run(distill_config(), tiny_base, tmp_path / "out", tmp_path / "work")
