"""The powers and the options of the focal family that the tests try."""

from __future__ import annotations

from typing import Any

GAMMAS = (0.01, 0.5, 1.0, 1.5, 1.9, 2.0, 2.3, 2.5, 3.0, 3.5, 4.0, 4.5, 4.9, 5.0)

CASES: dict[str, dict[str, Any]] = {
    "alpha": {"alpha": 0.25},
    "alpha and gamma": {"alpha": 0.25, "gamma": 2.0},
    "alpha 0": {"alpha": 0.0},
    "alpha 1": {"alpha": 1.0, "gamma": 1.5},
    "two gammas": {"gamma_positive": 1.0, "gamma_negative": 4.0},
    "gamma of negatives": {"gamma_negative": 3.0},
    "gamma of positives": {"gamma_positive": 2.5, "gamma_negative": 0.5},
    "margin": {"margin": 0.05},
    "margin and gamma": {"margin": 0.1, "gamma": 2.0},
    "ASL": {"gamma_positive": 0.0, "gamma_negative": 4.0, "margin": 0.05},
    "large margin": {"gamma_positive": 1.0, "gamma_negative": 2.0, "margin": 0.4},
    "p_t": {"focal": "p_t", "gamma": 2.0},
    "p_t and alpha": {"focal": "p_t", "gamma": 1.5, "alpha": 0.25},
    "p_t, alpha alone": {"focal": "p_t", "alpha": 0.75},
    "p_t, large gamma": {"focal": "p_t", "gamma": 5.0},
    "in double": {"gamma_positive": 1.0, "gamma_negative": 8.0, "margin": 0.05},
}
