"""ONNX Runtime at its best on token ids that it is given: runs what a line on standard input asks for and answers with one line.

usage: onnx_runtime.py MODEL.safetensors IDS.json THREADS

    batches N     encode all texts, sorted by length, N at a time     -> seconds
    single  N     the shortest text of at least 12 tokens, N times    -> median seconds of one
    vectors FILE  write the vectors of all texts, f32, in order       -> "done"
"""

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time

import numpy as np
import onnxruntime

weights, ids_file, threads = sys.argv[1], sys.argv[2], int(sys.argv[3])
with tempfile.TemporaryDirectory() as folder:
    graph = os.path.join(folder, "fused.onnx")
    subprocess.run([sys.executable, os.path.join(os.path.dirname(__file__), "fused_onnx.py"), weights, graph], check=True)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])

with open(ids_file) as file:
    texts = [np.array(ids, dtype=np.int32) for ids in json.load(file)]
order = sorted(range(len(texts)), key=lambda text: len(texts[text]))
single = next(text for text in order if len(texts[text]) >= 12)


def padded(batch):
    longest = max(len(texts[text]) for text in batch)
    ids = np.zeros((len(batch), longest), dtype=np.int32)
    mask = np.zeros_like(ids)
    for row, text in enumerate(batch):
        ids[row, : len(texts[text])] = texts[text]
        mask[row, : len(texts[text])] = 1
    return {"ids": ids, "tt": np.zeros_like(ids), "mask": mask}


def encode(inputs):
    """Mean over the mask and unit length, as the other side does."""
    hidden = session.run(None, inputs)[0]
    mask = inputs["mask"][:, :, None].astype(np.float32)
    sums = (hidden * mask).sum(axis=1)
    return sums / np.linalg.norm(sums, axis=1, keepdims=True)


def batches(size):
    return [order[start : start + size] for start in range(0, len(order), size)]


prepared = {size: [padded(batch) for batch in batches(size)] for size in (1, 8, 32, 64)}
print("ready", flush=True)
for line in sys.stdin:
    command, argument = line.split()
    if command == "batches":
        start = time.perf_counter()
        for inputs in prepared[int(argument)]:
            encode(inputs)
        print(time.perf_counter() - start, flush=True)
    elif command == "single":
        inputs = padded([single])
        times = []
        for _ in range(int(argument)):
            start = time.perf_counter()
            encode(inputs)
            times.append(time.perf_counter() - start)
        print(statistics.median(times), flush=True)
    elif command == "vectors":
        vectors = np.zeros((len(texts), 384), dtype="<f4")
        for batch in batches(32):
            vectors[batch] = encode(padded(batch))
        vectors.tofile(argument)
        print("done", flush=True)
