"""What a fit says about itself: notes on odd points, what more would do, pictures, forecasts, JSON both ways."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence

import numpy as np
import pytest

from analysis.fits import FitError, FitResult, fit

SIZES = np.geomspace(1e4, 1e7, 7)
THREE = np.repeat(SIZES, 3)


def noisy(x: np.ndarray, seed: int = 0, sd: float = 0.03) -> np.ndarray:  # type: ignore[type-arg]
    return np.asarray(1.5 + 40 * x**-0.3 + np.random.default_rng(seed).normal(0, sd, len(x)))


def note(result: FitResult, code: str) -> str:
    found = [n.message for n in result.notes if n.code == code]
    assert len(found) == 1, result.notes
    return found[0]


def codes(result: FitResult) -> set[str]:
    return {n.code for n in result.notes}


# ---------------------------------------------------------------- what is missing, and how much more would do


def test_few_sizes_say_how_many_would_test_the_form() -> None:
    three = fit("power", THREE[:9], noisy(THREE[:9]))
    assert "x has 3 distinct values" in note(three, "form_not_tested") and "4 would do" in note(
        three, "form_not_tested"
    )
    assert "form_not_tested" not in codes(fit("power", THREE[:12], noisy(THREE[:12])))
    surface = np.array([(n, d) for n in SIZES[:3] for d in (1e3, 1e4, 1e5, 1e6)])
    found = fit("additive", surface, 1 + 9 * surface[:, 0] ** -0.3 + 9 * surface[:, 1] ** -0.3)
    assert "N has 3" in note(found, "form_not_tested") and "4 would do" in note(found, "form_not_tested")


@pytest.mark.parametrize(
    "name, x, y, code, message",
    [
        ("power", [5.0] * 4, [1.0, 2.0, 3.0, 2.0], "too_few_levels", "1 distinct value, power needs 3; 2 more"),
        ("power", SIZES[:2], [2.0, 1.0], "too_few_points", "2 points for 3 parameters; 1 more is needed"),
        ("broken", SIZES[:5], [5.0, 4.0, 3.0, 2.0, 1.0], "too_few_levels", "broken needs 6; 1 more is needed"),
        ("rl", [0.0, 0.0, 1.0], [0.0, 0.0, 1.0], "too_few_levels", "1 distinct value, rl needs 2"),
    ],
)  # fmt: skip
def test_too_little_is_a_status_that_counts(
    name: str, x: Sequence[float], y: Sequence[float], code: str, message: str
) -> None:
    result = fit(name, x, y)
    assert result.status == "not_identified" and message in note(result, code)
    assert all((p.value, p.se, p.low, p.high) == (None,) * 4 for p in result.params.values())
    assert result.aicc is None and result.bic is None and np.isnan(result.predict([1e5])).all()
    assert json.loads(result.to_json())["params"][next(iter(result.params))]["value"] is None


def test_points_without_a_trend_say_what_would_do() -> None:
    flat = fit("power", THREE, 2 + np.random.default_rng(8).normal(0, 0.02, 21))
    assert flat.status == "not_identified"
    assert "more seeds at each x, or a wider range" in " ".join(n.message for n in flat.notes)
    few = fit("power", THREE[:9], 2 + np.random.default_rng(8).normal(0, 0.02, 9))
    assert few.status == "not_identified" and "1 more value of x would do" in " ".join(n.message for n in few.notes)


@pytest.mark.parametrize(
    "name, y", [("pm-accuracy", 1.0), ("pm-accuracy", 0.5), ("power", 2.0), ("pm-loss", math.log(2))]
)
def test_a_score_that_never_changes_decides_nothing(name: str, y: float) -> None:
    """Right, or by chance, everywhere: any amplitude and exponent will do."""
    result = fit(name, THREE, np.full(21, y))
    assert result.status == "not_identified" and "would do" in " ".join(n.message for n in result.notes)
    assert result.params["a"].low is None and result.params["a"].high is None


def test_one_run_and_as_many_points_as_parameters_say_what_would_do() -> None:
    one = fit("bon", [1.0, 2.0, 3.0], [1.0, 1.6, 1.9], cluster=["a"] * 3)
    assert one.ci_method == "none" and "a second gives one" in note(one, "one_cluster")
    exact = fit("power", SIZES[:3], noisy(SIZES[:3]))
    assert exact.params["a"].low is None and "one more gives intervals" in note(exact, "no_degrees_of_freedom")


# ---------------------------------------------------------------- odd points


def test_repeated_cells_are_told_of() -> None:
    """The same size and seed twice, with another value: one of them is likely a mistake."""
    x, seed = np.append(THREE, THREE[4]), np.append(np.tile([0, 1, 2], 7), 1)
    y = np.append(noisy(THREE), 2.5)
    again = note(fit("power", x, y, cluster=seed, draws=50), "repeated_rows")
    assert "1 rows repeat the run and x" in again and "row 22" in again
    assert "repeated_rows" not in codes(fit("power", x, y, cluster=seed, draws=50, repeats=True))
    assert "repeated_rows" not in codes(fit("power", x, y))  # seeds at one x are what replicates look like
    assert "x and y" in note(fit("power", np.append(THREE, THREE[4]), np.append(y[:21], y[4])), "repeated_rows")


def test_a_form_that_does_not_hold_is_told_of_and_one_that_holds_rarely() -> None:
    """A dip in the middle against repeats that scatter by .01; where the form holds, at most 1 % of fits say it does
    not: of 100 at most five, four Monte Carlo errors above."""
    dip = noisy(THREE, sd=0.01) - 0.3 * (SIZES[3] == THREE)
    assert "F test" in note(fit("power", THREE, dip), "lack_of_fit")
    said = ["lack_of_fit" in codes(fit("power", THREE, noisy(THREE, seed), ci="wald")) for seed in range(100)]
    assert sum(said) <= 5


@pytest.mark.parametrize(
    "options, message",
    [
        ({"y": [1.0, 2.0]}, "y has the shape (2,), where x has 3 rows"),
        ({"se": [1.0]}, "se has the shape (1,)"),
        ({"cluster": ["a", "b"]}, "cluster has the shape (2,)"),
        ({"cluster": ["a", "", "b"]}, "column 'cluster', row 2: empty"),
        ({"cluster": [0.0, math.nan, 1.0]}, "column 'cluster', row 2: empty"),
        ({"y": ["a", "b", "c"]}, "must be numbers"),
        ({"y": [1.0, math.inf, 2.0]}, "column 'y', row 2"),
    ],
)
def test_arrays_that_do_not_fit_together_are_typed_errors(options: dict, message: str) -> None:  # type: ignore[type-arg]
    with pytest.raises(FitError) as caught:
        fit("log-linear", [1.0, 2.0, 3.0], options.pop("y", [1.0, 2.0, 3.0]), **options)
    assert message in str(caught.value) and "\n" not in str(caught.value)


# ---------------------------------------------------------------- results


def test_results_are_immutable_and_json_goes_both_ways() -> None:
    for options in ({}, {"cluster": np.tile([0, 1, 2], 7), "draws": 50}, {"loss": "huber", "draws": 50}):
        result = fit("power", THREE, noisy(THREE), **options)  # type: ignore[arg-type]
        back = FitResult.from_json(result.to_json())
        assert back == result and (back.predict(SIZES) == result.predict(SIZES)).all()
        assert np.array_equal(back.band(SIZES, kind="new_run"), result.band(SIZES, kind="new_run"), equal_nan=True)
        with pytest.raises(AttributeError):
            result.status = "ok"  # type: ignore[misc]


def test_a_summary_names_method_loss_and_starts() -> None:
    text = fit("power", THREE, noisy(THREE), loss="hoffmann", draws=50).summary()
    assert "hoffmann, log residuals, intervals: cases-bootstrap" in text and "BIC" in text
    result = fit("power", THREE, noisy(THREE))
    assert result.starts is not None and 1 <= result.starts.at_best <= result.starts.followed <= result.starts.tried
    assert f"{result.starts.at_best} of {result.starts.followed} starts" in result.summary()


def test_decades_count_from_the_nearest_point() -> None:
    result = fit("power", THREE, noisy(THREE))
    assert result.decades([1e2, 1e5, 1e9]) == pytest.approx([2, 0, 2])
    d = np.tile([0.5, 1.0, 2.0], 2)
    slope = fit("sqrt-kl-linear", d, d + 0.1, cluster=np.repeat([0, 1], 3))
    assert slope.decades([0.0, 0.1, 20.0]) == pytest.approx([0, 0, 1])  # towards 0 the law is 0 by definition
    plane = np.array([(n, t) for n in SIZES for t in (1e3, 1e4, 1e5, 1e6)])
    surface = fit("additive", plane, 1 + 9 * plane[:, 0] ** -0.3 + 9 * plane[:, 1] ** -0.3, ci="wald")
    assert surface.decades([[1e8, 1e6], [1e5, 1e9], [1e8, 1e9]]) == pytest.approx([1, 3, 3])


def test_a_new_runs_band_adds_runs_and_their_scatter() -> None:
    """Runs fitted one by one: the variance of c d is that of a run's slope (1 + 1 / G) and of points about its line."""
    d, slopes = np.array([1.0, 2.0, 4.0]), np.array([0.9, 1.0, 1.2, 1.3])
    error = np.array([2.0, 1.0, -1.0])  # orthogonal to d: the slopes stay as they are
    y = np.concatenate([c * d + 0.01 * error for c in slopes])
    result = fit("sqrt-kl-linear", np.tile(d, 4), y, cluster=np.repeat(np.arange(4), 3))
    within = math.sqrt(4 * 6e-4 / 8)  # 4 runs, 3 points less one slope each
    assert result.within_sd == pytest.approx(within, rel=1e-6)
    variance = np.var(slopes, ddof=1) * (1 + 1 / 4) * 4.0 + within**2
    low, high = result.band([2.0], kind="new_run")
    assert (high - low)[0] / 2 == pytest.approx(3.182446 * math.sqrt(variance), rel=1e-5)  # t of 3 degrees of freedom


def test_a_picture_has_points_line_and_two_bands() -> None:
    result = fit("power", THREE, noisy(THREE))
    ax = result.plot(x=THREE, y=noisy(THREE))
    points, line = ax.lines
    assert len(ax.collections) == 2 and ax.get_xscale() == "log" and ax.get_ylabel() == "y"
    np.testing.assert_array_equal(points.get_xdata(), THREE)
    np.testing.assert_allclose(line.get_ydata(), result.predict(np.asarray(line.get_xdata())))
    assert result.plot(ax) is ax and len(ax.lines) == 3
    plane = np.array([(n, t) for n in SIZES for t in (1e3, 1e4, 1e5)])
    surface = fit("additive", plane, 1 + 9 * plane[:, 0] ** -0.3 + 9 * plane[:, 1] ** -0.3, ci="wald")
    assert len(surface.plot(x=plane, y=np.ones(21)).lines) == 1 + 3 and len(surface.plot().lines) == 1
    assert fit("power", SIZES[:2], [2.0, 1.0]).plot() is not None  # nothing known: axes without a line's values
