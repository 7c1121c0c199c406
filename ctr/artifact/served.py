"""What MLflow runs to serve a saved model that was logged (`ctr.artifact.pyfunc`): a copy of this file goes with it."""

from __future__ import annotations

import mlflow
import numpy as np
import pandas as pd
from mlflow.pyfunc.model import PythonModel, PythonModelContext

import ctr


class Served(PythonModel):
    """Predicts click probabilities of rows with the raw log's columns."""

    def load_context(self, context: PythonModelContext) -> None:
        self.model = ctr.load(context.artifacts["model"], allow_module=True)

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: object = None) -> np.ndarray:
        return self.model.predict(model_input)


mlflow.models.set_model(Served())
