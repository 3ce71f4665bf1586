"""Crops of an image that lies in GPU memory, cut there: the pixels of `metro_ros.core.crop.crop_image`."""

import importlib
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from metro_ros.core.crop import Box
from metro_ros.core.errors import EngineError, ImageError

KERNEL = r"""
/* Adds `weight` times the mean of the block of pixels from (left, top) on; what lies outside of the image is black. */
__device__ void add_block(const unsigned char *image, long long pitch, int width, int height,
                          int left, int top, int block, float weight, float *bgr)
{
    unsigned long long sum[3] = {0, 0, 0};
    int right = left + block < width ? left + block : width;
    int bottom = top + block < height ? top + block : height;
    for (int y = top > 0 ? top : 0; y < bottom; y++)
        for (int x = left > 0 ? left : 0; x < right; x++)
            for (int c = 0; c < 3; c++)
                sum[c] += image[y * pitch + 3 * x + c];
    for (int c = 0; c < 3; c++)
        bgr[c] += weight * floorf((float)sum[c] / ((float)block * (float)block) + 0.5f);
}

/* One thread a pixel of the crop, RGB from BGR. Samples lie at step * sample + offset in blocks, (left, top) is the
   first block's first pixel; each is bilinear between four blocks, and `oversampling` squared of them make a pixel. */
__global__ void crop(const unsigned char *image, long long pitch, int width, int height, int left, int top, int block,
                     int oversampling, float step, float offset_x, float offset_y, unsigned char *out, int size)
{
    int px = blockIdx.x * blockDim.x + threadIdx.x;
    int py = blockIdx.y * blockDim.y + threadIdx.y;
    if (px >= size || py >= size)
        return;
    float total[3] = {0, 0, 0};
    for (int sample = 0; sample < oversampling * oversampling; sample++) {
        float x = step * (px * oversampling + sample % oversampling) + offset_x;
        float y = step * (py * oversampling + sample / oversampling) + offset_y;
        if (!(x > -1 && y > -1 && x < width && y < height))
            continue;
        float column = floorf(x), row = floorf(y);
        float right = x - column, down = y - row;
        int x0 = left + (int)column * block, y0 = top + (int)row * block;
        float bgr[3] = {0, 0, 0};
        add_block(image, pitch, width, height, x0, y0, block, (1 - right) * (1 - down), bgr);
        add_block(image, pitch, width, height, x0 + block, y0, block, right * (1 - down), bgr);
        add_block(image, pitch, width, height, x0, y0 + block, block, (1 - right) * down, bgr);
        add_block(image, pitch, width, height, x0 + block, y0 + block, block, right * down, bgr);
        for (int c = 0; c < 3; c++)
            total[c] += rintf(bgr[c]);
    }
    for (int c = 0; c < 3; c++)
        out[3 * (py * size + px) + c] = (unsigned char)(total[2 - c] / (oversampling * oversampling) + 0.5f);
}
"""
THREADS = 16
"""A side of the square of pixels that a block of threads makes."""


@dataclass(frozen=True, slots=True)
class DeviceImage:
    """A uint8 BGR image in GPU memory. pointer: of its first pixel; pitch: bytes from a row to the next."""

    pointer: int
    width: int
    height: int
    pitch: int
    stream: int | None

    @classmethod
    def of(cls, image: object) -> "DeviceImage":
        """What has a __cuda_array_interface__: arrays of CuPy, Numba, PyTorch and pycuda.

        stream: the one whose work the image waits for, where its library names one. Raises ImageError unless it is
        uint8 (H, W, 3) and each row is in one piece.
        """
        interface = getattr(image, "__cuda_array_interface__", None)
        if not isinstance(interface, dict):
            raise ImageError(
                "not an image in GPU memory", expected="__cuda_array_interface__", got=type(image).__name__
            )
        shape, kind, strides = interface["shape"], interface["typestr"], interface.get("strides")
        if kind != "|u1" or len(shape) != 3 or shape[2] != 3 or 0 in shape:
            raise ImageError("not a colour image", expected="uint8 (H, W, 3)", got=f"{kind} {shape}")
        height, width, _ = shape
        pitch, *within = strides or (3 * width, 3, 1)
        if within != [3, 1] or pitch < 3 * width:
            raise ImageError("the image's rows are scattered", expected="strides (>= 3 W, 3, 1)", got=strides)
        return cls(interface["data"][0], width, height, pitch, interface.get("stream"))


class Sampling(NamedTuple):
    """How a crop is sampled, in the kernel's words: the figures that `crop_image` works out for itself."""

    left: int
    top: int
    block: int
    oversampling: int
    step: float
    offset_x: float
    offset_y: float


def sampling(box: Box, size: int, width: int, height: int) -> Sampling:
    """Of the crop of `size` px that shows `box` of an image of that width and height; see `crop_image`."""
    shrink = box.size / size
    block = min(max(1, math.ceil(shrink / 2)), max(width, height))
    margin = box.size / 2 + 2 * block
    left = min(max(0, math.floor(box.cx - margin)), width)
    top = min(max(0, math.floor(box.cy - margin)), height)
    oversampling = 2 if shrink > 1 + 1e-6 else 1
    step = box.size / (size * oversampling)
    first_x, first_y = (center + (step - box.size) / 2 - (block - 1) / 2 for center in (box.cx, box.cy))
    return Sampling(left, top, block, oversampling, step / block, (first_x - left) / block, (first_y - top) / block)


class CropKernel:
    """The compiled kernel, for the GPU whose context is current."""

    def __init__(self, driver: Any) -> None:
        """driver: the module pycuda.driver. Raises EngineError when there is no compiler."""
        compiler = importlib.import_module("pycuda.compiler")
        try:
            module = compiler.SourceModule(KERNEL)
        except (driver.Error, OSError) as error:
            raise EngineError(
                "cannot compile the crop kernel",
                got=str(error).partition("\n")[0],
                remedy="put nvcc of the CUDA toolkit on PATH, or hand images over in the computer's memory",
            ) from error
        self._function = module.get_function("crop")
        self._function.prepare("PqiiiiiifffPi")

    def enqueue(self, image: DeviceImage, box: Box, size: int, crop: int, stream: Any) -> None:
        """Write the crop of `size` px that shows `box` to device memory at `crop`, uint8 (size, size, 3) RGB."""
        blocks = -(-size // THREADS)
        self._function.prepared_async_call(
            (blocks, blocks),
            (THREADS, THREADS, 1),
            stream,
            *(image.pointer, image.pitch, image.width, image.height),
            *sampling(box, size, image.width, image.height),
            *(crop, size),
        )
