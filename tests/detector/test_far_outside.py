"""Items far outside what a model was fitted to: they are anomalous, never missing and never normal."""

from __future__ import annotations

import numpy as np
import pytest

from knowngood import Detector
from knowngood.errors import DataError

QUICK = {"epochs": 2}


def images(n: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).uniform(0, 1, (n, 8, 8)).astype(np.float32)


@pytest.fixture(scope="module", params=["pixels", "table"])
def fitted(request) -> tuple[Detector, np.ndarray]:
    x = images(120)
    x = x if request.param == "pixels" else x.reshape(120, -1)[:, :6].astype(np.float64)
    return Detector(representation=request.param, model="vae", score="elbo", training=QUICK).fit(x), x


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*outside the recorded range")
@pytest.mark.parametrize("factor", [1e4, 1e12, 1e25, 1e37])
def test_what_is_far_outside_is_anomalous(fitted, factor):
    detector, x = fitted
    far = x[:4] * np.asarray(factor, x.dtype)
    table = detector.detect(far)
    assert table["is_anomalous"].all()
    assert np.isfinite(table["anomaly_score"]).all()
    assert "error" not in table
    np.testing.assert_array_equal(detector.predict(far), -1)
    assert (detector.decision_function(far) < 0).all()


@pytest.mark.filterwarnings("ignore:.*outside the recorded range")
def test_one_value_is_enough(fitted):
    detector, x = fitted
    far = x[:1].copy()
    far.reshape(-1)[3] = 1e6
    assert detector.detect(far)["is_anomalous"].all()


def test_a_table_beyond_float32_is_anomalous():
    x = np.random.default_rng(0).normal(size=(100, 4))
    detector = Detector(training=QUICK).fit(x)
    for value in (1e39, 1e300, -1e300):
        far = x[:2].copy()
        far[:, 1] = value
        assert detector.detect(far)["is_anomalous"].all()


def test_what_holds_nan_is_set_aside_and_predict_refuses(fitted):
    detector, x = fitted
    if x.ndim == 2:
        pytest.skip("tables refuse NaN as a whole")
    broken = x[:3].copy()
    broken[1, 2, 2] = np.nan
    table = detector.detect(broken)
    assert table["error"].notna().tolist() == [False, True, False]
    assert table["is_anomalous"].isna().tolist() == [False, True, False]
    with pytest.raises(DataError):
        detector.predict(broken)


@pytest.mark.filterwarnings("ignore:.*outside the recorded range")
def test_normal_items_that_overflow_are_refused_when_they_calibrate(fitted):
    detector, x = fitted
    with pytest.raises(DataError, match="not finite"):
        detector.calibrate(x * np.asarray(1e30, x.dtype))


@pytest.mark.slow
def test_a_p_value_does_not_depend_on_the_batch(fitted):
    detector, x = fitted
    together = detector.detect(x[:40])["p_value"].to_numpy()
    alone = np.concatenate([detector.detect(x[i : i + 1])["p_value"].to_numpy() for i in range(40)])
    np.testing.assert_array_equal(alone, together)
