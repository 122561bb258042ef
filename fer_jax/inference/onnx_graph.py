"""Writes a JAX function as an ONNX graph, for the operations that our networks have.

The function is traced for one odd number of images. Where that number is a dimension,
the graph takes any. What does not depend on the input is computed here and stored.
"""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import numpy as np
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

BATCH = 251  # a prime that no layer has as a width or a side
OPSET, IR_VERSION = 18, 10  # of ONNX 1.14 and 1.16, in 2023 and 2024
_Names = Sequence[str]

_ALIKE = {
    "abs": "Abs", "add": "Add", "add_any": "Add", "div": "Div", "erf": "Erf",
    "exp": "Exp", "log": "Log", "logistic": "Sigmoid", "max": "Max", "min": "Min",
    "mul": "Mul", "neg": "Neg", "sqrt": "Sqrt", "sub": "Sub", "tanh": "Tanh",
    "copy": "Identity", "copy_p": "Identity", "stop_gradient": "Identity",
}  # fmt: skip
_REDUCE = {"reduce_sum": "ReduceSum", "reduce_max": "ReduceMax"}


def to_onnx(
    function: Callable[[jax.Array], jax.Array], shape: Sequence[int], dtype: Any
) -> ModelProto:
    """Returns the function as an ONNX model with the input `images`.

    Args:
      function: from `[B, *shape]` to `[B, C]`, for any B.
      shape: of one image.
      dtype: of the images.

    Raises:
      NotImplementedError: names an operation that has no translation.
    """
    traced = jax.make_jaxpr(function)(jax.ShapeDtypeStruct((BATCH, *shape), dtype))
    writer = _Writer()
    (inside,) = traced.jaxpr.invars
    (outside,) = traced.jaxpr.outvars
    writer.names[inside] = "images"
    for variable, value in zip(traced.jaxpr.constvars, traced.consts, strict=True):
        writer.values[variable] = np.asarray(value)
    writer.run(traced.jaxpr)
    writer.add("Identity", [writer.name(outside)], "probabilities")
    kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
    graph = helper.make_graph(
        writer.nodes,
        "fer_jax",
        [helper.make_tensor_value_info("images", kind, ["batch", *shape])],
        [
            helper.make_tensor_value_info(
                "probabilities", TensorProto.FLOAT, ["batch", outside.aval.shape[1]]
            )
        ],
        writer.used_constants(),
    )
    return helper.make_model(
        graph,
        opset_imports=[helper.make_opsetid("", OPSET)],
        ir_version=IR_VERSION,
        producer_name="fer_jax",
    )


