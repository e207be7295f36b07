"""MLServer: a custom runtime. Its batching is set in model-settings.json."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse

sys.path.insert(0, str(Path(__file__).parent.parent))
from bench_session import BenchSession


class BenchRuntime(MLModel):
    """Rows through MLServer's own NumPy codec."""

    async def load(self) -> bool:
        self._session = BenchSession()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        rows = self._session.run(NumpyCodec.decode_input(payload.inputs[0]).astype(np.float32))
        return InferenceResponse(model_name=self.name, outputs=[NumpyCodec.encode_output("logits", rows)])
