"""A checkpoint to go on from, out of a bundle: the folded network in its ONNX file, unfolded again.

python -m training.warm_start --bundle DIR --motions FILE.npz --data shards:DIR --out CKPT
python -m training.train --start-from CKPT ...

Weights are released as bundles; this is how to retrain one without its training run. Folding multiplies matrices that
follow each other (training.folding), and products do not tell their factors: of all factors with those products, the
first of each pair becomes the identity. Batch norms take the statistics of real crops and a scale and offset that
undo them. The network that comes out answers as the bundle does, to rounding, and learns on from there.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
import onnx
import torch
from onnx import numpy_helper
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from metro_ros.core.bundle import Bundle, default_bundle_path, load_bundle
from metro_ros.core.engines import open_engine
from metro_ros.core.errors import ConfigError, MetroError
from training.build import PRESETS, build
from training.checkpoint import save_checkpoint
from training.datasets.augment import NONE
from training.datasets.catalogue import open_source
from training.datasets.mixture import Mixture
from training.mesh_choice import add_mesh_options, choose_mesh
from training.mesh_spec import MeshSpec
from training.network import Metro
from training.normalize import Normalize
from training.onnx_graph import read_model

CROPS = 256
"""Crops that the batch norms' statistics are taken from."""
TOLERANCE_M = 1e-3
"""Largest distance of a vertex from where the bundle puts it."""
_PREFIX = "folded."


class FoldedWeights:
    """The weights of an exported graph: those that kept their names, and the nameless matrices by what follows them."""

    def __init__(self, model: onnx.ModelProto, prefix: str = _PREFIX) -> None:
        """prefix: of the names of the graph's weights, which is taken off."""
        constants = {entry.name: numpy_helper.to_array(entry) for entry in model.graph.initializer}
        self.named = {
            name.removeprefix(prefix): torch.tensor(value.astype(np.float64))
            for name, value in constants.items()
            if name.startswith(prefix)
        }
        products = {node.output[0]: node for node in model.graph.node if node.op_type == "MatMul"}
        self.spread: list[Tensor] = []
        """What follows each encoder, (later widths, width): the products that no bias is added to."""
        with_bias = set()
        for node in model.graph.node:
            for one, other in (node.input[:2], node.input[1::-1]) if node.op_type == "Add" else ():
                if other.endswith(".bias") and one in products and products[one].input[1] in constants:
                    name = other.removeprefix(prefix).removesuffix("bias") + "weight"
                    self.named[name] = torch.tensor(constants[products[one].input[1]].T.astype(np.float64))
                    with_bias.add(one)
        for output, node in products.items():
            matrix = node.input[1]
            nameless = matrix in constants and not matrix.startswith(prefix)
            if nameless and output not in with_bias and constants[matrix].ndim == 2:
                self.spread.append(torch.tensor(constants[matrix].T.astype(np.float64)))

    def __getitem__(self, name: str) -> Tensor:
        """float64. Raises ConfigError when the graph has no such weight."""
        if name not in self.named:
            raise ConfigError(
                "weights of the bundle", expected=f"{name}, as this version exports", got="no such weight"
            )
        return self.named[name]


@torch.no_grad()
def unfold(metro: Metro, folded: FoldedWeights, images: Tensor) -> None:
    """Set the weights of `metro` to those of the graph that was exported from a network of the same config.

    images: (N, 3, S, S) normalised, that the batch norms see. Raises ConfigError where the shapes do not fit, and for
    blocks that are narrower than what comes into them: there the factors are lost.
    """
    unfold_convolutions(metro.backbone, folded, images)
    if metro.keypoint_head is not None:
        for name, parameter in metro.keypoint_head.named_parameters():
            _set(parameter, folded[f"keypoint_head.{name}"])
    for index, block in enumerate(metro.blocks()):
        for depth, layer in enumerate(block.bert.encoder.layer):
            place = f"encoders.{index}.layers.{depth}."
            _unfold_attention(layer.attention.self, folded, place)  # type: ignore[union-attr,arg-type]
            for ours, theirs in (
                ("attention.output.", "attention_output."), ("intermediate.", "intermediate."), ("output.", "output.")
            ):  # fmt: skip
                for name, parameter in layer.get_submodule(ours.rstrip(".")).named_parameters():
                    _set(parameter, folded[f"{place}{theirs}{name}"])
    _unfold_tokens(metro, folded)
    _unfold_upsampling(metro, folded)


