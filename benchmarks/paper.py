"""The paper's body network (HRNet-W64, arXiv 2012.09760) with weights that anyone can draw, its answers a body's size.

The original weights cannot be had. These are random, by a rule that keeps a network of this depth in bounds, and speed
does not depend on them. Rounding errors do: a random network hardly tells one image from another, so millimetres say
little about a trained one. To be of a scale at least, its answers are a body's template and what the network adds to
it, scaled to move a vertex as far as people's poses do: see `pose_deviation_mm`. The trained default bundle, in the
same report, is the better witness.
"""

import dataclasses
import itertools
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import torch
from scipy.spatial import cKDTree

from benchmarks import variants
from benchmarks.crops import demo_clip, variant_crops
from metro_ros.core.bundle import Bundle, default_bundle_path, load_bundle
from training import export, folding, hrnet, network, original_mesh, transformer
from training.build import build, paper_body
from training.export import BundleInfo, export_bundle
from training.mesh_spec import J14_NAMES, MeshSpec, body_431
from training.network import Metro
from training.normalize import Normalize
from training.original_mesh import stand_in_mesh

VERTICES, THINNING = 6890, (16, 4, 1)
"""Of the finest level, and which of those each level keeps: 431, 1,723 and 6,890."""
CARRIERS = 4
"""Coarse vertices that a finer one is rebuilt from."""
GAIN = 0.7
"""Of every matrix, over the square root of its inputs: the activations neither die nor explode."""
CROPS = 4
SOURCES = (export, folding, hrnet, network, original_mesh, transformer)
"""A change in any of them makes another network or another bundle."""


class Paper(NamedTuple):
    """The network in eval mode, unfolded, float32, and the bundle that was exported from it."""

    metro: Metro
    bundle: Bundle


def paper_network() -> Paper:
    """The network, and its bundle from the cache; made and kept there the first time: minutes, and 1.2 GB."""
    config = paper_body()
    metro = build(config, stand_in_body()).eval()
    draw_weights(metro, variant_crops(config.image_size, CROPS))
    folder = variants.kept_folder("paper", __file__, *(module.__file__ for module in SOURCES))
    if not folder.is_dir():
        metro.mesh = stand_in_mesh(metro, None)
        info = BundleInfo(name="metro-paper-body-random", camera_frame="camera", weights_licence="random numbers")
        variants.make_folder(folder, lambda path: export_bundle(metro, config, info, path))
    return Paper(metro, variants.add_variants(load_bundle(folder)))


def stand_in_body() -> MeshSpec:
    """The default bundle's body with the paper's joints and level sizes."""
    bundle = load_bundle(default_bundle_path())
    thinned = bundle.template[np.linspace(0, len(bundle.template) - 1, VERTICES).round().astype(int)]
    levels = [thinned[::step] for step in THINNING]
    j14 = [bundle.skeleton.names.index(name) for name in J14_NAMES]
    joints = (bundle.joint_regressor @ bundle.template)[j14]
    upsampling = tuple(_upsampling(coarse, fine) for coarse, fine in itertools.pairwise(levels))
    return dataclasses.replace(body_431(np.concatenate([joints, levels[0]])), upsampling=upsampling)


def pose_deviation_mm(frames: int = 30) -> float:
    """Mean distance of a vertex of the demo clip's person from its mean place, bodies centred on each other."""
    clip = demo_clip()
    bodies = np.stack([clip.vertices(index, 0) for index in np.linspace(0, len(clip) - 1, frames).astype(int)])
    bodies -= bodies.mean(axis=1, keepdims=True)
    return 1e3 * float(np.linalg.norm(bodies - bodies.mean(axis=0), axis=2).mean())


@torch.no_grad()
def draw_weights(metro: Metro, crops: npt.NDArray[np.uint8]) -> None:
    """Random weights for a network that `build` has made, in eval mode; the upsampling stays.

    crops: (N, S, S, 3) uint8 RGB, to scale the answers by. Batch norms get variances of 1 + 0.1 |x| and means of 0.1 x,
    other vectors 1 + 0.1 x as weights and 0.05 x as biases, matrices GAIN x / √inputs, for x standard normal. The first
    three channels of the residual path carry the template from tokens to output.
    """
    random = torch.Generator().manual_seed(0)
    for name, tensor in metro.state_dict().items():
        if not tensor.is_floating_point() or name.startswith("upsampling"):
            continue
        x = torch.randn(tensor.shape, generator=random)
        if name.endswith("running_var"):
            tensor.copy_(1 + 0.1 * x.abs())
        elif name.endswith("running_mean"):
            tensor.copy_(0.1 * x)
        elif tensor.ndim == 1:
            tensor.copy_(1 + 0.1 * x if name.endswith("weight") else 0.05 * x)
        else:
            tensor.copy_(GAIN * x / float(np.sqrt(np.prod(tensor.shape[1:]))))
    *others, last = metro.blocks()
    for block in others:
        for part in (block.cls_head.weight, block.cls_head.bias, block.residual.weight, block.residual.bias):
            part[:3] = 0
        block.residual.weight[:3, :3] = torch.eye(3)
    last.residual.weight[:, :3] = torch.eye(3)
    output = metro(Normalize()(torch.from_numpy(crops)))
    added = torch.cat([output.joints, output.vertices[0]], dim=1) - metro.template_tokens
    scale = pose_deviation_mm() / (1e3 * float(added.norm(dim=2).mean()))
    for part in (last.cls_head.weight, last.cls_head.bias, last.residual.weight[:, 3:], last.residual.bias):
        part *= scale


def _upsampling(coarse: npt.NDArray[np.float32], fine: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """(F, C) float32: each fine vertex from the nearest coarse ones, the nearer the more."""
    distance, near = cKDTree(coarse).query(fine, k=CARRIERS)
    weights = 1 / np.maximum(distance, 1e-4) ** 2
    matrix = np.zeros((len(fine), len(coarse)), np.float32)
    np.put_along_axis(matrix, near, (weights / weights.sum(axis=1, keepdims=True)).astype(np.float32), axis=1)
    return matrix
