"""Rasterising meshes by OpenGL, through moderngl and EGL: no display needed, for machines with a GPU."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from training.synth.render import FAR_M, NEAR_M

SOFTWARE = ("llvmpipe", "softpipe", "swrast", "software")
_VERTEX = """
#version 330
in vec4 place;
in vec3 shade;
out vec3 colour;
void main() { gl_Position = place; colour = shade; }
"""
_FRAGMENT = """
#version 330
in vec3 colour;
out vec4 pixel;
void main() { pixel = vec4(colour, 1.0); }
"""


class GlRasteriser:
    """Does what `render.rasterise` does. Belongs to the thread that made it."""

    def __init__(self) -> None:
        """Raises ImportError without moderngl, and whatever it raises where no OpenGL 3.3 can be had."""
        import moderngl

        self._context = moderngl.create_context(
            standalone=True,
            backend="egl",  # type: ignore[arg-type]  # its stub says dict
            require=330,
        )
        self.device: str = self._context.info["GL_RENDERER"]
        self._context.enable_only(moderngl.DEPTH_TEST)
        self._program = self._context.program(vertex_shader=_VERTEX, fragment_shader=_FRAGMENT)
        self._targets: dict[tuple[int, int], moderngl.Framebuffer] = {}

    @property
    def is_software(self) -> bool:
        """Whether the "GPU" is a program on the CPU, which is slower than OpenCV's."""
        return any(word in self.device.lower() for word in SOFTWARE)

    def __call__(
        self,
        vertices: NDArray[np.float32],
        faces: NDArray[np.int32],
        colours: NDArray[np.float32],
        matrix: NDArray,
        width: int,
        height: int,
    ) -> tuple[NDArray[np.float32], NDArray[np.bool_]]:
        """See `render.rasterise`."""
        target = self._targets.get((width, height))
        if target is None:
            colour = self._context.texture((width, height), 4, dtype="f4")
            target = self._context.framebuffer([colour], self._context.depth_renderbuffer((width, height)))
            self._targets[width, height] = target
        target.use()
        target.clear(0.0, 0.0, 0.0, 0.0, depth=1.0)
        attributes = np.concatenate([clip_coordinates(vertices, matrix, width, height), colours], axis=1)
        buffer = self._context.buffer(np.ascontiguousarray(attributes, np.float32).tobytes())
        index = self._context.buffer(np.ascontiguousarray(faces, np.int32).tobytes())
        mesh = self._context.vertex_array(self._program, [(buffer, "4f 3f", "place", "shade")], index)
        mesh.render()
        pixels = np.frombuffer(target.read(components=4, dtype="f4"), np.float32).reshape(height, width, 4)
        for part in (mesh, index, buffer):
            part.release()
        return pixels[..., :3].copy(), pixels[..., 3] > 0.5


def clip_coordinates(vertices: NDArray[np.float32], matrix: NDArray, width: int, height: int) -> NDArray[np.float32]:
    """(V, 4) homogeneous OpenGL clip coordinates of points (V, 3), metres, before the pinhole `matrix` (3, 3), pixels.

    OpenGL's first row is the lowest, and it is read first: the image needs no flip when y points down here too.
    """
    x, y, z = np.asarray(vertices, np.float64).T
    across = 2.0 * (matrix[0, 0] * x + (matrix[0, 2] + 0.5) * z) / width - z
    down = 2.0 * (matrix[1, 1] * y + (matrix[1, 2] + 0.5) * z) / height - z
    depth = ((FAR_M + NEAR_M) * z - 2.0 * FAR_M * NEAR_M) / (FAR_M - NEAR_M)
    return np.stack([across, down, depth, z], axis=1).astype(np.float32)
