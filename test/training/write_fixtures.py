"""Write the smallest data that a recipe runs on: python test/training/write_fixtures.py KIND FOLDER.

The body is a tube man, SMPL and MANO are spheres, and the pictures are noise: whatever comes out means nothing.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path

import cv2
import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from bodies import make_anny_like_mesh, make_bank, make_recording
from dataset_fixtures import write_freihand, write_metro_tsv, write_threedpw
from model_fixtures import BODY_PARENTS, hand_fields, model_fields, published, write_sampling
from stand_in_hand import make_hand, make_hand_mesh
from tflite_file import write_pose_network, write_tflite
from yolox_file import write_yolox

from training.blazepose import BlazePose
from training.datasets.coco import COCO_17
from training.finder.network import FinderNet
from training.hrnet import HRNet
from training.mesh_files import save_mesh_spec
from training.pose_detector import PoseDetector, file_order
from training.shrink import TINY_WIDTH


def write_default(folder: Path) -> None:
    """motions.npz, networks as MediaPipe's modules and YOLOX have them, photographs, a cache of stand-ins."""
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    bank = make_bank()
    for people in ("192_1", "48_77"):
        arrays = {field.name: getattr(bank, field.name) for field in fields(bank)}
        np.savez(folder / f"bodies_{people}.npz", **arrays)
    save_mesh_spec(folder / "mesh_anny-111.npz", make_anny_like_mesh(bank))
    recordings = {name: make_recording(seed=seed) for seed, name in enumerate(("01_01", "02_01"))}
    _, names, parents = recordings["01_01"]
    positions = {name: recording[0] for name, recording in recordings.items()}
    np.savez(folder / "motions.npz", joint_names=np.array(names), parents=parents, **positions)
    networks = {
        "pose_landmark/pose_landmark_full": write_pose_network(BlazePose(joints=1, width=TINY_WIDTH)),
        "pose_detection/pose_detection": write_tflite(file_order(PoseDetector(TINY_WIDTH)), sparse=True),
    }
    for name, content in networks.items():
        path = folder / f"{name}.tflite"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(content)
    (folder / "yolox_nano.onnx").write_bytes(write_yolox(FinderNet()))
    (folder / "photographs").mkdir(exist_ok=True)
    noise = np.random.default_rng(0).integers(0, 256, (30, 40, 3), np.uint8)
    cv2.imwrite(str(folder / "photographs" / "noise.png"), noise)
    (folder / "people" / "photographs").mkdir(parents=True, exist_ok=True)
    cv2.imwrite(str(folder / "people" / "photographs" / "noise.png"), cv2.resize(noise, (80, 60)))
    person = {"image_id": 0, "bbox": [10, 10, 60, 40], "iscrowd": 0, "keypoints": [40, 30, 2] * len(COCO_17)}
    people = {"images": [{"id": 0, "file_name": "noise.png"}], "annotations": [person], "categories": []}
    (folder / "people" / "person_keypoints_photographs.json").write_text(json.dumps(people))


def write_hand(folder: Path) -> None:
    """A cache in which stand-ins lie where Anny's hands and their mesh would be kept."""
    folder.mkdir(parents=True, exist_ok=True)
    hand = make_hand()
    for people in ("192_1", "48_77"):
        np.savez(folder / f"hands_{people}.npz", **{field.name: getattr(hand, field.name) for field in fields(hand)})
    save_mesh_spec(folder / "mesh_anny-hand-75.npz", make_hand_mesh(hand))


def write_models(folder: Path) -> None:
    """SMPL, MANO, their sampling matrices and the joint regressor, under the names that METRO's users know."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "basicModel_neutral_lbs_10_207_0_v1.0.0.pkl").write_bytes(published(model_fields(6890, BODY_PARENTS)))
    (folder / "MANO_RIGHT.pkl").write_bytes(published(hand_fields(778)))
    write_sampling(folder / "mesh_downsampling.npz", (431, 1723, 6890))
    write_sampling(folder / "mano_downsampling.npz", (195, 778))
    regressor = np.random.default_rng(0).random((17, 6890)) ** 20
    np.save(folder / "J_regressor_h36m_correct.npy", regressor / regressor.sum(axis=1, keepdims=True))


def write_human36m(folder: Path) -> None:
    """METRO's mix and Human3.6M's protocol 2, the licensed models, and an HRNet as ImageNet would have left it."""
    write_models(folder / "models")
    write_metro_tsv(folder / "Tax-H36m-coco40k-Muco-UP-Mpii", rows=8, stem="train")
    write_metro_tsv(folder / "human3.6m", rows=4, stem="valid.protocol2")
    torch.save(HRNet(width=4, pooled=False).state_dict(), folder / "models" / "hrnetv2_w64_imagenet_pretrained.pth")


def write_3dpw(folder: Path) -> None:
    """3DPW as published, and the licensed models."""
    write_models(folder / "models")
    for number, split in enumerate(("train", "validation", "test")):
        write_threedpw(folder / "3DPW", split, frames=4, name=f"walk_{number:02d}")


def write_freihand_set(folder: Path) -> None:
    """FreiHAND as published, and the licensed models."""
    write_models(folder / "models")
    write_freihand(folder / "FreiHAND_pub_v2", hands=2)
    write_freihand(folder / "FreiHAND_pub_v2", hands=2, split="evaluation")
    torch.save(HRNet(width=4, pooled=True).state_dict(), folder / "models" / "hrnetv2_w64_imagenet_pretrained.pth")


KINDS: dict[str, Callable[[Path], None]] = {
    "default": write_default,
    "hand": write_hand,
    "human36m": write_human36m,
    "3dpw": write_3dpw,
    "freihand": write_freihand_set,
}


if __name__ == "__main__":
    KINDS[sys.argv[1]](Path(sys.argv[2]))
