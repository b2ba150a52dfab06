"""The rules that turn a measurement into a verdict: comparisons of numbers, blind to what the claim says."""

from swiftkv.markup import with_interval
from swiftkv.report.claims.measurement import Measurement

REPRODUCED, PARTLY, NOT_REPRODUCED, NOT_COMPARABLE = "reproduced", "partly", "not reproduced", "not comparable"


def at_least(rule: dict, published: float, measured: Measurement) -> tuple[str, str]:
    """Larger is better. `reproduced`: the whole CI reaches `accept`. `partly`: the point estimate reaches
    `partly` and the CI excludes `no_effect`. Either may follow the compute limit (`threshold`). `not comparable`: the
    compute limit lies below `accept`, so nothing that is measured there could reach it.
    """
    accept, partly = threshold(rule["accept"], measured), threshold(rule["partly"], measured)
    if measured.limit is not None and accept > measured.limit:
        return NOT_COMPARABLE, f"Accepted is {accept:.4g}, and the compute saved allows {measured.limit:.4g} here"
    if measured.low >= accept:
        return REPRODUCED, f"{interval(measured)} reaches the accepted {accept:.4g}"
    if measured.value >= partly and excludes(measured.low, rule.get("no_effect")):
        return PARTLY, f"not all of {interval(measured)} clears {accept:.4g}, but the middle reaches {partly:.4g}"
    return NOT_REPRODUCED, f"{interval(measured)} falls short of {accept:.4g} and of a part of it ({partly:.4g})"


def at_most(rule: dict, published: float, measured: Measurement) -> tuple[str, str]:
    """Smaller is better: `at_least` mirrored."""
    if measured.high <= rule["accept"]:
        return REPRODUCED, f"{interval(measured)} stays within the accepted {rule['accept']:.4g}"
    beyond = "no_effect" not in rule or measured.high < rule["no_effect"]
    if measured.value <= rule["partly"] and beyond:
        return PARTLY, f"{interval(measured)} exceeds {rule['accept']:.4g} but stays within {rule['partly']:.4g}"
    return NOT_REPRODUCED, f"{interval(measured)} exceeds {rule['accept']:.4g} and {rule['partly']:.4g}"


def within(rule: dict, published: float, measured: Measurement) -> tuple[str, str]:
    """Equality. `reproduced`: the whole CI lies within `accept` of the published value; `partly`: the point
    estimate lies within `partly` of it.
    """
    # Rounded, so that a value on the border is judged alike on either side, whatever binary floats make of it.
    distance = round(abs(measured.value - published), 9)
    furthest = round(max(abs(measured.low - published), abs(measured.high - published)), 9)
    if furthest <= rule["accept"]:
        return REPRODUCED, f"{interval(measured)} is within {rule['accept']:.4g} of {published:.4g}"
    if distance <= rule["partly"]:
        near = f"within {rule['partly']:.4g} of {published:.4g}, not surely within {rule['accept']:.4g}"
        return PARTLY, f"{interval(measured)} is {near}"
    return (
        NOT_REPRODUCED,
        f"{measured.value:.4g} is {distance:.4g} away from {published:.4g}; accepted is {rule['accept']:.4g}",
    )


RULES = {"at_least": at_least, "at_most": at_most, "within": within}


def judge(rule: dict, published: float, measured: Measurement) -> tuple[str, str]:
    """(verdict, one-line reason with the numbers compared)."""
    return RULES[rule["kind"]](rule, published, measured)


def threshold(given: float | dict, measured: Measurement) -> float:
    """A number of a rule: as given, `{limit_share: s}`, s times the compute limit, or `{gain_share: s}`, where s of the
    gain that the compute limit allows over 1 has arrived."""
    if not isinstance(given, dict):
        return given
    if "limit_share" in given:
        return given["limit_share"] * measured.limit
    return 1 + given["gain_share"] * (measured.limit - 1)


def excludes(low: float, no_effect: float | None) -> bool:
    return no_effect is None or low > no_effect


def interval(measured: Measurement) -> str:
    """The measurement with its 95% CI, or with the range it was taken from, as text."""
    if measured.is_ci:
        return with_interval(measured.value, measured.low, measured.high, ".4g")
    spread = f" (range {measured.low:.4g} to {measured.high:.4g})" if measured.high > measured.low else ""
    return f"{measured.value:.4g}{spread}"


def ceiling(published: float, measured: Measurement) -> str:
    """A sentence where the compute model itself forbids the published gain at this point, else nothing."""
    if measured.limit is None or measured.limit >= published:
        return ""
    return (
        f"The compute limit {measured.limit:.2f}x lies below the published {published:.4g}x: the compute saved "
        "cannot give it at this point"
    )
