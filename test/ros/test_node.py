"""The node on real DDS: what goes in comes out right, under the right header, and only when someone listens."""

import numpy as np
import pytest
from conftest import FRAME_ID, MATRIX, camera_info, image_message, person
from metro_msgs.msg import Person
from sensor_msgs.msg import CompressedImage
from tiny_bundle import make_tiny_bundle, person_image
from tiny_detector import Blobs
from visualization_msgs.msg import Marker

from metro_ros.core.camera import Camera
from metro_ros.core.engines import open_engine
from metro_ros.core.estimator import Estimator
from metro_ros.core.mirror import mirror_bundle
from metro_ros.ros import outputs


def test_people_are_those_of_the_estimator(stage, tiny_bundle):
    s = stage()
    s.start()
    s.listen("people")
    message = s.answer(image_message(person()))
    camera = Camera(160, 120, MATRIX, np.zeros(5), "plumb_bob")
    (expected,) = Estimator(tiny_bundle, open_engine(tiny_bundle, "onnxruntime", threads=1))(person(), camera)
    (found,) = message.persons
    assert message.model == "tiny" and found.id == expected.id
    assert np.allclose(np.reshape(found.joints, (-1, 3)), expected.joints, atol=1e-5)
    assert np.allclose(np.reshape(found.vertices, (-1, 3)), expected.vertices, atol=1e-5)
    assert np.allclose(found.joint_confidence, expected.joint_confidence)
    translation = (found.translation.x, found.translation.y, found.translation.z)
    assert np.allclose(translation, expected.translation, atol=1e-5)
    corner = (found.box_x + found.box_width / 2, found.box_y + found.box_height / 2)
    assert np.allclose(corner, (expected.box.cx, expected.box.cy), atol=1e-3)
    assert found.translation_source == Person.TRANSLATION_CAMERA


def test_every_message_carries_the_header_of_its_image(stage):
    s = stage()
    s.start()
    s.listen("people", "joints", "mesh")
    for seconds in (3.000000007, 4.25, 1_700_000_000.999):
        image = image_message(person(), seconds, frame_id=f"lens_{int(seconds)}")
        for topic in ("people", "joints", "mesh"):
            answer = s.answer(image, topic)
            headers = [m.header for m in answer.markers] if topic == "joints" else [answer.header]
            assert headers and all(header == image.header for header in headers)


def test_joints_and_mesh_show_the_person(stage, tiny_bundle):
    s = stage()
    s.start()
    s.listen("people", "joints", "mesh")
    image = image_message(person())
    (found,) = s.answer(image).persons
    joints, vertices = (np.reshape(values, (-1, 3)) for values in (found.joints, found.vertices))

    spheres, bones = s.answer(image, "joints").markers
    assert np.allclose([(p.x, p.y, p.z) for p in spheres.points], joints)
    assert len(bones.points) == 2 * len(tiny_bundle.skeleton.bones())
    parent, child = tiny_bundle.skeleton.bones()[0]
    assert np.allclose([(p.x, p.y, p.z) for p in bones.points[:2]], joints[[parent, child]])

    mesh = s.answer(image, "mesh")
    level = len(tiny_bundle.levels) // 2
    corners = vertices[tiny_bundle.rows[level]][tiny_bundle.faces[level].ravel()]
    assert np.allclose([(p.x, p.y, p.z) for p in mesh.points], corners)
    assert (mesh.type, mesh.id) == (Marker.TRIANGLE_LIST, found.id)
    assert mesh.color == spheres.color and mesh.color.a == 1.0
    assert mesh.lifetime.sec >= 1, "a marker must not stay for ever when the node dies"


def test_who_is_gone_is_deleted_and_nobody_else(stage):
    s = stage()
    s.start()
    s.listen("joints", "mesh")
    shown = s.answer(image_message(person(), 1.0), "mesh")
    gone = image_message(np.zeros_like(person()), 2.0)
    deleted = s.answer(gone, "mesh")
    assert (deleted.action, deleted.ns, deleted.id) == (Marker.DELETE, shown.ns, shown.id)
    markers = s.answer(gone, "joints").markers
    assert {(m.ns, m.id, m.action) for m in markers} == {
        ("joints", shown.id, Marker.DELETE),
        ("bones", shown.id, Marker.DELETE),
    }
    back = s.answer(image_message(person(), 3.0), "mesh")
    assert back.action == Marker.ADD and back.id != shown.id
    assert all(m.action != Marker.DELETEALL for m in s.heard["mesh"])


