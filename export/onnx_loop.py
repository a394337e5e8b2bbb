"""Puts the encoder's loop over chunks, written in ONNX's text format, around an exported step.

The exporter cannot write the loop itself: it loses the ranks of all tensors inside and fails.
"""

import onnx
from onnx import ModelProto

# Names that the exporter must give the inputs and outputs of the step.
STEP_INPUTS = ["part", "state", "start"]
STEP_OUTPUTS = ["new_codes", "next_state"]

_LOOP = """
<ir_version: 8, opset_import: ["": {opset}]>
encoder (float[batch, samples] waveform, int64[batch, one] chunk_frames)
     => (int64[batch, codebooks, frames] codes)
<int64[1] zero = {{0}}, int64[1] unit = {{1}}, int64[3] nothing = {{0, 0, 0}}, bool yes = {{1}},
 int64[1] frame = {{{frame}}}, int64[1] books = {{{books}}}, int64[1] numbers = {{{numbers}}}>
{{
  batch_size = Shape <start = 0, end = 1> (waveform)
  samples_given = Shape <start = 1, end = 2> (waveform)
  beyond = Add (samples_given, frame)
  last = Sub (beyond, unit)
  frame_count = Div (last, frame)
  samples_whole = Mul (frame_count, frame)
  missing = Sub (samples_whole, samples_given)
  pads = Concat <axis = 0> (nothing, missing)
  padded = Pad (waveform, pads)

  smallest = ReduceMin <keepdims = 0> (chunk_frames)
  share = Div (smallest, batch_size)
  at_most = Min (share, frame_count)
  chunk = Max (at_most, unit)
  chunk_samples = Mul (chunk, frame)
  over = Add (frame_count, chunk)
  final = Sub (over, unit)
  chunks = Div (final, chunk)
  trips = Squeeze (chunks)

  codes_shape = Concat <axis = 0> (batch_size, books, zero)
  no_codes = ConstantOfShape <value = int64[1] {{0}}> (codes_shape)
  state_shape = Concat <axis = 0> (batch_size, numbers)
  silence = ConstantOfShape <value = float[1] {{0}}> (state_shape)
  codes, last_state = Loop (trips, yes, no_codes, silence) <body = step
    (int64 trip, bool going, int64[batch, codebooks, known] codes_before, float[batch, n] state)
    => (bool on, int64[batch, codebooks, more] codes_after, float[batch, n] next_state)
  {{
    on = Identity (going)
    begin = Mul (chunk_samples, trip)
    end = Add (begin, chunk_samples)
    part = Slice (padded, begin, end, unit)
    start = Squeeze (begin)
    codes_after = Concat <axis = 2> (codes_before, new_codes)
  }}>
}}
"""


def looped(step: ModelProto, frame: int, books: int, state_size: int) -> ModelProto:
    """Do what `EncoderGraph.forward` does, with an exported `EncoderStep`.

    Args:
        step: Its inputs are STEP_INPUTS and its outputs STEP_OUTPUTS.
        frame: Samples of a frame.
        books: Number of codebooks.
        state_size: Size of the state that a chunk leaves to the next.
    """
    opset = step.opset_import[0].version
    text = _LOOP.format(opset=opset, frame=frame, books=books, numbers=state_size)
    model = onnx.parser.parse_model(text)
    body = next(node for node in model.graph.node if node.op_type == "Loop").attribute[0].g
    *before, joined = body.node
    del body.node[:]
    body.node.extend([*before, *step.graph.node, joined])
    model.graph.input.extend(i for i in step.graph.input if i.name not in STEP_INPUTS)  # weights
    model.graph.initializer.extend(step.graph.initializer)
    return model
