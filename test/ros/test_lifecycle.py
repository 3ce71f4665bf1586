"""Up, down and up again, parameters at run time, and the process from start to Ctrl-C."""

import os
import signal
import subprocess
import sys
from typing import get_args

import pytest
import rclpy
from conftest import Audience, fresh_domain, image_message, person
from lifecycle_msgs.msg import State, Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import DescribeParameters, ListParameters, SetParameters
from rclpy.parameter import Parameter
from visualization_msgs.msg import Marker

from metro_ros.core.engines import EngineName


def call(s, kind, name, request):
    client = s.node.create_client(kind, f"/metro/{name}")
    s.wait(client.service_is_ready, name)
    future = client.call_async(request)
    s.wait(future.done, f"an answer of {name}")
    s.node.destroy_client(client)
    return future.result()


def change(s, transition: int) -> bool:
    return call(s, ChangeState, "change_state", ChangeState.Request(transition=Transition(id=transition))).success


def state(s) -> int:
    return call(s, GetState, "get_state", GetState.Request()).current_state.id


def set_parameter(s, name, value):
    request = SetParameters.Request(parameters=[Parameter(name, value=value).to_parameter_msg()])
    (result,) = call(s, SetParameters, "set_parameters", request).results
    return result


def topics(s) -> set[str]:
    return {publisher.topic_name for publisher in s.metro.publishers}


ENGINES = " or ".join(get_args(EngineName))
OUTPUTS = {"/metro/people", "/metro/joints", "/metro/mesh", "/metro/topology", "/diagnostics"}


def test_up_and_down_and_up_again(stage):
    s = stage()
    assert state(s) == State.PRIMARY_STATE_UNCONFIGURED and not OUTPUTS & topics(s)
    s.listen()
    for seconds in (1.0, 2.0):
        assert change(s, Transition.TRANSITION_CONFIGURE)
        assert state(s) == State.PRIMARY_STATE_INACTIVE and topics(s) >= OUTPUTS
        assert s.image.get_subscription_count() == 0
        assert change(s, Transition.TRANSITION_ACTIVATE)
        s.wait_for_inputs()
        s.listen("people", "mesh")
        assert len(s.answer(image_message(person(), seconds)).persons) == 1
        shown = s.answer(image_message(person(), seconds), "mesh")
        assert change(s, Transition.TRANSITION_DEACTIVATE)
        s.wait(lambda: s.image.get_subscription_count() == 0, "the end of the subscription")
        s.wait(lambda: s.heard["mesh"][-1].action == Marker.DELETE, "the removal of the marker")
        assert s.heard["mesh"][-1].id == shown.id
        assert change(s, Transition.TRANSITION_CLEANUP)
        assert not OUTPUTS & topics(s)
    assert change(s, Transition.TRANSITION_UNCONFIGURED_SHUTDOWN)
    assert state(s) == State.PRIMARY_STATE_FINALIZED


def test_active_again_without_cleanup(stage):
    s = stage()
    s.start()
    s.listen("people")
    s.answer(image_message(person(), 1.0))
    assert change(s, Transition.TRANSITION_DEACTIVATE)
    s.wait(lambda: s.image.get_subscription_count() == 0, "the end of the subscription")
    assert change(s, Transition.TRANSITION_ACTIVATE)
    s.wait_for_inputs()
    assert len(s.answer(image_message(person(), 2.0)).persons) == 1


def test_shutdown_from_active(stage):
    s = stage()
    s.start()
    assert change(s, Transition.TRANSITION_ACTIVE_SHUTDOWN)
    assert state(s) == State.PRIMARY_STATE_FINALIZED and not OUTPUTS & topics(s)


