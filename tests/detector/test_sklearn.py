"""scikit-learn's own checks of an outlier detector."""

from __future__ import annotations

import pytest
from sklearn.utils.estimator_checks import parametrize_with_checks

from knowngood import Detector
from knowngood.config import Settings, parse_settings

QUICK = Detector(model={"name": "vae", "net": {"name": "mlp", "hidden": (16,)}}, training={"epochs": 3}, device="cpu")


@pytest.mark.filterwarnings("ignore:alpha = 0.05 cannot be guaranteed")
@parametrize_with_checks([QUICK])
def test_estimator_contract(estimator, check):
    check(estimator)


def test_parameters_are_the_settings():
    assert set(Detector().get_params(deep=False)) == set(Settings.model_fields)
    assert parse_settings(Detector().get_params(deep=False)) == Settings()


def test_parameters_are_described():
    assert [name for name, field in Settings.model_fields.items() if not field.description] == []
