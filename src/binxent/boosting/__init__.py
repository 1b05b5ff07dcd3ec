"""The loss as an objective and a metric of XGBoost, LightGBM and CatBoost, none of which is imported here.

Predictions are logits. Labels may be soft, and may be missing; each label may have its own weights.
"""

from binxent.boosting.base_score import base_score
from binxent.boosting.libraries import metric, objective

__all__ = ["base_score", "metric", "objective"]
