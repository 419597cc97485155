"""The same .onnx file served by FastAPI, with Pillow and ONNX Runtime: a peer of `serve_load.py`.

    python benchmarks/serve_load_peers.py fastapi|fastapi-async FILE.onnx PORT

POST /predict takes an image as its body and answers with the five likeliest classes, as ours does. The endpoint is a
plain function, which FastAPI runs in its pool of threads, or (-async) one that awaits the body itself and hands the
work to that pool. ONNX Runtime has its own settings.
"""

import io
import json
import sys
from typing import Annotated, Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray
from PIL import Image


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


def serve(model: Model, port: int, is_async: bool) -> None:
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


def main() -> None:
    kind, file, port = sys.argv[1:]
    serve(Model(file), int(port), kind.endswith("-async"))


if __name__ == "__main__":
    main()
