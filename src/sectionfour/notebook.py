"""What an analyst reads in a notebook: the ledger as pandas tables, pseudonymised.

Every row has passed the gate for `security.record_audit_analyse`, as it would before training, and
what may not be analysed is missing. No token leaves here: a member, a device, an address is a small
number, drawn anew for each session, so that two sessions cannot be joined. Times are to the minute.
Pages and searches are not shown. The vault is never opened, nothing is written, and pandas is
imported only when something is read. Needs the `training` extra.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from sectionfour.domain import DAY, EVER, MINUTE
from sectionfour.errors import HistoryError, RegistryError
from sectionfour.features.catalog import ENTITIES, FEATURES, INPUTS, NAMES, columns, needed
from sectionfour.settings import Settings, from_environment

if TYPE_CHECKING:
    import numpy as np
    import pandas as pd
    from numpy.typing import NDArray

    from sectionfour.decisions.policy import Costs, Policy, Thresholds
    from sectionfour.decisions.rules import Rules
    from sectionfour.learning.model import Model
    from sectionfour.learning.past import Past
    from sectionfour.learning.registry import Card
    from sectionfour.privacy.regime import Regime

#: What is read for where nothing else is declared.
PURPOSE = "security.record_audit_analyse"
#: What an analyst is not shown, whatever was permitted: how somebody browsed and searched.
NOT_SHOWN = frozenset({"log"})
#: The numbers of a simulated market may be the same each time: nobody stands behind them.
SAMPLE_SEED = 4


def open_home(
    home: Path | str | None = None,
    models: Path | str | None = None,
    *,
    trusted: Collection[bytes] | None = None,
    purpose: str = PURPOSE,
) -> Reader:
    """Read the ledger of `home` and the models that are served; the environment's without them.

    `purpose` is declared: for one outside section Four there are only the rows of members who have
    consented to that very purpose before, for their scores and labels too (section Five).

    `trusted` are the public keys whose models are believed. Without them they are looked up in the
    home's ring, for which its key-encryption key is needed; nothing else here needs a key.

    Raises HistoryError where there is no ledger.
    """
    settings = from_environment(home=_path(home), models=_path(models))
    if settings.ledger is None and not (settings.home / "ledger.db").exists():
        raise HistoryError(f"{settings.home} holds no ledger; import a past, or name another home")
    if trusted is None:
        from sectionfour.bootstrap import trusted_keys
        from sectionfour.privacy.kek import load_kek
        from sectionfour.privacy.keys import Keyring

        trusted = trusted_keys(Keyring(settings.home / "keys", load_kek(settings.home)))
    return _read(settings, trusted, seed=None, purpose=purpose)


def sample(market: Path | str, models: Path | str | None = None) -> Reader:
    """Take a simulated market (parquet) into a home of its own, through gate and seal, and read it.

    The home is gone when this returns. Takes about 8 s for the market of `data_samples`.
    """
    from sectionfour.bootstrap import open_parts, trusted_keys
    from sectionfour.jobs import clustering
    from sectionfour.loading import imports
    from sectionfour.loading.replay import replay

    with TemporaryDirectory(prefix="sectionfour-") as folder:
        settings = replace(
            from_environment(home=Path(folder), models=_path(models)),
            ledger=None,
            velocity=None,
            witness=None,
            velocity_gib=4,
            durability="normal",
        )
        parts = open_parts(settings)
        try:
            steps, _ = imports.market(Path(market))
            replay(steps, parts, notice=imports.MARKET_NOTICE)
            clustering.refresh_past(parts, 0)
            trusted = trusted_keys(parts.keys.ring)
        finally:
            parts.close()
        return _read(settings, trusted, seed=SAMPLE_SEED)


def _path(given: Path | str | None) -> Path | None:
    return None if given is None else Path(given)


def _read(
    settings: Settings, trusted: Collection[bytes], *, seed: int | None, purpose: str = PURPOSE
) -> Reader:
    """Read a ledger, pass what it holds through the gate, and draw the numbers of this session."""
    import numpy as np

    from sectionfour import stores
    from sectionfour.decisions import policy, rules
    from sectionfour.learning import past
    from sectionfour.learning.permitted import permit
    from sectionfour.parts import now
    from sectionfour.privacy import regime

    law = regime.load(settings.regime)
    ledger = stores.open_ledger(settings.ledger or f"sqlite:{settings.home / 'ledger.db'}")
    try:
        found = past.read(ledger)
        permitted, _, masked = permit(
            found, ledger, at=now(), regime=law, purpose=purpose, operation="export"
        )
    finally:
        ledger.close()
    _renumber(found, np.random.default_rng(seed))
    return Reader(
        _past=found,
        _permitted=permitted,
        _masked=masked,
        _regime=law,
        _policy=policy.load(settings.costs),
        _rules=rules.load(settings.rules),
        _models=settings.models,
        _trusted=frozenset(trusted),
    )


def _renumber(found: Past, rng: np.random.Generator) -> None:
    """Give every entity a number drawn at random, and forget whose token each had been."""
    for name in ENTITIES:
        numbers = found.events[name]
        most = int(numbers.max()) + 1 if numbers.notna().any() else 0
        drawn = rng.permutation(most) + 1
        here = numbers.notna()
        found.events.loc[here, name] = drawn[numbers[here].to_numpy(dtype="int64")]
        if name == "member":
            known = found.labels["member_number"].notna()
            places = found.labels.loc[known, "member_number"].to_numpy(dtype="int64")
            found.labels.loc[known, "member_number"] = drawn[places]
            found.clusters["member"] = drawn[found.clusters["member"].to_numpy()]
    found.subjects.clear()


@dataclass(frozen=True, repr=False, kw_only=True)
class Reader:
    """One session over what a ledger held when it was opened. Ask it for tables.

    Events go by their place in time, from 1, among those that may be analysed; the tables that have
    a row an event are indexed by it.
    """

    _past: Past
    _permitted: NDArray[np.bool_]
    _masked: dict[str, NDArray[np.bool_]]
    _regime: Regime
    _policy: Policy
    _rules: Rules
    _models: Path
    _trusted: frozenset[bytes]

    def __repr__(self) -> str:
        at = self._past.events["at"].to_numpy()[self._permitted]
        span = " to ".join(f"{_minutes(at[i])[0]:%Y-%m-%d}" for i in ([0], [-1])) if len(at) else ""
        return f"<Reader of {len(at):,} events {span}>"

    # --- what happened

    def events(self) -> pd.DataFrame:
        """Return what happened: type, purpose, numbers of who and what, amounts (minor units)."""
        import pandas as pd

        found = self._past.events
        shown = [n for n, needs in INPUTS.items() if n in found and needs not in NOT_SHOWN | {None}]
        names = ["type", "purpose", *ENTITIES, *shown]
        table = found[names].copy()
        for category, rows in self._masked.items():
            needing = [n for n in names if category in (ENTITIES.get(n), INPUTS.get(n))]
            table.loc[rows, needing] = pd.NA
        table.insert(0, "at", _minutes(found["at"]))
        table["registered_at"] = _minutes(table["registered_at"])
        return self._indexed(table)

    def labels(self) -> pd.DataFrame:
        """Return what became known, in order: of which event or member, what, and when.

        `known_at` is when the service learnt of it: from then on it counts in windows. Of several
        labels of one event the last one holds.
        """
        import pandas as pd

        labels = self._past.labels
        places = pd.Series(self._index, index=self._past.events["event_id"][self._permitted])
        table = pd.DataFrame(
            {
                "event": labels["event_id"].map(places).astype("Int64"),
                "member": labels["member_number"],
                "label": labels["label"],
                "source": labels["source"],
                "known_at": _minutes(labels["at"]),
            }
        )
        about_member = labels["event_id"].isna() & table["member"].isin(self.events()["member"])
        return table[table["event"].notna() | about_member].reset_index(drop=True)

    def features(self) -> pd.DataFrame:
        """Return the features of each event, as of that event; NaN where missing.

        Durations are in seconds, to the minute. Those of pages and searches are not shown.
        """
        import numpy as np
        import pandas as pd

        places = [i for i, f in enumerate(FEATURES) if not NOT_SHOWN.intersection(f.needs)]
        values = self._matrix[:, places].copy()
        durations = [k for k, i in enumerate(places) if FEATURES[i].unit == "s"]
        values[:, durations] = np.floor(values[:, durations] / 60) * 60
        return self._indexed(pd.DataFrame(values, columns=[NAMES[i] for i in places]))

    def truth(self, market: Path | str) -> pd.DataFrame:
        """Return what only a simulation knows: `kind` and `ring` of each fraudulent event.

        For a last look at what was missed; never a feature and never a label.
        """
        import pandas as pd

        told = pd.read_parquet(Path(market) / "truth.parquet").set_index("event_id")
        table = self._past.events[["event_id"]].join(told, on="event_id").drop(columns="event_id")
        return self._indexed(table).dropna(subset="kind")

    # --- what is made of it

    def scores(self, name: str, *, judged: bool = False) -> pd.DataFrame:
        """Return, of each event of a model, the probability of fraud, the level and the outcome.

        By the model, the costs and the rules of today, whatever was answered at the time. Of most
        events the model has learnt: to judge it, take `tested`. `judged`: by the model that its
        card's figures are of, of the same settings, which has seen nothing from `fresh_from` on.
        """
        import numpy as np
        import pandas as pd

        rows = np.flatnonzero(self._of_model(name)[self._permitted])
        matrix = self._matrix[self._permitted][rows]
        scores = self._model(name, judged)[0].score(matrix)
        limits = self.thresholds(name)
        outcomes = [
            self._rules.applied(name, row, limits.outcome(score))
            for score, row in zip(scores.tolist(), matrix, strict=True)
        ]
        return pd.DataFrame(
            {
                "probability": scores,
                "level": [outcome.level for outcome in outcomes],
                "outcome": [outcome.action for outcome in outcomes],
            },
            index=self._index[rows],
        )

    def tested(self, name: str) -> pd.DataFrame:
        """Return `scores` of the events that the model was tested on, with `at` and `fraud`.

        They are of the period that its card names, and by the model that the card's figures are of,
        which was neither fitted on them nor chosen by them; `fraud` is 1 where a fraud is known by
        now, else 0. There are fewer than on the card where consents have been withdrawn since.
        Raises HistoryError for a ledger that has none of them.
        """
        from sectionfour.learning import dataset, registry

        card = self.card(name)
        first, last = registry.tested(card)
        events = self._past.events
        at = events["at"].to_numpy()
        rows = self._permitted & self._of_model(name) & (at >= first) & (at <= last)
        if not rows.any():
            raise HistoryError(f"the ledger holds nothing of the period that {name} was tested on")
        table = self.scores(name, judged=True).loc[self._places[rows]]
        table.insert(0, "at", _minutes(events["at"][rows]))
        table["fraud"] = dataset.labels_at(events, self._past.labels, EVER)[rows]
        return table

    def fresh_from(self, name: str) -> pd.Timestamp:
        """Return the instant after which a model, as it was judged, has seen nothing: neither
        events nor labels."""
        from sectionfour.learning import registry

        card = self.card(name)
        border = registry.tested(card)[0] - int(card["plan"]["delay_days"] * DAY)
        return _minutes([border + MINUTE])[0]

    def reasons(self, events: Iterable[int], *, judged: bool = False) -> pd.DataFrame:
        """Return the reasons that the checkout would get for these events, heaviest first.

        `contribution` is in log-odds. An event that no model rates has none. `judged` as in
        `scores`.
        """
        import numpy as np
        import pandas as pd

        found = []
        wanted = np.isin(self._places, list(events)) & self._permitted
        for name in sorted(set(filter(None, self._scored_by.values()))):
            for place in np.flatnonzero(wanted & self._of_model(name)):
                rating = self._model(name, judged)[0].rate(self._matrix[place])
                found += [
                    (int(self._places[place]), r.code, r.reason, r.contribution)
                    for r in rating.reasons
                ]
        columns = ["event", "code", "reason", "contribution"]
        table = pd.DataFrame(found, columns=columns).sort_values("event", kind="stable")
        return table.set_index("event")

    # --- what it is judged by

    def card(self, name: str) -> Card:
        """Return the card of the model that is served."""
        return self._model(name)[1]

    def thresholds(self, name: str) -> Thresholds:
        """Return from which probability on each action is taken."""
        return self._policy.thresholds(name)

    def costs(self, name: str) -> Costs:
        """Return the stated costs that the thresholds follow from, in minor units."""
        return self._policy.of(name)

    # --- made once

    @cached_property
    def _places(self) -> NDArray[np.intp]:
        """The number of each event of the ledger; right for those that are permitted."""
        return self._permitted.cumsum()

    @cached_property
    def _index(self) -> pd.Index[int]:
        import pandas as pd

        return pd.Index(self._places[self._permitted], name="event")

    @cached_property
    def _matrix(self) -> NDArray[np.float64]:
        """The features of every event of the ledger, shape (events, features)."""
        import numpy as np

        from sectionfour.features import history
        from sectionfour.learning import dataset

        matrix, _ = history.compute(
            self._past.events, self._past.known, clusters=self._past.clusters
        )
        for category, rows in self._masked.items():
            matrix[np.ix_(rows, dataset.columns_of(category, range(len(NAMES))))] = np.nan
        return matrix

    @cached_property
    def _opened(self) -> dict[tuple[str, bool], tuple[Model, Card]]:
        return {}

    @property
    def _scored_by(self) -> dict[str, str | None]:
        return {purpose: rule.scores for purpose, rule in self._regime.purposes.items()}

    def _of_model(self, name: str) -> NDArray[np.bool_]:
        """Which events a model rates: not those of which something may be shown, but nothing of
        what no score can do without."""
        from sectionfour.learning import dataset

        found = dataset.model_rows(self._past.events, name, self._scored_by)
        for category in needed(columns(name)) - set(dataset.MASKABLE):
            if category in self._masked:
                found = found & ~self._masked[category]
        return found

    def _model(self, name: str, judged: bool = False) -> tuple[Model, Card]:
        from sectionfour.learning import registry

        if (name, judged) not in self._opened:
            version = registry.current(self._models, name)
            if version is None:
                raise RegistryError(f"no {name} model has been promoted in {self._models}")
            opened_by = registry.judged if judged else registry.load
            self._opened[name, judged] = opened_by(self._models, name, version, self._trusted)
        return self._opened[name, judged]

    def _indexed(self, table: pd.DataFrame) -> pd.DataFrame:
        table = table[self._permitted]
        table.index = self._index
        return table


def links(events: pd.DataFrame, by: Collection[str] = ("device", "network")) -> pd.DataFrame:
    """Return who is tied to what: a row for each pair of member and device, network and so on.

    Columns `member`, `kind`, `other`, `events` (how many), `first`, `last`.
    """
    import pandas as pd

    parts = [
        events.dropna(subset=["member", kind])
        .groupby(["member", kind], as_index=False)
        .agg(events=("at", "size"), first=("at", "min"), last=("at", "max"))
        .rename(columns={kind: "other"})
        .assign(kind=kind)
        for kind in by
    ]
    return pd.concat(parts, ignore_index=True)[
        ["member", "kind", "other", "events", "first", "last"]
    ]


def _minutes(at: Any) -> pd.DatetimeIndex:
    """Return microseconds since the epoch as instants in UTC, to the minute; missing stays so."""
    import pandas as pd

    given = pd.Series(at, dtype="Int64")
    found = pd.to_datetime(given, unit="us", utc=True)
    return pd.DatetimeIndex(found.dt.floor("min"))
