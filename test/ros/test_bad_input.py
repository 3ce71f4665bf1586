"""Whatever a camera, a user or a damaged file does: refused by name, counted, and the next good image is answered."""

import numpy as np
import pytest
from conftest import camera_info, image_message, person
from metro_msgs.msg import Person
from sensor_msgs.msg import CompressedImage, Image
from tiny_bundle import RED_BGR, make_tiny_bundle

GOOD = person()


def lying(**lies) -> Image:
    message = image_message(GOOD)
    for name, value in lies.items():
        setattr(message, name, value)
    return message


def nameless() -> Image:
    return image_message(GOOD, frame_id="")


def red() -> Image:
    pixels = GOOD.copy()
    pixels[55:65, 75:85] = RED_BGR
    return image_message(pixels)


@pytest.mark.parametrize(
    ("message", "error", "word"),
    [
        (lying(step=100), "ImageError", "step"),
        (lying(step=600), "ImageError", "size"),
        (lying(height=121), "ImageError", "size"),
        (lying(height=119), "ImageError", "size"),
        (lying(data=b""), "ImageError", "size"),
        (lying(width=0, height=0, step=0, data=b""), "ImageError", "empty"),
        (lying(width=2**32 - 1, height=2**32 - 1), "ImageError", "step"),
        (lying(encoding="16UC1", step=320), "ImageError", "encoding"),
        (lying(encoding="mono16", step=320), "ImageError", "encoding"),
        (lying(encoding="no such encoding"), "ImageError", "encoding"),
        (lying(encoding=""), "ImageError", "encoding"),
        (nameless(), "ImageError", "frame_id"),
        (image_message(np.zeros((1, 1, 3), np.uint8)), "ImageError", "small"),
        (red(), "EngineError", "finite"),
    ],
)
def test_a_bad_image_is_refused_and_the_next_answered(stage, message, error, word):
    s = stage()
    s.start()
    s.listen("people", "diagnostics")
    s.send_until(message, lambda: f"errors_{error}" in s.diagnosed())
    assert word in s.diagnosed()["last_error"]
    assert s.heard["people"] == []
    warned = [status for report in s.heard["diagnostics"] for status in report.status if status.level == b"\x01"]
    assert warned and "refused" in warned[0].message
    assert len(s.answer(image_message(person(), 9.0)).persons) == 1


@pytest.mark.parametrize("kept", [0, 2, 100, -1, -2])
@pytest.mark.parametrize("extension", [".jpg", ".png"])
def test_a_truncated_compressed_image_is_refused_and_the_next_answered(stage, kept, extension):
    import cv2

    s = stage(transport="compressed")
    assert s.metro.start()
    publisher = s.node.create_publisher(CompressedImage, "image/compressed", 5)
    s.wait(lambda: publisher.get_subscription_count() > 0, "a subscriber of the compressed image")
    s.listen("people", "diagnostics")
    data = cv2.imencode(extension, person())[1].tobytes()
    cut = CompressedImage(header=image_message(GOOD).header, format=extension[1:], data=data[:kept])
    s.send_until(cut, lambda: "errors_ImageError" in s.diagnosed(), publisher)
    assert s.heard["people"] == []
    whole = CompressedImage(header=image_message(GOOD, 2.0).header, format=extension[1:], data=data)
    assert len(s.answer(whole, publisher=publisher).persons) == 1


def test_an_impossible_calibration_is_named_and_the_nominal_camera_used(stage):
    s = stage()
    s.start(calibrated=False)
    s.listen("people", "diagnostics")
    info = camera_info()
    info.distortion_model = "made_up"
    s.calibrate(info)
    s.wait(lambda: "errors_CameraError" in s.diagnosed(), "the complaint")
    (found,) = s.answer(image_message(person())).persons
    assert found.translation_source == Person.TRANSLATION_NOMINAL


def test_the_resolution_may_change_in_mid_stream(stage):
    s = stage()
    s.start()
    s.listen("people", "diagnostics")
    (before,) = s.answer(image_message(person(), 1.0)).persons
    (between,) = s.answer(image_message(person(160, 320, 240), 2.0)).persons
    assert between.translation_source == Person.TRANSLATION_NOMINAL, "the calibration was for another size"
    s.wait(lambda: int(s.diagnosed().get("frames_uncalibrated", 0)) >= 1, "the count of it")
    s.calibrate(camera_info(320, 240, np.diag((2.0, 2.0, 1.0)) @ camera_info().k.reshape(3, 3)))
    (after,) = s.answer(image_message(person(160, 320, 240), 3.0)).persons
    assert after.translation_source == Person.TRANSLATION_CAMERA
    assert after.translation.z == pytest.approx(before.translation.z, rel=0.05)
    assert after.box_width == pytest.approx(2 * before.box_width, rel=0.05)


def test_the_clock_may_jump_back(stage):
    s = stage()
    s.start()
    s.listen("people", "diagnostics")
    (before,) = s.answer(image_message(person(), 1000.0)).persons
    (follows,) = s.answer(image_message(person(), 1000.1)).persons
    (after,) = s.answer(image_message(person(), 5.0)).persons
    assert before.id == follows.id != after.id
    s.wait(lambda: s.diagnosed().get("clock_jumps_back") == "1", "the count of it")


def damaged(tmp_path, damage: str):
    make_tiny_bundle(tmp_path / "bundle", nan_weights=damage == "NaN weights")
    if damage == "wrong hash":
        with (tmp_path / "bundle" / "model.onnx").open("ab") as file:
            file.write(b"\0")
    elif damage == "missing file":
        (tmp_path / "bundle" / "mesh.npz").unlink()
    elif damage == "no manifest":
        (tmp_path / "bundle" / "manifest.json").unlink()
    return tmp_path / "bundle"


@pytest.mark.parametrize("damage", ["wrong hash", "missing file", "no manifest", "NaN weights"])
def test_a_damaged_bundle_fails_to_configure_and_a_good_one_then_does(stage, tiny_bundle, tmp_path, damage):
    from rclpy.lifecycle import TransitionCallbackReturn
    from rclpy.parameter import Parameter

    s = stage(bundle=damaged(tmp_path, damage))
    before = set(publisher.topic_name for publisher in s.metro.publishers)
    assert s.metro.trigger_configure() == TransitionCallbackReturn.FAILURE
    assert set(publisher.topic_name for publisher in s.metro.publishers) == before, "what was begun must be undone"
    (result,) = s.metro.set_parameters([Parameter("bundle", value=str(tiny_bundle.path))])
    assert result.successful
    s.start()
    s.listen("people")
    assert len(s.answer(image_message(person())).persons) == 1
