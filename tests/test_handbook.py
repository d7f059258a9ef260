"""The published protocol: what may be known on which day, and what a leak would look like."""

from __future__ import annotations

from collections.abc import Callable
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest

from sectionfour.domain import DAY
from sectionfour.errors import HistoryError
from sectionfour.learning import handbook
from sectionfour.loading import imports

START = (date(2018, 7, 25) - date(1970, 1, 1)).days


@pytest.fixture(scope="module")
def table() -> pd.DataFrame:
    """Ten weeks of 40 customers at 12 terminals, with bad terminals now and then."""
    rng = np.random.default_rng(8)
    count = 6_000
    at = np.sort(rng.choice(70 * 86_400, count, replace=False)).astype(np.int64) * 1_000_000
    return pd.DataFrame(
        {
            "at": at + (START - 40) * DAY,
            "CUSTOMER_ID": rng.integers(0, 40, count),
            "TERMINAL_ID": rng.integers(0, 12, count),
            "TX_AMOUNT": rng.integers(100, 9_000, count) / 100,
            "TX_FRAUD": (rng.random(count) < 0.04).astype(int),
        }
    )


def same(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    return ((one == other) | (np.isnan(one) & np.isnan(other))).all(axis=1)


def a_late_label_shows(table: pd.DataFrame) -> bool:
    """Whether a label of the last seven days before a cut changes a feature before it."""
    cut = (START + 10) * DAY
    before = handbook.features(table)
    lied = table.assign(
        TX_FRAUD=np.where(table["at"] >= cut - 7 * DAY, 1 - table["TX_FRAUD"], table["TX_FRAUD"])
    )
    after = handbook.features(lied)
    rows = (table["at"] < cut).to_numpy()
    assert not same(before[~rows], after[~rows]).all()  # later they tell
    return not same(before[rows], after[rows]).all()


def the_future_shows(table: pd.DataFrame) -> bool:
    rows = (table["at"] < (START + 10) * DAY).to_numpy()
    return not same(handbook.features(table[rows]), handbook.features(table)[rows]).all()


def a_name_shows(table: pd.DataFrame) -> bool:
    """Whether other numbers of rows, customers and terminals change a feature."""
    matrix = handbook.features(table)
    swapped = table.assign(
        CUSTOMER_ID=977 - 3 * table["CUSTOMER_ID"], TERMINAL_ID=500 + 7 * table["TERMINAL_ID"]
    )
    swapped.index = swapped.index[::-1]
    return not same(handbook.features(swapped), matrix).all()


def the_delay_week_shows(table: pd.DataFrame, regime: handbook.Regime = "same") -> bool:
    """Whether a row that was not known by the end of the training week is learnt from, or one is
    tested that is of no test day, or of a customer who is known to be compromised by then."""
    day = (table["at"].to_numpy() // DAY).astype(np.int64)
    customer, fraud = table["CUSTOMER_ID"].to_numpy(), table["TX_FRAUD"].to_numpy() == 1
    found = handbook.fold(day, customer, fraud, START, regime)
    known = [
        (customer == customer[row]) & fraud & (day >= START) & (day <= day[row] - 8)
        for row in found.test
    ]
    return (
        bool(np.any(known))
        or day[found.train].max() != START + 6
        or (day[found.train].min() == START) != (regime == "same")
        or (day[found.test].min(), day[found.test].max()) != (START + 14, START + 20)
    )


LEAKS = (a_late_label_shows, the_future_shows, a_name_shows, the_delay_week_shows)


@pytest.mark.parametrize("leak", LEAKS)
def test_nothing_leaks(leak: Callable[..., bool], table: pd.DataFrame) -> None:
    assert not leak(table)


def test_with_all_history_no_row_of_the_delay_week_is_learnt_from(table: pd.DataFrame) -> None:
    assert not the_delay_week_shows(table, "all")


def beside(shown: Callable[[pd.DataFrame], Any]) -> Any:
    """Return features of which one is moved a little by what must not show."""
    honest = handbook.features

    def features(table: pd.DataFrame) -> np.ndarray:
        matrix = honest(table)
        matrix[:, 0] += 1e-6 * np.asarray(shown(table), dtype=np.float64)
        return matrix

    return features


@pytest.mark.parametrize(
    ("planted", "value", "leak"),
    [
        ("DELAY_DAYS", 6, a_late_label_shows),
        ("features", beside(lambda rows: rows["TX_FRAUD"]), a_late_label_shows),
        ("features", beside(lambda rows: rows["TX_AMOUNT"].shift(-1).fillna(0)), the_future_shows),
        ("features", beside(lambda rows: rows["TX_AMOUNT"].sum()), the_future_shows),
        ("features", beside(lambda rows: rows.index), a_name_shows),
        ("features", beside(lambda rows: rows["CUSTOMER_ID"]), a_name_shows),
        ("features", beside(lambda rows: rows["TERMINAL_ID"]), a_name_shows),
        ("TRAIN_DAYS", 8, the_delay_week_shows),
        ("DELAY_DAYS", 6, the_delay_week_shows),
        ("TEST_DAYS", 8, the_delay_week_shows),
    ],
)
def test_a_leak_that_is_planted_shows(
    planted: str,
    value: Any,
    leak: Callable[..., bool],
    table: pd.DataFrame,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(handbook, planted, value)
    assert leak(table)


def test_a_week_that_the_file_does_not_have_is_refused(table):
    day = (table["at"].to_numpy() // DAY).astype(np.int64)
    customer, fraud = table["CUSTOMER_ID"].to_numpy(), table["TX_FRAUD"].to_numpy() == 1
    with pytest.raises(HistoryError, match="no rows in the training week from 2018-09-23 on"):
        handbook.fold(day, customer, fraud, START + 60, "same")
    with pytest.raises(HistoryError, match="no rows in the test week"):
        handbook.fold(day, customer, fraud, START + 20, "same")


# --- any file of these columns ---------------------------------------------------------------


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Few trees: what a file says shows in them as in many."""
    monkeypatch.setattr(handbook, "SEEDS", 1)
    for settings in handbook.SETTINGS.values():
        monkeypatch.setitem(settings, "max_iter", 5)


@pytest.fixture
def written(table: pd.DataFrame, tmp_path: Path) -> Callable[..., Path]:
    """Write the transactions as the published file has them, with some columns in other ways."""
    plain = pd.DataFrame(
        {
            "TX_DATETIME": pd.to_datetime(table["at"], unit="us"),
            **{name: table[name] for name in table if name != "at"},
        }
    )

    def write(order: Any = None, **columns: Callable[[pd.DataFrame], Any]) -> Path:
        made = plain.assign(**columns)
        made = made if order is None else made.iloc[order]
        made.to_parquet(tmp_path / "transactions.parquet")
        return tmp_path / "transactions.parquet"

    return write


def text(name: str) -> Callable[[pd.DataFrame], Any]:
    return lambda rows: name[0] + rows[name].astype(str).str.zfill(4)


def elsewhere(times: pd.Series) -> pd.Series:
    return times.dt.tz_localize("UTC").dt.tz_convert("Asia/Shanghai")


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "how",
    [
        {"order": np.random.default_rng(1).permutation(6_000)},
        {"CUSTOMER_ID": text("CUSTOMER_ID"), "TERMINAL_ID": text("TERMINAL_ID")},
        {"CUSTOMER_ID": lambda rows: rows["CUSTOMER_ID"] - 900},
        {"CUSTOMER_ID": lambda rows: rows["CUSTOMER_ID"].astype("int64") * 10**15},
        {"TX_AMOUNT": lambda rows: [Decimal(f"{a:.2f}") for a in rows["TX_AMOUNT"]]},
        {"TX_AMOUNT": lambda rows: rows["TX_AMOUNT"].astype("float32")},
        {"TX_FRAUD": lambda rows: rows["TX_FRAUD"] == 1},
        {"TX_DATETIME": lambda rows: rows["TX_DATETIME"].astype("datetime64[ns]").astype(str)},
        {"TX_DATETIME": lambda rows: elsewhere(rows["TX_DATETIME"])},
    ],
    ids=["unsorted", "text", "negative", "huge", "decimal", "float32", "bool", "times", "zone"],
)  # fmt: skip
def test_a_file_says_the_same_however_it_is_written(
    how: dict[str, Any], table: pd.DataFrame, written: Callable[..., Path]
) -> None:
    found = imports.read_handbook(written(**how))
    assert found["at"].tolist() == table["at"].tolist()
    given = {"regime": "same", "starts": [date(2018, 7, 25)]}
    assert handbook.run(found, **given) == handbook.run(table, **given)


def put(name: str, row: int, value: Any) -> dict[str, Callable[[pd.DataFrame], Any]]:
    return {name: lambda rows: rows[name].astype("object").where(rows.index != row, value)}


@pytest.mark.parametrize(
    ("how", "words"),
    [
        (put("TX_AMOUNT", 7, np.nan), "row 7 has an amount that is none"),
        (put("TX_AMOUNT", 7, np.inf), "row 7 has an amount that is none"),
        (put("TX_AMOUNT", 7, -0.01), "row 7 has an amount that is none"),
        (put("TX_AMOUNT", 7, 1e300), "row 7 has an amount that is none"),
        (put("TX_FRAUD", 8, 2), "row 8 has a TX_FRAUD that is neither"),
        (put("TX_FRAUD", 8, None), "row 8 has a TX_FRAUD that is neither"),
        (put("CUSTOMER_ID", 9, None), "row 9 has no customer"),
        (put("TERMINAL_ID", 9, None), "row 9 has no customer, or no terminal"),
        (put("TX_DATETIME", 5, None), "row 5 has no time"),
        ({"TX_AMOUNT": lambda rows: "much"}, "no time, or no number"),
        ({"TX_DATETIME": lambda rows: "yesterday"}, "no time, or no number"),
        ({"order": []}, "has no rows"),
    ],
)
def test_a_file_that_cannot_be_is_refused_by_its_row(
    how: dict[str, Any], words: str, written: Callable[..., Path]
) -> None:
    with pytest.raises(HistoryError, match=words):
        imports.read_handbook(written(**how))


def test_what_is_no_file_of_these_columns_is_refused(
    table: pd.DataFrame, written: Callable[..., Path], tmp_path: Path
) -> None:
    pd.read_parquet(written()).drop(columns="TX_FRAUD").to_parquet(tmp_path / "t.parquet")
    with pytest.raises(HistoryError, match=r"t\.parquet lacks the columns TX_FRAUD"):
        imports.read_handbook(tmp_path / "t.parquet")
    (tmp_path / "t.parquet").write_bytes(b"CUSTOMER_ID,TERMINAL_ID")
    with pytest.raises(HistoryError, match="cannot be read as a parquet file"):
        imports.read_handbook(tmp_path / "t.parquet")


@pytest.mark.parametrize(("begin", "what"), [(0, "learn from"), (14, "test on")])
def test_a_week_of_one_class_is_refused_in_words(
    begin: int, what: str, table: pd.DataFrame
) -> None:
    day = table["at"] // DAY - START - begin
    honest = table.assign(TX_FRAUD=table["TX_FRAUD"].where(~day.between(0, 6), 0))
    with pytest.raises(HistoryError, match=f"trained from 2018-07-25: 0 of the .* to {what}"):
        handbook.run(honest, [date(2018, 7, 25)], "same")


@pytest.mark.usefixtures("quick")
def test_the_first_week_of_a_past_is_learnt_from_though_nothing_is_known_yet(
    table: pd.DataFrame,
) -> None:
    first = date(2018, 7, 25) - timedelta(days=40)
    assert handbook.run(table, [first], "same")[first].days == 7


def test_the_table_says_where_a_fold_is_not_the_published_one() -> None:
    scores = handbook.Scores(0.9, 0.7, 0.3, 58_264, 385)
    told = handbook.table_of({"same": {date(2018, 7, 25): scores}})
    assert "58,264 test transactions, 385 frauds, as published" in told
    assert "±" not in told  # of one fold there is no spread
    both = {date(2018, 7, 25): scores, date(2018, 8, 1): handbook.Scores(0.8, 0.7, 0.3, 9, 1)}
    assert "0.850 ±0.050" in handbook.table_of({"same": both})
    other = handbook.Scores(0.9, 0.7, 0.3, 58_263, 385, days=6)
    told = handbook.table_of({"same": {date(2018, 7, 25): other}})
    assert "of 6 days alone, WRONG: published are 58,264 and 385" in told
