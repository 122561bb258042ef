"""The README.md of an exported model: data, limits, scores, and how to call it."""

import math
from typing import Any

from fer_jax.pretrained.model_file import Description

_LIMITS = """## Limits

- The model names the expression in one picture as the labels of its data would. What is
  shown need not be felt, and expressions differ by culture and occasion.
- It takes a crop of one face, about as wide as the face, and gives probabilities that
  sum to 1 for any picture, even of a wall: find the faces first.
- Differences between ages, sexes or skin colours were not measured. Assume that they
  exist.
- For research and teaching. Do not decide about people with it, and do not watch people
  who have not agreed. The European Union prohibits inferring emotions at work and in
  education, except for medical and safety reasons (Regulation (EU) 2024/1689,
  article 5).
"""

_PYTHON = """```python
import numpy as np, onnxruntime
from PIL import Image

session = onnxruntime.InferenceSession("model.onnx")
face = Image.open("face.jpg").convert("{mode}").resize(({side}, {side}))
(p,) = session.run(None, {{"images": np.asarray(face, np.uint8)[None]}})
labels = session.get_modelmeta().custom_metadata_map["labels"].split(",")
print(labels[p[0].argmax()], p[0].max())
```"""

_JAVASCRIPT = """```javascript
// npm install onnxruntime-node sharp
const ort = require("onnxruntime-node"), sharp = require("sharp");
const LABELS = {labels};
(async () => {{
  const session = await ort.InferenceSession.create("model.onnx");
  const face = sharp("face.jpg").resize({side}, {side}){colours}.raw();
  const images = new ort.Tensor("uint8", await face.toBuffer(), {dims});
  const p = (await session.run({{ images }})).probabilities.data;
  console.log(LABELS[p.indexOf(Math.max(...p))], Math.max(...p));
}})();
```"""

_CPP = """```cpp
// pixels: {pixels} bytes, row by row
Ort::Env env;
Ort::Session session(env, "model.onnx", Ort::SessionOptions());
auto memory = Ort::MemoryInfo::CreateCpu(OrtArenaAllocator, OrtMemTypeDefault);
std::array<int64_t, {rank}> shape{{{shape}}};
auto images = Ort::Value::CreateTensor<uint8_t>(
    memory, pixels.data(), pixels.size(), shape.data(), shape.size());
const char *in[] = {{"images"}}, *out[] = {{"probabilities"}};
auto found = session.Run(Ort::RunOptions(), in, &images, 1, out, 1);
const float *p = found[0].GetTensorData<float>();
```"""

_STABLEHLO = """```python
import jax, numpy as np
from PIL import Image

model = jax.export.deserialize(bytearray(open("model.stablehlo", "rb").read()))
face = Image.open("face.jpg").convert("{mode}").resize(({side}, {side}))
p = model.call(np.asarray(face, np.uint8)[None])  # on a CPU or a CUDA device
```"""

_OWN = """```python
import fer_jax

model = fer_jax.load_pretrained("this folder")
probabilities = model.predict("face.jpg")  # a crop
faces = model.detect("photo.jpg")  # needs the extra "faces"
```"""


def model_card(info: dict[str, Any], description: Description, kind: str) -> str:
    """The text, for `kind` safetensors, stablehlo or onnx."""
    shape, labels = description.preprocessing, description.labels
    side, colour = shape.image_size, shape.channels == 3
    dims = [1, side, side] + [3] * colour
    values = {
        "side": side,
        "mode": "RGB" if colour else "L",
        "labels": [*labels],
        "colours": '.removeAlpha().toColourspace("srgb")' if colour else ".grayscale()",
        "dims": dims,
        "pixels": math.prod(dims),
        "rank": len(dims),
        "shape": ", ".join(map(str, dims)),
    }
    calls = {
        "safetensors": [_OWN],
        "stablehlo": [_STABLEHLO.format(**values)],
        "onnx": [each.format(**values) for each in (_PYTHON, _JAVASCRIPT, _CPP)],
    }[kind]
    inside = {
        "safetensors": "`weights.safetensors` has the weights, `model.json` the rest.",
        "stablehlo": "`model.stablehlo` takes uint8 pixels and gives probabilities.",
        "onnx": "`model.onnx` takes uint8 pixels and gives probabilities.",
    }[kind]
    data, notes = info.get("data", {}), ""
    if data.get("notes"):
        notes = f" Notes on these data: {'; '.join(data['notes'])}."
    arch = description.network.arch
    blocks = [
        f"# {info.get('name', arch)}: emotions of faces",
        f"A {arch} for {side} x {side} {'RGB' if colour else 'grey'} crops of faces. "
        f"Labels: {', '.join(labels)}. {inside}",
        "## Use",
        *calls,
        "## Scores",
        _scores(info),
        "## Data and licence",
        f"Trained on {data.get('description', 'data not stated')} by fer_jax, whose "
        "code is under Apache-2.0. The weights follow from the data: use them as the "
        f"terms of the data allow.{notes}",
        _LIMITS,
    ]
    return "\n\n".join(blocks)


def _scores(info: dict[str, Any]) -> str:
    """A table of the stored scores, with Wilson's 95 % intervals of accuracies."""
    rows = []
    for split, scores in info.get("scores", {}).items():
        if not isinstance(scores, dict):
            continue
        for end, name in (("", split), ("_clean", f"{split}, clean")):
            if n := scores.get(f"n{end}"):
                accuracy = scores[f"accuracy{end}"]
                low, high = wilson(accuracy, n)
                rows.append(
                    f"| {name} | {n:,} | {100 * accuracy:.1f} [{100 * low:.1f}, "
                    f"{100 * high:.1f}] | {100 * scores[f'macro_f1{end}']:.1f} |"
                )
    if not rows:
        return "Not stated."
    head = ["| in % | images | accuracy [95 % interval] | macro F1 |"]
    text = "\n".join([*head, "| --- | ---: | ---: | ---: |", *rows])
    text += (
        "\n\nval chose the epoch, so its scores are slightly optimistic. clean: "
        "without images that have a copy in train."
    )
    if calibration := info.get("calibration"):
        text += (
            f" The expected calibration error on {calibration['split']} is "
            f"{100 * calibration['ece_after']:.1f} %, before scaling by a temperature "
            f"of {calibration['temperature']:.2f} {100 * calibration['ece_before']:.1f}"
            " %."
        )
    return text


def wilson(share: float, n: int) -> tuple[float, float]:
    """The 95 % interval of a share of n (Wilson 1927)."""
    z = 1.959964
    middle = (share + z * z / (2 * n)) / (1 + z * z / n)
    half = z / (1 + z * z / n) * math.sqrt(share * (1 - share) / n + (z / (2 * n)) ** 2)
    return middle - half, middle + half