def test_a_parameter_changed_at_run_time_counts_from_the_next_frame_on(stage, tiny_bundle):
    s = stage()
    s.start()
    s.listen("mesh", "people")
    middle, finest = tiny_bundle.faces[len(tiny_bundle.levels) // 2], tiny_bundle.faces[-1]
    assert len(s.answer(image_message(person(), 1.0), "mesh").points) == 3 * len(middle)
    assert set_parameter(s, "mesh_level", tiny_bundle.levels[-1]).successful
    assert len(s.answer(image_message(person(), 2.0), "mesh").points) == 3 * len(finest)
    assert len(s.answer(image_message(person(), 2.0)).persons) == 1
    assert set_parameter(s, "estimator.min_score", 1.0).successful
    dim = (person() * 0.6).astype("uint8")
    assert s.answer(image_message(dim, 3.0)).persons == []
    assert set_parameter(s, "estimator.min_score", 0.3).successful
    assert len(s.answer(image_message(dim, 4.0)).persons) == 1


@pytest.mark.parametrize(
    ("name", "value", "word"),
    [
        ("mesh_level", 7, "18 or 66 or 258"),
        ("mesh_level", -1, "range"),
        ("marker_lifetime_s", -1.0, "range"),
        ("joint_diameter_m", 5.0, "range"),
        ("estimator.min_score", 1.5, "range"),
        ("estimator.padding", 0.5, "padding"),
        ("estimator.min_score", float("nan"), ""),
        ("engine", "onnxruntime", "clean up first"),
        ("bundle", "/tmp", "clean up first"),
        ("mirror", True, "clean up first"),
        ("cameras", ["front"], "clean up first"),
        ("cameras", [1, 2], ""),
        ("engine", 3, ""),
    ],
)
def test_a_bad_value_is_refused_and_the_old_one_kept(stage, name, value, word):
    s = stage()
    s.start()
    before = s.metro.get_parameter(name).value
    result = set_parameter(s, name, value)
    assert not result.successful and word in result.reason
    assert s.metro.get_parameter(name).value == before
    s.listen("people")
    assert len(s.answer(image_message(person())).persons) == 1


def test_an_optional_number_can_be_set_and_unset(stage):
    s = stage()
    s.start()
    s.listen("people")
    (model_s_own,) = s.answer(image_message(person(), 1.0)).persons
    assert set_parameter(s, "estimator.padding", 2.5).successful
    s.answer(image_message(person(), 2.0))  # boxes follow from one frame to the next
    (wide,) = s.answer(image_message(person(), 3.0)).persons
    assert wide.box_width == pytest.approx(2 * model_s_own.box_width, rel=0.05)
    assert set_parameter(s, "estimator.padding", 0.0).successful
    s.answer(image_message(person(), 4.0))
    (again,) = s.answer(image_message(person(), 5.0)).persons
    assert again.box_width == pytest.approx(model_s_own.box_width, rel=0.02)


def test_every_parameter_describes_itself(stage):
    s = stage()
    names = call(s, ListParameters, "list_parameters", ListParameters.Request()).result.names
    ours = [name for name in names if not name.startswith(("qos_overrides", "use_sim_time", "start_type_description"))]
    assert {"mesh_level", "estimator.max_passes", "bundle"} <= set(ours)
    described = call(s, DescribeParameters, "describe_parameters", DescribeParameters.Request(names=ours)).descriptors
    assert all(descriptor.description for descriptor in described)
    by_name = {descriptor.name: descriptor for descriptor in described}
    (passes,) = by_name["estimator.max_passes"].integer_range
    assert (passes.from_value, passes.to_value) == (1, 10)
    (score,) = by_name["estimator.min_score"].floating_point_range
    assert (score.from_value, score.to_value) == (0.0, 1.0)
    assert by_name["engine"].additional_constraints == ENGINES


def test_qos_is_overridable_and_the_mesh_queue_holds_two_per_person(stage):
    s = stage(arguments=("-p", "qos_overrides./metro/mesh.publisher.depth:=16"))
    s.start()
    assert s.metro.get_parameter("qos_overrides./metro/mesh.publisher.depth").value == 16
    assert s.metro.get_parameter("qos_overrides./metro/people.publisher.reliability").value == "reliable"
    assert s.metro.get_parameter("qos_overrides./image.subscription.reliability").value == "best_effort"
    (info,) = s.node.get_publishers_info_by_topic("/metro/topology")
    assert info.qos_profile.durability == rclpy.qos.DurabilityPolicy.TRANSIENT_LOCAL


def run_node(domain: int, *parameters: str) -> subprocess.Popen[str]:
    words = [word for parameter in parameters for word in ("-p", parameter)]
    environment = {**os.environ, "ROS_DOMAIN_ID": str(domain)}
    command = [sys.executable, "-m", "metro_ros.ros.node", "--ros-args", *words]
    return subprocess.Popen(command, env=environment, text=True, stderr=subprocess.PIPE, stdout=subprocess.PIPE)


@pytest.mark.parametrize(
    ("parameter", "word"),
    [
        ("bundle:=/no/such/bundle", "no model bundle"),
        ("mirror:=true", "cannot be mirrored"),  # the built-in model is a body
        ("mesh_level:=-4", "out of range"),
        ("mesh_level:=many", "STRING"),
        ("cameras:=[front, front]", "each name once"),
        ("engine:=abacus", ENGINES),
    ],
)
def test_a_bad_start_ends_with_one_line_and_2(parameter, word):
    process = run_node(fresh_domain(), parameter)
    output, errors = process.communicate(timeout=60)
    assert process.returncode == 2
    assert word in errors and "Traceback" not in errors + output
    assert len((errors + output).strip().splitlines()) == 1


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_process_answers_and_ends_cleanly_when_interrupted(tiny_bundle, number):
    domain = fresh_domain()
    process = run_node(domain, f"bundle:={tiny_bundle.path}", "engine:=onnxruntime", "diagnostics_period_s:=0.1")
    rclpy.init(domain_id=domain)
    audience = Audience()
    try:
        audience.listen("people")
        audience.wait_for_inputs()
        assert len(audience.answer(image_message(person())).persons) == 1
        process.send_signal(number)
        _, errors = process.communicate(timeout=60)
    finally:
        process.kill()
        audience.close()
    assert process.returncode == 0, errors
    assert "Traceback" not in errors
