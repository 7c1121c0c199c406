"""What MLflow runs to serve a saved model that was logged (`ctr.artifact.pyfunc`): a copy of this file goes with it."""

from __future__ import annotations

import mlflow
import numpy as np
import pandas as pd
from mlflow.exceptions import MlflowException
from mlflow.protos.databricks_pb2 import INVALID_PARAMETER_VALUE
from mlflow.pyfunc.model import PythonModel, PythonModelContext

import ctr
from ctr.errors import CtrError


class Served(PythonModel):
    """Predicts click probabilities of rows with the raw log's columns."""

    def load_context(self, context: PythonModelContext) -> None:
        self.model = ctr.load(context.artifacts["model"], allow_module=True)

    def predict(self, context: PythonModelContext, model_input: pd.DataFrame, params: object = None) -> np.ndarray:
        try:
            return self.model.predict(model_input)
        except CtrError as error:  # of another kind it would be "an unexpected error" to MLflow's server
            raise MlflowException(str(error), error_code=INVALID_PARAMETER_VALUE) from error


mlflow.models.set_model(Served())
