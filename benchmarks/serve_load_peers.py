"""The same .onnx file served by what others use: the peers of `serve_load.py`.

    python benchmarks/serve_load_peers.py fastapi|fastapi-async|litserve|litserve-json FILE.onnx PORT

Each answers POST /predict with the five likeliest classes, as ours does, from Pillow's pixels. FastAPI takes an image
as the body; its endpoint is a plain function, which it runs in its pool of threads, or (-async) an `async def` that
hands the work to that pool itself, as those do who want a body without a form. LitServe takes a form with a file, as
its documentation of images has it, or (-json) base64 in JSON, and batches as its documentation of batching has it:
`max_batch_size`, `batch_timeout`, arrays from `decode_request`, the rest by itself. ONNX Runtime has its own settings.
"""

import base64
import io
import json
import sys
from typing import Annotated, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image

MAX_BATCH, BATCH_TIMEOUT = 16, 0.005  # of those tried (4, 8, 16, 32; 0.001 to 0.05 s) the best at 32 clients here


class Model:
    """The exported file in ONNX Runtime."""

    def __init__(self, file: str) -> None:
        self._session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
        said = json.loads(self._session.get_modelmeta().custom_metadata_map["imagesprint"])
        self._resize, self._size = said["resize"], said["image_size"]
        self._names = [entry["text"] for entry in said["classes"]]

    def pixels(self, encoded: bytes) -> NDArray[np.uint8]:
        """uint8 [S, S, 3], as torchvision's Resize and CenterCrop make them."""
        image = Image.open(io.BytesIO(encoded)).convert("RGB")
        scale = self._resize / min(image.size)
        width, height = (round(side * scale) for side in image.size)
        image = image.resize((width, height), Image.Resampling.BILINEAR)
        left, top = (width - self._size) // 2, (height - self._size) // 2
        return np.asarray(image.crop((left, top, left + self._size, top + self._size)))

    def probabilities(self, pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
        """float32 [N, C] of uint8 [N, S, S, 3]."""
        (logits,) = self._session.run(None, {"images": pixels})
        exponents = np.exp(logits - logits.max(1, keepdims=True))
        result: NDArray[np.float32] = exponents / exponents.sum(1, keepdims=True)
        return result

    def answer(self, probabilities: NDArray[np.float32]) -> dict[str, Any]:
        """The five likeliest classes."""
        best = np.argsort(-probabilities)[:5].tolist()
        return {"top": [{"class": i, "name": self._names[i], "probability": float(probabilities[i])} for i in best]}


def serve_fastapi(model: Model, port: int, is_async: bool) -> None:
    import uvicorn
    from fastapi import Body, FastAPI, Request
    from fastapi.concurrency import run_in_threadpool

    app = FastAPI()

    def predict(encoded: bytes) -> dict[str, Any]:
        return model.answer(model.probabilities(model.pixels(encoded)[None])[0])

    if is_async:

        @app.post("/predict")
        async def predict_async(request: Request) -> dict[str, Any]:
            return await run_in_threadpool(predict, await request.body())
    else:

        @app.post("/predict")
        def predict_sync(encoded: Annotated[bytes, Body(media_type="image/jpeg")]) -> dict[str, Any]:
            return predict(encoded)

    uvicorn.run(app, port=port, log_level="warning")


def serve_litserve(file: str, port: int, has_form: bool) -> None:
    import litserve

    class Api(litserve.LitAPI):
        def setup(self, device: str) -> None:  # noqa: ARG002
            self.model = Model(file)

        def decode_request(self, request: Any) -> NDArray[np.uint8]:
            encoded = request["photo"].file.read() if has_form else base64.b64decode(request["photo"])
            return self.model.pixels(encoded)

        def predict(self, x: NDArray[np.uint8]) -> NDArray[np.float32]:
            return self.model.probabilities(x)

        def encode_response(self, output: NDArray[np.float32]) -> dict[str, Any]:
            return self.model.answer(output)

    api = Api(max_batch_size=MAX_BATCH, batch_timeout=BATCH_TIMEOUT)
    server = litserve.LitServer(api, accelerator="cpu")
    server.run(host="127.0.0.1", port=port, log_level="warning", generate_client_file=False, num_api_servers=1)


def main() -> None:
    kind, file, port = sys.argv[1], sys.argv[2], int(sys.argv[3])
    if kind.startswith("fastapi"):
        serve_fastapi(Model(file), port, kind.endswith("-async"))
    else:
        serve_litserve(file, port, not kind.endswith("-json"))


if __name__ == "__main__":
    main()
