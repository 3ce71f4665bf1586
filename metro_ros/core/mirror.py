"""Left hands from a right-hand model: what it finds in the mirrored crop, mirrored back."""

import dataclasses

import numpy as np
import numpy.typing as npt

from metro_ros.core.bundle import Bundle
from metro_ros.core.engines import Output
from metro_ros.core.errors import ConfigError


def mirror_bundle(bundle: Bundle) -> Bundle:
    """The bundle for the other hand: x of the template negated, faces turned so that normals stay outward.

    The network stays as it is: `Estimator` mirrors the crops that it asks about, and the answers; who asks an engine
    directly does the same, see `mirror_output`. Raises ConfigError when joints have sides (``L_``, ``R_``): a mirrored
    body would have its left knee at the right.
    """
    sided = [name for name, side in zip(bundle.skeleton.names, bundle.skeleton.sides, strict=True) if side != "middle"]
    if sided:
        raise ConfigError(
            f"the model {bundle.manifest.name} cannot be mirrored",
            expected="a hand, whose joints have no side",
            got=sided[0],
            remedy="leave mirror out: a body model finds both sides",
        )
    return dataclasses.replace(
        bundle,
        template=_frozen(_negate_x(bundle.template)),
        faces=tuple(_frozen(faces[:, ::-1]) for faces in bundle.faces),
        mirrored=not bundle.mirrored,
    )


def mirror_output(output: Output) -> Output:
    """An answer about mirrored crops as one about the crops: x of joints and vertices, and tx, negated.

    In the mirrored crop u = s·(x + tx); in the crop it is -u = s·(-x - tx), with the same scale.
    """
    scale, tx, ty = output.camera.T
    return output._replace(
        joints=_negate_x(output.joints),
        vertices=_negate_x(output.vertices),
        camera=np.stack((scale, -tx, ty), axis=1),
    )


def _negate_x(points: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    return points * np.array((-1, 1, 1), np.float32)


def _frozen(array: npt.NDArray) -> npt.NDArray:
    array = np.ascontiguousarray(array)
    array.flags.writeable = False
    return array