def test_of_several_people_only_who_is_hidden_is_deleted_and_comes_back_as_itself(stage, tiny_bundle):
    s = stage()
    s.start()
    (feed,) = s.metro._feeds
    feed.estimator = Estimator(tiny_bundle, feed.estimator.engine, detector=Blobs())
    s.listen("people", "joints", "mesh")
    left, right = (person_image(160, 120, (x, 60), 40) for x in (40, 120))
    ids, deleted = [], []
    for second, image in enumerate((left + right, right, left + right), 1):
        message = image_message(image, float(second))
        ids.append({found.id for found in s.answer(message).persons})
        markers = [m for m in s.answer(message, "joints").markers if m.action == Marker.DELETE]
        deleted.append({(m.ns, m.id) for m in markers})
    both, one, again = ids
    (gone,) = both - one
    assert len(both) == 2 and again == both
    assert deleted == [set(), {("joints", gone), ("bones", gone)}, set()]

    def meshes(action):
        return {m.id for m in s.heard["mesh"] if m.action == action}

    s.wait(lambda: meshes(Marker.ADD) == both and meshes(Marker.DELETE) == {gone}, "the meshes")


def test_an_empty_scene_is_published_as_such(stage):
    s = stage()
    s.start()
    s.listen("people")
    assert s.answer(image_message(np.zeros_like(person()))).persons == []


def test_without_calibration_the_message_says_so(stage):
    s = stage()
    s.start(calibrated=False)
    s.listen("people")
    (guessed,) = s.answer(image_message(person(), 1.0)).persons
    assert guessed.translation_source == Person.TRANSLATION_NOMINAL
    s.calibrate(camera_info())
    (measured,) = s.answer(image_message(person(), 2.0)).persons
    assert measured.translation_source == Person.TRANSLATION_CAMERA
    # The nominal camera has a shorter focal length, so it takes the same person to be nearer.
    assert guessed.translation.z < 0.95 * measured.translation.z


def test_topology_is_there_for_whoever_comes_late_and_once(stage, tiny_bundle):
    s = stage()
    s.start()
    s.listen("people")
    s.answer(image_message(person()))
    s.listen("topology")
    s.wait(lambda: bool(s.heard["topology"]), "the topology")
    s.answer(image_message(person(), 2.0))
    (topology,) = s.heard["topology"]
    assert topology.model == "tiny"
    assert tuple(topology.joint_names) == tiny_bundle.skeleton.names
    assert tuple(topology.joint_parents) == tiny_bundle.skeleton.parents
    assert tuple(topology.level_vertex_counts) == tiny_bundle.levels
    faces = np.split(np.array(topology.level_faces).reshape(-1, 3), np.cumsum(topology.level_face_counts)[:-1])
    rows = np.split(np.array(topology.level_rows), np.cumsum(topology.level_vertex_counts)[:-1])
    for level in range(len(tiny_bundle.levels)):
        assert np.array_equal(faces[level], tiny_bundle.faces[level])
        assert np.array_equal(rows[level], tiny_bundle.rows[level])


def test_nothing_is_computed_for_nobody(stage):
    s = stage()
    s.start()
    s.listen("diagnostics")
    s.send_until(image_message(person()), lambda: int(s.diagnosed().get("frames_unwatched", 0)) >= 3)
    assert s.diagnosed()["frames_done"] == "0"
    s.listen("people")
    s.answer(image_message(person(), 2.0))
    s.wait(lambda: int(s.diagnosed()["frames_done"]) >= 1, "a frame done for someone")
    assert float(s.diagnosed()["latency_ms_p50"]) > 0


@pytest.mark.parametrize("heard", ["people", "joints", "mesh"])
def test_only_what_is_heard_is_made(stage, monkeypatch, heard):
    made = []
    for topic, owner, name in (
        ("people", outputs, "people_to_message"),
        ("joints", outputs.JointWriter, "write"),
        ("mesh", outputs.MeshWriter, "write"),
    ):
        original = getattr(owner, name)

        def spy(*arguments, original=original, topic=topic):
            made.append(topic)
            return original(*arguments)

        monkeypatch.setattr(owner, name, spy)
    s = stage()
    s.start()
    s.listen(heard)
    s.answer(image_message(person()), heard)
    assert set(made) == {heard}