@torch.no_grad()
def unfold_convolutions(
    backbone: nn.Module,
    folded: FoldedWeights,
    images: Tensor | None = None,
    partly: bool = False,
    place: str = "backbone.",
) -> list[str]:
    """Convolutions by name; then each batch norm, in the order they run in, from what its convolution gives.

    images: what `backbone` takes; one without batch norms needs none. place: where the graph has it, by the beginning
    of its weights' names. partly: leave convolutions that the graph does not have, or has in another shape. Returns the
    names of those that were set.
    Raises ConfigError where one is missing or does not fit.
    """
    chosen = {name: module for name, module in backbone.named_modules() if isinstance(module, nn.Conv2d)}
    if partly:
        shapes = {name: weight.shape for name, weight in folded.named.items()}
        chosen = {n: conv for n, conv in chosen.items() if shapes.get(f"{place}{n}.weight") == conv.weight.shape}
    pairs = {name: norm for name, norm in _convolution_norms(backbone) if name in chosen}
    for name, module in chosen.items():
        _set(module.weight, folded[f"{place}{name}.weight"])
        if module.bias is not None:
            _set(module.bias, folded[f"{place}{name}.bias"])

    def undo(name: str, norm: nn.BatchNorm2d) -> None:
        def hook(module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
            variance, mean = torch.var_mean(output.double(), dim=(0, 2, 3), correction=0)
            _set(norm.running_mean, mean)
            _set(norm.running_var, variance)
            _set(norm.weight, (variance + norm.eps).sqrt())
            _set(norm.bias, mean + folded[f"{place}{name}.bias"])

        hooks.append(convolutions[name].register_forward_hook(hook))

    convolutions = dict(backbone.named_modules())
    hooks: list[RemovableHandle] = []
    if not pairs:
        return list(chosen)
    assert images is not None
    for name, norm in pairs.items():
        undo(name, norm)
    backbone.eval()
    backbone(images)
    for one in hooks:
        one.remove()
    return list(chosen)


@torch.no_grad()
def load_bundle_backbone(metro: Metro, bundle: Bundle) -> None:
    """What a bundle's backbone and keypoint head have learned, as far as `metro` has the same layers; others stay.

    Raises ConfigError where the backbone has batch norms, whose statistics take crops: see `main`; or nothing fits.
    """
    if any(_convolution_norms(metro.backbone)):
        raise ConfigError(
            f"the backbone of {bundle.path}", expected="a network without batch norms", got="one with them",
            remedy="make a checkpoint of the bundle by training.warm_start",
        )  # fmt: skip
    folded = FoldedWeights(read_model(bundle.model_path))
    if not unfold_convolutions(metro.backbone, folded, partly=True):
        raise ConfigError(f"the backbone of {bundle.path}", expected="layers of this network", got="others")
    for name, parameter in () if metro.keypoint_head is None else metro.keypoint_head.named_parameters():
        value = folded.named.get(f"keypoint_head.{name}")
        if value is not None and value.shape == parameter.shape:
            _set(parameter, value)


def _convolution_norms(module: nn.Module, prefix: str = "") -> Iterator[tuple[str, nn.BatchNorm2d]]:
    """(name of a convolution, the batch norm that folding put into it)."""
    previous: tuple[str, nn.Module] | None = None
    for name, child in module.named_children():
        if isinstance(child, nn.BatchNorm2d) and previous is not None and isinstance(previous[1], nn.Conv2d):
            yield prefix + previous[0], child
        else:
            yield from _convolution_norms(child, f"{prefix}{name}.")
        previous = (name, child)


def _unfold_attention(attention: nn.Module, folded: FoldedWeights, place: str) -> None:
    weights = folded[f"{place}query_key_value.weight"].chunk(3)
    biases = folded[f"{place}query_key_value.bias"].chunk(3)
    for name, weight, bias in zip(("query", "key", "value"), weights, biases, strict=True):
        linear = attention.get_submodule(name)
        assert isinstance(linear, nn.Linear)
        scale = (len(weight) / attention.heads) ** 0.5 if name == "query" else 1.0  # type: ignore[operator]
        _set(linear.weight, weight * scale)
        _set(linear.bias, bias * scale)


def _unfold_tokens(metro: Metro, folded: FoldedWeights) -> None:
    """The linear maps between encoders, with every embedding but the first the identity.

    M_k = W_k R_k-1 .. R_0 and B_ki = W_k R_k-1 .. R_i+1 H_i, with the last R as W_K; see training.folding. W_k = 1 for
    0 < k < K makes H_k-1 and R_k-1 .. R_0 parts of what is known, and each next R the solution of a linear system.
    """
    blocks = metro.blocks()
    for block in blocks[1:]:
        embed = block.bert.img_embedding
        if embed.in_features != embed.out_features:
            raise ConfigError(
                "blocks of the network",
                expected="each as wide as the output of the one before",
                got=f"{embed.in_features} into {embed.out_features}",
            )
    widths = [block.bert.img_embedding.out_features for block in blocks] + [3]
    projections = [folded["project_image"], folded["project_global"]]
    projections += [folded["project_joint"]] if metro.joint_features else []
    images = torch.cat(projections).T.split(widths)  # (width, in - 3) each
    constants = folded["constant"].split(widths, dim=1)
    spread = [matrix.split(widths[index + 1 :]) for index, matrix in enumerate(folded.spread[: len(blocks)])]
    _set(metro.conv_learn_tokens.weight, folded["token_mix"].unsqueeze(2))  # type: ignore[union-attr]

    channels = metro.backbone.out_channels
    # (width, in - 3 + earlier encoders' widths): what block k's tokens are made of, from image and encoders.
    known = [torch.cat([image, *(spread[i][k - 1 - i] for i in range(k))], dim=1) for k, image in enumerate(images)]
    carries = []
    for k, block in enumerate(blocks):
        embed, width = block.bert.img_embedding, widths[k]
        if k == 0:
            _set(embed.weight, torch.cat([torch.zeros(width, 3, dtype=torch.float64), images[0]], dim=1))
        else:
            _set(embed.weight, torch.eye(width, embed.in_features, dtype=torch.float64))
        _set(embed.bias, torch.zeros(width, dtype=torch.float64))
        after = known[k + 1]
        if k == 0:
            residual = after[:, : images[0].shape[1]]
        else:
            carried = after[:, : known[k].shape[1]]
            residual = torch.linalg.lstsq(known[k].T, carried.T).solution.T
        carries.append(residual)
        _set(block.cls_head.weight, spread[k][0])
        _set(block.cls_head.bias, torch.zeros_like(block.cls_head.bias))
        _set(block.residual.bias, torch.zeros_like(block.residual.bias))

    # The last block has no position table behind it: its constant is an affine function of the template, and the
    # token mixer's bias times the image's columns.
    template = metro.template_tokens.double()
    mixer = metro.conv_learn_tokens
    assert mixer is not None
    sums = [part[:, :channels].sum(dim=1) for part in images]
    tokens = len(template)
    affine = torch.cat([template, torch.ones(tokens, 1, dtype=torch.float64)], dim=1)
    system = torch.cat([torch.kron(affine, torch.eye(3, dtype=torch.float64)),
                        torch.kron(torch.eye(tokens, dtype=torch.float64), sums[-1][:, None])], dim=1)  # fmt: skip
    solution = torch.linalg.lstsq(system, constants[-1].reshape(-1, 1), driver="gelsd").solution[:, 0]
    of_template = solution[:9].reshape(3, 3).T
    mix_bias = solution[12:] if mixer.bias is not None else torch.zeros(tokens, dtype=torch.float64)
    if mixer.bias is not None:
        _set(mixer.bias, mix_bias)

    through = [torch.eye(3, dtype=torch.float64)]
    for residual in reversed(carries[1:]):
        through.insert(0, through[0] @ residual)
    template_columns = torch.linalg.pinv(through[0]) @ of_template  # of the first residual
    carries[0] = torch.cat([template_columns, carries[0]], dim=1)
    reached = template_columns
    for k, block in enumerate(blocks):
        _set(block.residual.weight, carries[k])
        positions = constants[k] - mix_bias[:, None] * sums[k]
        if k > 0:
            positions = positions - template @ reached.T
            reached = carries[k] @ reached
        table = block.bert.position_embeddings.weight
        table[:tokens] = positions.to(table.dtype)
    _set(blocks[-1].residual.bias, solution[9:12])


def _unfold_upsampling(metro: Metro, folded: FoldedWeights) -> None:
    """The learned first step, so that with the fixed later ones it comes closest to the product that was exported."""
    first, *later = metro.upsamplings()
    after = torch.eye(first.out_features, dtype=torch.float64)
    offset = torch.zeros(first.out_features, dtype=torch.float64)
    for linear in later:
        after, offset = linear.weight.double() @ after, linear.weight.double() @ offset + linear.bias.double()
    wanted = torch.cat([folded["upsample.weight"], (folded["upsample.bias"] - offset)[:, None]], dim=1)
    # The normal equations: `after` is tall and sparse in effect, every middle vertex is one of its rows.
    solution = torch.linalg.solve(after.T @ after, after.T @ wanted) if later else wanted
    _set(first.weight, solution[:, :-1])
    _set(first.bias, solution[:, -1])


def _set(parameter: Tensor | None, value: Tensor) -> None:
    assert parameter is not None
    if parameter.shape != value.shape:
        raise ConfigError(
            "weights of the bundle", expected=f"{tuple(parameter.shape)}, by the preset", got=tuple(value.shape)
        )
    with torch.no_grad():
        parameter.copy_(value)


def check_same_mesh(mesh: MeshSpec, bundle: Bundle) -> None:
    """Raises ConfigError when the mesh to train is not the bundle's."""
    same = mesh.level_sizes == bundle.levels and mesh.joint_names == bundle.skeleton.names
    if not (same and all(np.array_equal(ours, theirs) for ours, theirs in zip(mesh.rows, bundle.rows, strict=True))):
        raise ConfigError("the mesh", expected=f"that of the bundle {bundle.manifest.name}", got=mesh.name)


@torch.no_grad()
def largest_distance_m(metro: Metro, bundle: Bundle, crops: Tensor) -> float:
    """Of any vertex between the network and the bundle; crops: (N, S, S, 3), 0 to 255."""
    engine = open_engine(bundle, engine="onnxruntime", precision="fp32")
    pixels = crops.round().to(torch.uint8)
    theirs = engine.infer(pixels.numpy()).vertices
    engine.close()
    ours = metro.eval()(Normalize()(pixels)).vertices[-1].numpy()
    return float(np.linalg.norm(ours - theirs, axis=2).max())


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code."""
    parser = argparse.ArgumentParser(prog="python -m training.warm_start", description=__doc__.splitlines()[0])
    parser.add_argument("--bundle", type=Path, default=default_bundle_path(), help="(default: the one that ships)")
    parser.add_argument("--data", required=True, metavar="KIND:PATH", help="crops for the batch norms' statistics")
    parser.add_argument("--preset", choices=PRESETS, default="default", help="the network's (%(default)s)")
    parser.add_argument("--out", type=Path, required=True, help="the checkpoint")
    add_mesh_options(parser.add_argument_group("mesh"))
    options = parser.parse_args(arguments)
    try:
        bundle, chosen, config = load_bundle(options.bundle), choose_mesh(options), PRESETS[options.preset]()
        check_same_mesh(chosen.spec, bundle)
        mixture = Mixture(
            [open_source(options.data, chosen.spec)], chosen.spec, NONE, "smooth", config.image_size,
            chosen.pose_size, in_turn=True, mask_ratio=0.0, seed=0,
        )  # fmt: skip
        crops = mixture.collate([mixture[row] for row in range(min(CROPS, len(mixture)))]).image
        metro = build(config, chosen.spec)
        unfold(metro, FoldedWeights(read_model(bundle.model_path)), Normalize()(crops))
        distance = largest_distance_m(metro, bundle, crops[:16])
        if not distance <= TOLERANCE_M:
            raise ConfigError("the unfolded network", expected=f"within {TOLERANCE_M} m of the bundle", got=distance)
        save_checkpoint(options.out, metro, config, chosen.bundle)
    except MetroError as error:
        print(f"warm_start: {error}", file=sys.stderr)
        return 2
    print(f"{options.out}: within {1e3 * distance:.3f} mm of {bundle.path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
