"""swiftkv.report.plots: every figure is drawn, says where it comes from, and follows the configuration."""

import json
import struct

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from swiftkv.config import RunConfig
from swiftkv.errors import UserError
from swiftkv.report import exhibits, plots
from swiftkv.report.plots import style
from swiftkv.report.plots.rewiring import Wiring, wirings
from swiftkv.report.plots.style import WIDTH
from swiftkv.results import load
from tests.helpers.config import make_config
from tests.helpers.synthetic_results import DIVERGENCE, LAYERS, build

CONFIG = make_config({"divergence": DIVERGENCE})
IDS = [name.removeprefix("fig-") for name in exhibits.FIGURES]


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    path = tmp_path_factory.mktemp("plots") / "results"
    build(path, CONFIG)
    return path


@pytest.fixture(scope="module")
def drawn(root):
    plots.draw_all(CONFIG, root / "figures", root=root)
    return root / "figures"


def reduced():
    """The configuration with a single student, as a short run has it."""
    raw = json.loads(json.dumps(CONFIG.raw))
    raw["variants"], raw["accuracy"]["undistilled"] = [raw["variants"][1]], []
    return RunConfig(raw, "config.yaml")


@pytest.mark.parametrize("name", IDS)
def test_png_is_fit_for_print_and_svg_names_its_origin(drawn, name):
    header = (drawn / f"fig-{name}.png").read_bytes()[:24]
    assert header[:8] == b"\x89PNG\r\n\x1a\n"
    width, _ = struct.unpack(">II", header[16:24])
    assert width / WIDTH >= 150
    svg = (drawn / f"fig-{name}.svg").read_text()
    assert "results/cpu/" in svg
    assert name == "rewiring" or "SYNTHETIC TEST DATA" in svg


def test_a_value_stands_at_the_foot_of_its_bar_and_not_at_the_limit(root):
    figure = exhibits.FIGURES["fig-throughput"].maker(CONFIG, load("cpu", root))
    for axes in figure.axes:
        bars = [bar.get_height() for bar in axes.patches]
        values = [text for text in axes.texts if text.get_text()]
        assert [text.get_text() for text in values] == [f"{height:.2f}" for height in bars]
        assert all(text.get_position()[1] < 0.2 for text in values)


@pytest.mark.parametrize("name", ["fig-diagnosis", "fig-distillation"])
def test_no_share_above_one_is_on_an_axis(root, name):
    figure = exhibits.FIGURES[name].maker(CONFIG, load("cpu", root))
    [shares] = [axes for axes in figure.axes if "top-1 agreement" in axes.get_title()]
    assert len(shares.get_yticks()) and max(shares.get_yticks()) <= 1 and shares.get_ylim()[1] < 1.05


def test_markers_of_latency_are_those_of_the_students(root):
    figure = exhibits.FIGURES["fig-latency"].maker(CONFIG, load("cpu", root))
    shown = [line.get_marker() for line in figure.axes[0].lines if line.get_markersize() == 7]
    markers = style.arm_markers(CONFIG)
    assert shown[: len(CONFIG.variants)] == [markers[variant.name] for variant in CONFIG.variants]


def test_no_other_figures(drawn):
    assert {path.stem for path in drawn.glob("*.png")} == {f"fig-{name}" for name in IDS}
    assert (drawn / "figures.provenance.json").is_file()


def test_figures_are_the_same_bytes_every_time(drawn, root, tmp_path):
    plots.draw(CONFIG, "fig-similarity", tmp_path, root=root)
    for suffix in (".png", ".svg", ".pdf"):
        assert (tmp_path / f"fig-similarity{suffix}").read_bytes() == (drawn / f"fig-similarity{suffix}").read_bytes()


def test_rewiring_shows_the_configured_groups(drawn):
    svg = (drawn / "fig-rewiring.svg").read_text()
    assert f"KV 5-{LAYERS}" in svg and "5 KV caches (62.5% of the base)" in svg
    assert "skip 50%, AcrossKV 4" in svg


def test_rewiring_picks_base_half_and_widest_group():
    models = wirings(CONFIG, 16)
    assert [(m.cut, m.group) for m in models] == [(16, 1), (8, 1), (8, 4)]


@given(st.integers(1, 64), st.integers(1, 8), st.integers(0, 8))
def test_caches_follow_the_formula(cut, group, groups):
    layers = cut + group * groups
    assert Wiring("", layers, cut, group).caches == pytest.approx(cut + (layers - cut) / group)


@pytest.mark.parametrize("name", ["fig-throughput", "fig-accuracy-speedup", "fig-rewiring", "fig-latency"])
def test_a_single_student_is_enough(tmp_path, name):
    build(tmp_path / "results", reduced())
    plots.draw(reduced(), name, tmp_path, root=tmp_path / "results")
    assert (tmp_path / f"{name}.png").is_file()


def test_stale_arms_are_refused(root, tmp_path):
    with pytest.raises(UserError, match=r"summary\.csv: arm .*skip25.* is not in"):
        plots.draw(reduced(), "fig-throughput", tmp_path, root=root)


def test_unknown_figure_and_missing_result(root, tmp_path):
    with pytest.raises(UserError, match="unknown; there are fig-lengths"):
        plots.draw(CONFIG, "fig-magic", tmp_path, root=root)
    (tmp_path / "results" / "cpu").mkdir(parents=True)
    with pytest.raises(UserError, match=r"distill\.jsonl: no such result"):
        plots.draw(CONFIG, "fig-distillation", tmp_path, root=tmp_path / "results")
    assert not list(tmp_path.glob("*.png"))


def test_a_run_without_distillation_still_has_its_figure(tmp_path):
    scale = build(tmp_path / "results", CONFIG)
    (scale / "models" / "distill.jsonl").write_text("")
    plots.draw(CONFIG, "fig-distillation", tmp_path, root=tmp_path / "results")
    assert "no distillation step" in (tmp_path / "fig-distillation.svg").read_text()


def test_a_student_looks_the_same_in_every_run():
    """By what it skips and shares, whatever stands before it; the default students look as they always have."""
    default, alone = CONFIG, reduced()
    assert style.arm_colours(alone)["skip50"] == style.arm_colours(default)["skip50"] == style.PALETTE[1]
    assert style.arm_markers(alone)["skip50"] == style.arm_markers(default)["skip50"]
    assert [style.arm_colours(default)[v.name] for v in default.variants] == style.PALETTE[:5]


@given(
    st.lists(st.tuples(st.sampled_from([0.125, 0.25, 0.5, 0.625, 0.75]), st.integers(1, 6)), unique=True, max_size=7)
)
def test_no_two_students_of_a_run_look_alike(students):
    variants = [
        {"name": f"v{number}", "skip": skip, "key_value_group_size": group}
        for number, (skip, group) in enumerate(students)
    ]
    config = make_config(instead={"variants": variants})
    assert len(set(style.looks(config).values())) == len(students)


def test_notes_say_what_an_interval_is_of_and_times_have_three_digits():
    assert [style.milliseconds(seconds) for seconds in (1.7777, 0.02684, 0.1, 0.0999)] == [
        "1,780 ms",
        "26.8 ms",
        "100 ms",
        "99.9 ms",
    ]
    rows = pd.DataFrame({"interval": ["t"], "restarts": [6]})
    notes = [style.interval_note(frame) for frame in (rows, rows.assign(restarts=1), rows[["interval"]], rows[[]])]
    assert notes[0] == "95% CI (t on log ratios of 6 processes)" and notes[1] == notes[2] == "95% CI (t on log ratios)"
    assert notes[3] == "95% bootstrap CI of the median"