@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_compressed_images(stage, extension):
    import cv2

    s = stage(transport="compressed")
    assert s.metro.start()
    publisher = s.node.create_publisher(CompressedImage, "image/compressed", 5)
    s.wait(lambda: publisher.get_subscription_count() > 0, "a subscriber of the compressed image")
    s.listen("people")
    message = CompressedImage(format=extension[1:], data=cv2.imencode(extension, person())[1].tobytes())
    message.header = image_message(person(), 5.0).header
    (found,) = s.answer(message, publisher=publisher).persons
    assert abs(found.box_x + found.box_width / 2 - 80) < 2


def test_a_rectified_image_is_placed_by_the_projection_matrix(stage):
    s = stage(rectified="true")
    s.start(calibrated=False)
    s.listen("people")
    info = camera_info(matrix=MATRIX * 3)
    info.d = [0.9, 0.0, 0.0, 0.0, 0.0]
    info.p = np.hstack((MATRIX, np.zeros((3, 1)))).ravel()
    s.calibrate(info)
    (found,) = s.answer(image_message(person())).persons
    # 80 px of a 1.8 m body at 150 px focal length
    assert found.translation.z == pytest.approx(1.8 * 150 / 80, rel=0.1)
    assert s.heard["people"][-1].header.frame_id == FRAME_ID


def test_hands_and_their_mirror_images(stage, hand_bundle):
    """21 joints, no hips, no confidence; `mirror` makes the model find left hands, shown with outward faces."""
    image = person_image(160, 120, (100, 60), 80, hand=True)
    camera = Camera(160, 120, MATRIX, np.zeros(5), "plumb_bob")
    left_bundle = mirror_bundle(hand_bundle)
    engine = open_engine(hand_bundle, "onnxruntime", threads=1)
    (expected,) = Estimator(left_bundle, engine)(image, camera)
    s = stage(bundle=hand_bundle.path, mirror="true")
    s.start()
    s.listen("people", "mesh", "joints", "topology")
    (found,) = s.answer(image_message(image)).persons
    assert len(found.joints) == 3 * 21 and len(found.joint_confidence) == 0
    assert np.allclose(np.reshape(found.joints, (-1, 3)), expected.joints, atol=1e-5)
    assert np.allclose(np.reshape(found.vertices, (-1, 3)), expected.vertices, atol=1e-5)
    wrist = (found.translation.x, found.translation.y, found.translation.z)
    assert np.allclose(wrist, expected.joints[0], atol=1e-5)

    mesh = s.answer(image_message(image, 2.0), "mesh")
    shown = np.array([(p.x, p.y, p.z) for p in mesh.points]).reshape(-1, 3, 3)
    outward = np.cross(shown[:, 1] - shown[:, 0], shown[:, 2] - shown[:, 0])
    assert np.all((outward * (shown.mean(axis=1) - shown.mean(axis=(0, 1)))).sum(axis=1) > 0)
    bones, joints = s.answer(image_message(image, 3.0), "joints").markers[::-1]
    assert len(joints.points) == 21 and len(bones.points) == 2 * 20
    # A hand of 0.2 m gets spheres of millimetres, where a body's are of 5 cm.
    assert joints.scale.x == pytest.approx(0.0054) and bones.scale.x == pytest.approx(0.0022)
    s.wait(lambda: bool(s.heard["topology"]), "the topology")
    faces = np.array(s.heard["topology"][0].level_faces).reshape(-1, 3)
    assert np.array_equal(faces, np.concatenate(left_bundle.faces))


def test_set_sizes_of_markers_count(stage):
    s = stage(joint_diameter_m=0.11, bone_width_m=0.03)
    s.start()
    s.listen("joints")
    joints, bones = s.answer(image_message(person()), "joints").markers
    assert (joints.scale.x, bones.scale.x) == (0.11, 0.03)


def test_a_model_without_faces_has_people_but_no_surface(stage, tmp_path):
    """Imported from a template alone."""
    s = stage(bundle=make_tiny_bundle(tmp_path / "points", faces=False).path)
    s.start()
    s.listen("people", "mesh", "joints", "diagnostics")
    assert s.answer(image_message(person())).persons
    assert s.answer(image_message(person(), 2.0), "joints").markers
    s.wait(lambda: int(s.diagnosed().get("frames_done", 0)) >= 2, "the count of frames")
    assert not s.heard["mesh"] and not [name for name in s.diagnosed() if name.startswith("errors_")]
