"""A small year of real flights, and both models fitted on 2,000 of them: enough to see what the pipeline does."""

import numpy as np
import pytest

from models import data, export, train


@pytest.fixture(scope="session")
def year():
    """Every flight of 2013."""
    return data.load()


@pytest.fixture(scope="session")
def small_year(year):
    """About 5,600 flights, evenly spaced over the year."""
    return year.iloc[:: len(year) // 5_600].reset_index(drop=True)


@pytest.fixture(scope="session")
def january(year):
    """2,000 labelled flights of January."""
    rows = train.training_rows(year, train.POC)
    return rows.iloc[np.linspace(0, len(rows) - 1, 2_000).astype(int)].reset_index(drop=True)


@pytest.fixture(scope="session")
def poc(january):
    return train.fit_poc(january)


@pytest.fixture(scope="session")
def candidate(january):
    return train.fit_candidate(january, trees=20)


@pytest.fixture(scope="session")
def graphs(poc, candidate):
    """The bytes of both graphs by name."""
    return {"poc": export.to_onnx(poc, "poc"), "candidate": export.to_onnx(candidate, "candidate")}