class _Writer:
    """Translates equation by equation."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.constants: list[TensorProto] = []
        self._stored: dict[Any, str] = {}  # the names of constants, by content
        self.names: dict[Any, str] = {}  # of what depends on the input
        self.values: dict[Any, np.ndarray] = {}  # of what does not

    def run(self, jaxpr: Any) -> None:
        """Translates the equations of a jaxpr, and of those that it calls."""
        for equation in jaxpr.eqns:
            inner = _inner(equation)
            if all(self._is_constant(each) for each in equation.invars):
                self._compute(equation)
            elif inner is not None:
                body, constants = inner
                for variable, value in zip(body.constvars, constants, strict=True):
                    self.values[variable] = np.asarray(value)
                self._bind(body.invars, equation.invars)
                self.run(body)
                self._bind(equation.outvars, body.outvars)
            else:
                (out,) = equation.outvars
                self.names[out] = self._translate(equation)

    def _bind(self, there: Sequence[Any], here: Sequence[Any]) -> None:
        for variable, known in zip(there, here, strict=True):
            if self._is_constant(known):
                self.values[variable] = self._value(known)
            else:
                self.names[variable] = self.names[known]

    def _is_constant(self, variable: Any) -> bool:
        return hasattr(variable, "val") or variable in self.values

    def _value(self, variable: Any) -> np.ndarray:
        if hasattr(variable, "val"):  # a literal
            return np.asarray(variable.val, variable.aval.dtype)
        return self.values[variable]

    def _compute(self, equation: Any) -> None:
        values = [self._value(each) for each in equation.invars]
        found = equation.primitive.bind(*values, **equation.params)
        several = equation.primitive.multiple_results
        for variable, value in zip(
            equation.outvars, found if several else [found], strict=True
        ):
            self.values[variable] = np.asarray(value)

    def name(self, variable: Any) -> str:
        """The name of a value in the graph; a constant is stored with it."""
        if self._is_constant(variable):
            value = self._value(variable)
            for axis in (axis for axis, n in enumerate(value.shape) if n == BATCH):
                value = value.take([0], axis)  # the same for each image
            return self.constant(value)
        return self.names[variable]

    def constant(self, value: Any) -> str:
        """Stores an array and returns its name."""
        array = np.ascontiguousarray(value)
        key = array.dtype.str, array.shape, array.tobytes()
        if key not in self._stored:  # the views of an image share their weights
            self._stored[key] = f"c{len(self.constants)}"
            named = numpy_helper.from_array(array, self._stored[key])
            self.constants.append(named)
        return self._stored[key]

    def integers(self, values: Sequence[int]) -> str:
        """Stores whole numbers and returns their name."""
        return self.constant(np.array(values, np.int64))

    def used_constants(self) -> list[TensorProto]:
        """The stored arrays that a node has as input."""
        used = {name for node in self.nodes for name in node.input}
        return [each for each in self.constants if each.name in used]

    def add(
        self, operation: str, inputs: _Names, output: str = "", **attributes: Any
    ) -> str:
        """Appends a node and returns the name of its output."""
        output = output or f"v{len(self.nodes)}"
        node = helper.make_node(operation, [*inputs], [output], **attributes)
        self.nodes.append(node)
        return output

    def _translate(self, equation: Any) -> str:
        kind, params = equation.primitive.name, equation.params
        inputs = [self.name(each) for each in equation.invars]
        if kind in _ALIKE:
            return self.add(_ALIKE[kind], inputs)
        if kind in _REDUCE:
            axes = self.integers(params["axes"])
            return self.add(_REDUCE[kind], [inputs[0], axes], keepdims=0)
        special = getattr(self, f"_{kind}", None)
        if special is None:
            raise NotImplementedError(f"{kind} has no translation to ONNX")
        return special(equation, *inputs)

    def _rsqrt(self, _: Any, x: str) -> str:
        return self.add("Reciprocal", [self.add("Sqrt", [x])])

    def _square(self, _: Any, x: str) -> str:
        return self.add("Mul", [x, x])

    def _erfc(self, _: Any, x: str) -> str:
        one = self.constant(np.float32(1))
        return self.add("Sub", [one, self.add("Erf", [x])])

    def _convert_element_type(self, equation: Any, x: str) -> str:
        kind = helper.np_dtype_to_tensor_dtype(np.dtype(equation.params["new_dtype"]))
        return self.add("Cast", [x], to=kind)

    def _reshape(self, equation: Any, x: str) -> str:
        sizes = [-1 if n == BATCH else n for n in equation.outvars[0].aval.shape]
        return self.add("Reshape", [x, self.integers(sizes)])

    _squeeze = _expand_dims = _reshape

    def _broadcast_in_dim(self, equation: Any, x: str) -> str:
        shape, axes = equation.params["shape"], equation.params["broadcast_dimensions"]
        own = equation.invars[0].aval.shape
        sizes = [1] * len(shape)
        for axis, size in zip(axes, own, strict=True):
            sizes[axis] = -1 if size == BATCH else size
        x = self.add("Reshape", [x, self.integers(sizes)])
        # An axis of 1 keeps what is there: the batch need not be known.
        target = [1 if n == BATCH else n for n in shape]
        if target == [abs(n) for n in sizes]:
            return x
        return self.add("Expand", [x, self.integers(target)])

    def _transpose(self, equation: Any, x: str) -> str:
        return self.add("Transpose", [x], perm=[*equation.params["permutation"]])

    def _concatenate(self, equation: Any, *parts: str) -> str:
        return self.add("Concat", parts, axis=equation.params["dimension"])

    def _rev(self, equation: Any, x: str) -> str:
        axes = equation.params["dimensions"]
        return self._slices(x, axes, [-1] * len(axes), [-(2**31)] * len(axes), -1)

    def _slice(self, equation: Any, x: str) -> str:
        params, sizes = equation.params, equation.invars[0].aval.shape
        starts, stops = params["start_indices"], params["limit_indices"]
        steps = params["strides"] or [1] * len(starts)
        parts = zip(starts, stops, steps, strict=True)
        for axis, (start, stop, step) in enumerate(parts):
            if (start, stop, step) != (0, sizes[axis], 1):
                x = self._slices(x, [axis], [start], [stop], step)
        return x

    def _slices(self, x: str, axes: Any, starts: Any, stops: Any, step: int) -> str:
        bounds = (starts, stops, axes, [step] * len(axes))
        return self.add("Slice", [x, *(self.integers(b) for b in bounds)])

    def _pad(self, equation: Any, x: str, value: str) -> str:
        config = equation.params["padding_config"]
        if any(interior for _, _, interior in config):
            raise NotImplementedError("a dilating pad has no translation to ONNX")
        amounts = [c[0] for c in config] + [c[1] for c in config]
        if not any(amounts):
            return x
        return self.add("Pad", [x, self.integers(amounts), value])

    def _dot_general(self, equation: Any, x: str, y: str) -> str:
        summed, shared = equation.params["dimension_numbers"]
        letters = iter("abcdefghijklmnop")
        one, other = (
            [next(letters) for _ in each.aval.shape] for each in equation.invars
        )
        for left, right in (summed, shared):
            for a, b in zip(left, right, strict=True):
                other[b] = one[a]
        out = [one[a] for a in shared[0]]
        out += [c for a, c in enumerate(one) if a not in (*summed[0], *shared[0])]
        out += [c for b, c in enumerate(other) if b not in (*summed[1], *shared[1])]
        formula = f"{''.join(one)},{''.join(other)}->{''.join(out)}"
        return self.add("Einsum", [x, y], equation=formula)

    def _conv_general_dilated(self, equation: Any, x: str, kernel: str) -> str:
        params = equation.params
        numbers = params["dimension_numbers"]
        if params["lhs_dilation"] != (1, 1) or params["batch_group_count"] != 1:
            raise NotImplementedError("such a convolution has no translation to ONNX")
        x = self.add("Transpose", [x], perm=[*numbers.lhs_spec])
        weights = self._value(equation.invars[1]).transpose(numbers.rhs_spec)
        y = self.add(
            "Conv",
            [x, self.constant(weights)],
            strides=[*params["window_strides"]],
            pads=[end[side] for side in (0, 1) for end in params["padding"]],
            dilations=[*params["rhs_dilation"]],
            group=params["feature_group_count"],
        )
        return self.add("Transpose", [y], perm=[*np.argsort(numbers.out_spec)])

    def _reduce_window_max(self, equation: Any, x: str) -> str:
        params = equation.params
        inner = slice(1, 3)  # height and width of NHWC
        x = self.add("Transpose", [x], perm=[0, 3, 1, 2])
        y = self.add(
            "MaxPool",
            [x],
            kernel_shape=[*params["window_dimensions"][inner]],
            strides=[*params["window_strides"][inner]],
            pads=[end[side] for side in (0, 1) for end in params["padding"][inner]],
        )
        return self.add("Transpose", [y], perm=[0, 2, 3, 1])

    def _select_n(self, equation: Any, which: str, *cases: str) -> str:
        condition = equation.invars[0]
        if self._is_constant(condition) and not condition.aval.shape:
            return cases[int(self._value(condition))]
        if condition.aval.dtype != bool:
            raise NotImplementedError("a choice of three has no translation to ONNX")
        return self.add("Where", [which, cases[1], cases[0]])


def _inner(equation: Any) -> tuple[Any, Sequence[Any]] | None:
    """The jaxpr that an equation calls, and its constants."""
    for key in ("jaxpr", "call_jaxpr", "fun_jaxpr"):
        if key in equation.params:
            found = equation.params[key]
            return getattr(found, "jaxpr", found), getattr(found, "consts", ())
    return None
