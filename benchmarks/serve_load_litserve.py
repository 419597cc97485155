"""The same .onnx file served by LitServe, with Pillow and ONNX Runtime: a peer of `serve_load.py`.

    python benchmarks/serve_load_litserve.py litserve|litserve-json FILE.onnx PORT

POST /predict takes a form with a file or (-json) base64 in JSON, the two that LitServe's documentation has for images,
and answers with the five likeliest classes, as ours does. It batches as its documentation of batching has it:
`max_batch_size` and `batch_timeout`, arrays from `decode_request`, the rest by itself.
"""

import base64
import sys
from typing import Any

import litserve
import numpy as np
from numpy.typing import NDArray
from serve_load_peers import Model

MAX_BATCH, BATCH_TIMEOUT = 16, 0.005


class Api(litserve.LitAPI):
    """Its worker, a process of its own, gets this class pickled."""

    def __init__(self, file: str, has_form: bool) -> None:
        super().__init__(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT)
        self._file, self._has_form = file, has_form

    def setup(self, device: str) -> None:  # noqa: ARG002
        self._model = Model(self._file)

    def decode_request(self, request) -> NDArray[np.uint8]:  # type: ignore[no-untyped-def]  # LitServe reads its type
        encoded = request["photo"].file.read() if self._has_form else base64.b64decode(request["photo"])
        return self._model.pixels(encoded)

    def predict(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
        return self._model.probabilities(x)

    def encode_response(self, output: NDArray[np.float32]) -> dict[str, Any]:
        return self._model.answer(output)


if __name__ == "__main__":
    kind, file, port = sys.argv[1:]
    server = litserve.LitServer(Api(file, not kind.endswith("-json")), accelerator="cpu")
    server.run(host="127.0.0.1", port=int(port), log_level="warning", generate_client_file=False)
