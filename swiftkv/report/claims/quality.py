"""What the claims about accuracy are judged by: scores of the paper's own tasks where a run has them (`protocol`), else
those of the enterprise tasks (`accuracy`). Both hold a row per arm and task, and the mean over tasks.

Metrics as in `metrics`: each takes the `metric` mapping of a claim and the ClaimContext, and returns a Measurement or
raises Unanswerable or UserError.
"""

import pandas as pd

from swiftkv.config import UNDISTILLED
from swiftkv.report.claims.measurement import Measurement, Unanswerable, file_of, only, student

JUDGES = "the scale `smollm2`, on a pretrained model, can"
MEAN = "mean"


def frame_of(arm: str, context) -> str:
    """The frame whose mean judges an arm: the paper's protocol, where it has all seven tasks of the arm."""
    if context.results.has("protocol"):
        frame = context.results.frame("protocol")
        if ((frame.arm == arm) & (frame.task == MEAN)).any():
            return "protocol"
    return "accuracy"


def mean_of(arm: str, name: str, metric: dict, context) -> pd.Series:
    """The mean row of an arm. Raises Unanswerable where the base is too weak, or the tasks too easy, to show a loss."""
    row = only(context.results.frame(name), {"arm": arm, "task": MEAN}, file_of(name))
    if row.base_score < metric.get("min_base", 0):
        weak = f"the base scores {row.base_score:.1%}, below {metric['min_base']:.0%}"
        raise Unanswerable("not comparable", f"{weak}; keeping a share of that says little")
    if row.base_score > metric["max_base"]:
        seen = f"the base scores {row.base_score:.1%}, above {metric['max_base']:.0%}"
    elif row.differing < metric["min_differing"]:
        fewest = metric["min_differing"]
        seen = f"{row.differing:.0f} of {row['items']:.0f} items differ from the base's, under {fewest}"
    else:
        return row
    raise Unanswerable("not comparable", f"saturated: {seen}, so these tasks cannot show what is lost; {JUDGES}")


def retention(metric: dict, context) -> Measurement:
    """100 * score / base score, mean over the tasks of the metric's `frame`, else of the one that judges the arm; the
    CI is that of the paired difference over the base score."""
    arm = student(metric, context)
    name = metric.get("frame") or frame_of(arm, context)
    row = mean_of(arm, name, metric, context)
    return Measurement(
        value=100 * row.score / row.base_score,
        frame=name,
        # The base's score counts as known: items are paired, so what varies is the difference.
        low=100 * (1 + row.ci_low / row.base_score),
        high=100 * (1 + row.ci_high / row.base_score),
        is_ci=True,
        details=f"{arm} scores {row.score:.1%}, the base {row.base_score:.1%} {weakest(arm, name, context)}",
    )


def weakest(arm: str, name: str, context) -> str:
    """The tasks behind a mean, in words, with the one that kept least: it must not hide behind the others."""
    frame = context.results.frame(name)
    tasks = frame[(frame.arm == arm) & (frame.task != MEAN) & (frame.base_score >= context.config.accuracy.floor)]
    kept = tasks.score / tasks.base_score
    worst = tasks.loc[kept.idxmin()]
    text = (
        f"on {tasks['items'].sum():.0f} items of {len(tasks)} tasks ({', '.join(tasks.task)}); weakest is {worst.task} "
        f"at {kept.min():.1%} of the base"
    )
    if name == "accuracy":
        ratio = only(frame, {"arm": arm, "task": MEAN}, file_of(name)).length_ratio
        text += f"; answers are {ratio:.2f} times as long as the base's"
    return text


def gap_recovered(metric: dict, context) -> Measurement:
    """Share (%) of the loss without distillation that distillation wins back.

    Of the metric's student, or, where rewiring alone costs that one less than `min_gap`, of the first of `otherwise`
    that loses more. The CI is that of the paired difference to the base over the gap, which is taken as fixed.
    """
    losses = {}
    for chosen in ({"student": metric["student"]}, *({"student": other} for other in metric.get("otherwise", []))):
        arm = student(chosen, context)
        name = frame_of(arm + UNDISTILLED, context)
        # The base's score stands in every arm's row; the control's is that of the same items.
        control = mean_of(arm + UNDISTILLED, name, metric, context)
        losses[arm] = control.base_score - control.score
        if losses[arm] >= metric["min_gap"]:
            return recovered(arm, name, losses, context)
    lost = ", ".join(f"{arm} {gap:.1%}" for arm, gap in losses.items())
    raise Unanswerable(
        "not comparable", f"without distillation the loss is small ({lost}); there is little to win back"
    )


def recovered(arm: str, name: str, losses: dict[str, float], context) -> Measurement:
    """The share of `losses[arm]` won back; the details name the students that were passed over."""
    row, gap = only(context.results.frame(name), {"arm": arm, "task": MEAN}, file_of(name)), losses[arm]
    passed = [f"rewiring alone costs {one} only {loss:.1%}, too little to judge by" for one, loss in losses.items()]
    scores = f"base {row.base_score:.1%}, {arm} {row.score:.1%}, without distillation {row.base_score - gap:.1%}"
    return Measurement(
        value=100 * (1 + row.difference / gap),
        frame=name,
        low=100 * (1 + row.ci_low / gap),
        high=100 * (1 + row.ci_high / gap),
        is_ci=True,
        files=(file_of(name), file_of("distill")),
        details="; ".join([*passed[:-1], scores, effort(arm, context)]),
    )


def effort(arm: str, context) -> str:
    """What the distillation took, in words: in this run, and before it where the student went on from there."""
    curve = context.results.distill.query("variant == @arm")
    before = (context.results.provenance("distill") or {}).get("started_from", {}).get(arm)
    if curve.empty and before is None:
        raise Unanswerable("not measured", f"{file_of('distill')} has no rows of {arm}")
    said = [f"distilled on {before['tokens']:,} tokens before this run"] if before else []
    if not curve.empty:
        minutes = curve.seconds.max() / 60
        said.append(f"distilled on {curve.tokens.max():,.0f} tokens in {minutes:.1f} minutes, all students in one run")
    return "; ".join(said)
