"""The layers of the official networks in TensorFlow, with random weights, for :mod:`official_network` to compare with.

    python tensorflow_network.py EXTENT THREADS

Runs in a Python that has TensorFlow 2.16 or newer, and needs nothing else. Prints CPU-seconds and peak memory of its
process as JSON: two feature detectors on every second voxel of an image, and both input orders of the deformable
network, in graph mode and without gradients, like mri_synthmorph. The hypernetwork, the affine fit and the fields,
which take next to nothing of its time, are left out.
"""
from __future__ import annotations

import json
import sys
import time

import tensorflow as tf
from official_network import peak_bytes

WIDTH = 256
LEVELS = EXTRA = 4


def convolved(x, filters=WIDTH):
    """A 3x3x3 convolution, with its activation unless it is the last."""
    x = tf.keras.layers.Conv3D(filters, 3, padding="same")(x)
    return tf.keras.layers.LeakyReLU(negative_slope=0.2)(x) if filters == WIDTH else x


def detector(extent: int) -> tf.keras.Model:
    image = x = tf.keras.Input((extent // 2,) * 3 + (1,), batch_size=1)
    for _ in range(LEVELS):
        x = tf.keras.layers.MaxPool3D()(convolved(x))
    for _ in range(EXTRA):
        x = convolved(x)
    return tf.keras.Model(image, convolved(x, 64))


def deformable(extent: int) -> tf.keras.Model:
    images = x = tf.keras.Input((extent // 2,) * 3 + (2,), batch_size=1)
    skips = []
    for _ in range(LEVELS):
        skips.append(convolved(x))
        x = tf.keras.layers.MaxPool3D()(skips[-1])
    for _ in range(LEVELS):
        x = tf.keras.layers.UpSampling3D()(convolved(x))
        x = tf.keras.layers.Concatenate()([x, skips.pop()])
    for _ in range(EXTRA):
        x = convolved(x)
    return tf.keras.Model(images, convolved(x, 3))


def main() -> None:
    extent, threads = map(int, sys.argv[1:])
    if threads:
        tf.config.threading.set_intra_op_parallelism_threads(threads)
        tf.config.threading.set_inter_op_parallelism_threads(threads)
    shape = (1,) + (extent // 2,) * 3
    for model, channels in ((detector(extent), 1), (deformable(extent), 2)):
        run = tf.function(model)
        for _ in range(2):
            run(tf.random.uniform((*shape, channels)))
    print(json.dumps({"cpu": time.process_time(), "peak": peak_bytes()}))


if __name__ == "__main__":
    main()
