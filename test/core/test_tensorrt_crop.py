"""The GPU's crop kernel, compiled for this processor: its pixels are those of crop_image, but for rounding."""

import ctypes
import shutil
import subprocess
from collections.abc import Callable

import numpy as np
import pytest

from metro_ros.core.crop import Box, crop_image, whole_image_box
from metro_ros.core.engines.tensorrt_crop import KERNEL, THREADS, sampling

HOST = (
    r"""
#include <math.h>
#define __device__ static
#define __global__ static
struct Index { int x, y; };
static Index blockIdx, blockDim, threadIdx;
"""
    + KERNEL
    + r"""
extern "C" void run(int blocks, int threads, const unsigned char *image, long long pitch, int width, int height,
                    int left, int top, int block, int oversampling, float step, float offset_x, float offset_y,
                    unsigned char *out, int size)
{
    blockDim = {threads, threads};
    for (blockIdx.y = 0; blockIdx.y < blocks; blockIdx.y++)
        for (blockIdx.x = 0; blockIdx.x < blocks; blockIdx.x++)
            for (threadIdx.y = 0; threadIdx.y < threads; threadIdx.y++)
                for (threadIdx.x = 0; threadIdx.x < threads; threadIdx.x++)
                    crop(image, pitch, width, height, left, top, block, oversampling, step, offset_x, offset_y, out,
                         size);
}
"""
)
Crop = Callable[[np.ndarray, Box, int], np.ndarray]


@pytest.fixture(scope="module")
def kernel_crop(tmp_path_factory: pytest.TempPathFactory) -> Crop:
    """The kernel, every thread in turn, on an image whose rows are padded by what it must not read."""
    compiler = next(filter(None, map(shutil.which, ("c++", "g++", "clang++"))), None)
    if compiler is None:
        pytest.skip("needs a C++ compiler")
    folder = tmp_path_factory.mktemp("kernel")
    (folder / "kernel.cpp").write_text(HOST)
    library = folder / "kernel.so"
    subprocess.run([compiler, "-O2", "-shared", "-fPIC", "-o", library, folder / "kernel.cpp"], check=True)
    run = ctypes.CDLL(str(library)).run
    pointer, integer, real = ctypes.c_void_p, ctypes.c_int, ctypes.c_float
    run.argtypes = [integer, integer, pointer, ctypes.c_longlong, *[integer] * 6, *[real] * 3, pointer, integer]

    def crop(image: np.ndarray, box: Box, size: int) -> np.ndarray:
        height, width = image.shape[:2]
        padded = np.full((height, width + 7, 3), 255, np.uint8)
        padded[:, :width] = image
        out = np.full((size, size, 3), 77, np.uint8)
        how = sampling(box, size, width, height)
        run(
            -(-size // THREADS),
            THREADS,
            padded.ctypes.data,
            padded.strides[0],
            width,
            height,
            *how,
            out.ctypes.data,
            size,
        )
        return out

    return crop


def photograph(width: int, height: int) -> np.ndarray:
    """Colours that change smoothly, hard edges, and a little noise."""
    random = np.random.default_rng(0)
    across, down = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, 1, height))
    waves = [127 + 100 * np.sin(a * across + b * down) for a, b in ((9, 4), (3, 17), (30, 25))]
    image = np.stack(waves, axis=2) + random.normal(0, 4, (height, width, 3))
    image[height // 3 : height // 2, width // 4 : width // 2] = (250, 10, 90)
    return np.clip(image, 0, 255).astype(np.uint8)


BOXES = {
    "enlarged": Box(310.3, 231.6, 40.7),
    "pixel by pixel": Box(319.5, 239.5, 64.0),
    "slightly shrunk": Box(310.3, 231.6, 100.3),
    "shrunk": Box(322.1, 201.9, 300.9),
    "whole": whole_image_box(640, 480),
    "over the left edge": Box(20.2, 240.7, 220.0),
    "over the right edge": Box(631.4, 470.2, 222.5),
    "far larger": Box(300.0, 200.0, 5000.0),
    "endless": Box(300.0, 200.0, 1e7),
    "outside": Box(-900.0, 240.0, 200.0),
    "far outside": Box(1e12, -1e12, 200.0),
}


@pytest.mark.parametrize("size", [64, 100])
@pytest.mark.parametrize("name", BOXES)
def test_its_pixels_are_those_of_crop_image(kernel_crop: Crop, name: str, size: int) -> None:
    image = photograph(640, 480)
    got, want = (crop(image, BOXES[name], size).astype(int) for crop in (kernel_crop, crop_image))
    difference = np.abs(got - want)
    # Which way a half is rounded differs within OpenCV itself, by processor.
    assert difference.mean() < 0.1 and difference.max() <= 2


def test_a_portrait_image(kernel_crop: Crop) -> None:
    image, box = photograph(240, 900), Box(100.0, 500.0, 700.0)
    assert np.abs(kernel_crop(image, box, 64).astype(int) - crop_image(image, box, 64)).max() <= 2
