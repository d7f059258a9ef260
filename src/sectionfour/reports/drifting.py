"""The drift report: what comes in against the training period, and performance as labels mature.

Numbers about many people, none about one. `keep` puts the gist into a file of the home, from which
/metrics shows it: whoever scrapes can alert on it, and on a measurement that has grown old.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from html import escape
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from numpy.typing import NDArray

from sectionfour.domain import DAY, WEEK, instant
from sectionfour.errors import HistoryError, SettingsError
from sectionfour.learning import drift, evaluate, registry
from sectionfour.learning.challengers import enough
from sectionfour.parts import Parts
from sectionfour.reports import period

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]
FILE = "drift.json"
RECENT_DAYS = drift.NEWEST_DAYS


def measure(
    parts: Parts,
    names: Sequence[str],
    *,
    since: int | None,
    until: int | None,
    delay_days: float,
) -> dict[str, Any]:
    """Return the drift of each model that is served; of all without `names`.

    Without `since`, of the last RECENT_DAYS of what there is. Raises HistoryError for a period of
    too few events, and RegistryError for a model that was made without histograms.
    """
    models = parts.models
    served = [n for n in names or registry.NAMES if registry.current(models.folder, n)]
    # All of what the model has not learnt from, for the weeks; the period is a part of it.
    of_all = period.read(parts, served, until=until, delay_days=delay_days)
    found = {}
    for name in served:
        version = registry.current(models.folder, name)
        assert version is not None
        model, card = registry.load(models.folder, name, version, models.trusted)
        before = registry.beside(models.folder, card, registry.HISTOGRAMS)
        whole = of_all[name]
        begin = whole.at[-1] - RECENT_DAYS * DAY if since is None else since
        recent = whole.of(whole.at >= begin)
        if len(recent.at) < drift.LEAST_ROWS:
            raise HistoryError(
                f"{len(recent.at)} events of {name} in this period; {drift.LEAST_ROWS} are needed"
            )
        places = [int(place) for place in model.columns]
        said = drift.measure(
            before,
            recent.rows[:, model.columns],
            places,
            recent.clusters,
            model.score(recent.rows),
        )
        unseen = registry.unseen_from(card)
        fresh = whole.of(whole.at >= unseen)
        scores = model.score(fresh.rows) if len(fresh.at) else np.empty(0)
        found[name] = {
            "version": version,
            "from": instant(int(recent.at[0])),
            "to": instant(int(recent.at[-1])),
            **said,
            "verdict": _worst(said),
            "weeks": list(_weeks(fresh, scores)),
            "unseen": _good(fresh, scores, np.ones(len(scores), bool)) if len(scores) else None,
            "on_card": card["metrics"],
        }
    return {"measured_at": parts.clock(), "models": found}


def _worst(said: dict[str, Any]) -> str:
    words = [drift.verdict(said["scores"])]
    for category in said["categories"].values():
        feature = category["features"][category["worst"]]
        words.append(drift.verdict(feature))
    return max(words, key=("none", "some", "much").index)


def _weeks(of: period.Period, scores: Floats) -> Iterator[dict[str, Any]]:
    """Yield, for each week (from Thursday, UTC), how good the model was as far as is known."""
    weeks = of.at // WEEK
    for week in np.unique(weeks):
        yield {"week": instant(int(week * WEEK))[:10]} | _good(of, scores, weeks == week)


def _good(of: period.Period, scores: Floats, rows: Bools) -> dict[str, Any]:
    """Return how good the model was on some rows, as far as is known."""
    mature = rows & of.mature
    y, s = of.fraud[mature], scores[mature]
    clusters = np.unique(of.clusters[mature], return_inverse=True)[1]
    return {
        "rows": int(rows.sum()),
        "mature": len(y),
        "frauds": int(y.sum()),
        "mean_score": round(float(scores[rows].mean()), 6),
        "metrics": evaluate.metrics(y, s, clusters=clusters) if enough(y, clusters) else None,
    }


def keep(home: Path, found: dict[str, Any]) -> None:
    """Put the gist where /metrics finds it: whole or not at all."""
    gist = {
        "measured_at": found["measured_at"],
        "psi": {
            name: {"scores": said["scores"]["psi"]}
            | {category: of["psi"] for category, of in said["categories"].items()}
            for name, said in found["models"].items()
        },
    }
    fresh = home / f".{FILE}.{os.getpid()}"
    fresh.write_bytes(msgspec.json.encode(gist))
    os.replace(fresh, home / FILE)


def lines(found: dict[str, Any]) -> Iterator[str]:
    """Yield the report as text."""
    for name, said in found["models"].items():
        yield f"{name} {said['version']}: {said['rows']:,} events, {said['from']} to {said['to']}"
        yield f"  {'':20} {'PSI':>8} {'usual':>8} {'by chance':>10}  drift  worst feature"
        scores = said["scores"]
        yield _line("scores", scores, "")
        for category, of in said["categories"].items():
            yield _line(category, of["features"][of["worst"]], of["worst"])
        for week in said["weeks"]:
            yield _performance(f"week of {week['week']}", week)
        if said["unseen"]:
            yield _performance("all that it had not seen", said["unseen"])


def _performance(when: str, good: dict[str, Any]) -> str:
    told = "too few members with a known fraud to judge by"
    if good["metrics"]:
        ap = good["metrics"]["average_precision"]
        told = f"AP {ap['value']:.3f} ({ap['low']:.3f} to {ap['high']:.3f})"
    return (
        f"  {when}: {good['rows']:,} events, {good['mature']:,} old enough,"
        f" {good['frauds']} frauds, mean score {good['mean_score']:.4f}; {told}"
    )


def _line(what: str, said: dict[str, Any], worst: str) -> str:
    numbers = f"{said['psi']:8.4f} {said['usual']:8.4f} {said['chance']:10.4f}"
    return f"  {what:20} {numbers}  {drift.verdict(said):5}  {worst}"


def html(found: dict[str, Any]) -> str:
    """Return the report as one HTML file with pictures (SVG), without a script.

    Needs the `notebooks` extra; SettingsError without it.
    """
    try:
        import altair as alt
        import pandas as pd
        import vl_convert
    except ImportError as error:
        raise SettingsError(
            "pictures need the notebooks extra: pip install 'sectionfour[notebooks]'"
        ) from error
    parts = ["<!doctype html><meta charset=utf-8><title>Drift</title>"]
    parts.append("<style>body{font:14px sans-serif;max-width:60em;margin:2em auto}</style>")
    parts.append(f"<h1>Drift, measured {instant(found['measured_at'])}</h1>")
    for name, said in found["models"].items():
        categories = pd.DataFrame(
            [
                {"category": category, "PSI": of["psi"], "worst": of["worst"]}
                for category, of in said["categories"].items()
            ]
            + [{"category": "scores", "PSI": said["scores"]["psi"], "worst": ""}]
        )
        shares = pd.DataFrame(
            {"when": when, "bin": number, "share": count / max(1, sum(said["scores"][key]))}
            for when, key in (("training period", "then"), ("now", "now"))
            for number, count in enumerate(said["scores"][key][:-1])
        )
        bars = alt.Chart(categories).encode(alt.Y("category:N", sort="-x", title=None))
        drawn: list[Any] = [
            bars.mark_bar(color="#4b6a88").encode(alt.X("PSI:Q")).properties(width=420)
            + alt.Chart(pd.DataFrame({"PSI": [drift.SOME, drift.MUCH]}))
            .mark_rule(strokeDash=[4, 4], color="#b3261e")
            .encode(alt.X("PSI:Q")),
            alt.Chart(shares)
            .mark_bar(opacity=0.6)
            .encode(
                alt.X("bin:O", title="scores, tenths of the training period from low to high"),
                alt.XOffset("when:N"),
                alt.Y("share:Q", axis=alt.Axis(format="%")),
                alt.Color("when:N", title=None),
            )
            .properties(width=420, height=160),
        ]
        if said["weeks"]:
            weeks = pd.DataFrame(said["weeks"])[["week", "mean_score"]]
            drawn.append(
                alt.Chart(weeks)
                .mark_line(point=True, color="#4b6a88")
                .encode(alt.X("week:O"), alt.Y("mean_score:Q", title="mean score"))
                .properties(width=420, height=160)
            )
        parts.append(f"<h2>{escape(name)} {escape(said['version'])}: {said['verdict']}</h2>")
        parts.append(f"<p>{said['rows']:,} events, {said['from']} to {said['to']}</p>")
        parts += [vl_convert.vegalite_to_svg(chart.to_json()) for chart in drawn]
    parts.append(f"<pre>{escape(chr(10).join(lines(found)))}</pre>")
    return "\n".join(parts)
