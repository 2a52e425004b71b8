"""Draw a sample of cases from a large cohort."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import polars as pl

_KIND, _TURN, _PLACE = "__kind__", "__turn__", "__place__"


def drawn_cases(rows: pl.DataFrame, *, by: Sequence[str], limit: int, seed: int) -> list[int]:
    """Draw cases by whole patients, from each kind in turn, so that rare kinds are as frequent as common kinds.

    A patient belongs to the rarest kind among its rows. The result does not depend on the order of the rows.

    >>> patients, ill = [f"P{n // 2}" for n in range(100)], [True] * 4 + [False] * 96
    >>> rows = pl.DataFrame({"case": range(100), "patient": patients, "ill": ill})
    >>> found = drawn_cases(rows, by=["ill"], limit=8, seed=0)
    >>> found[:4], len(found)
    ([0, 1, 2, 3], 8)

    Args:
        rows: table with ``case``, ``patient`` and the columns ``by``; a case may have several rows.
        by: columns whose combination of values is a kind; null is a value.
        limit: largest number of cases; some cases of the last patient may be left out.
        seed: random seed of the order of patients.

    Returns:
        The case numbers, ascending; all cases if their number does not exceed the limit.
    """
    cases = rows.select("case", pl.col("patient").fill_null("")).unique("case").sort("case")
    if len(cases) <= limit:
        return cases["case"].to_list()
    members = rows.select(pl.col("patient").fill_null(""), *by)
    kinds = members.group_by(by).agg(pl.col("patient").n_unique().alias(_TURN)).sort(_TURN, *by).with_row_index(_KIND)
    members = members.join(kinds, on=list(by), nulls_equal=True)
    patients = members.group_by("patient").agg(pl.col(_KIND).min()).sort("patient")
    order = np.random.default_rng([seed, len(cases)]).permutation(len(patients))
    mixed = patients[order].with_columns(pl.int_range(pl.len()).over(_KIND).alias(_TURN))
    places = mixed.sort(_TURN, _KIND).with_row_index(_PLACE).select("patient", _PLACE)
    return cases.join(places, on="patient").sort(_PLACE, "case").head(limit)["case"].sort().to_list()
