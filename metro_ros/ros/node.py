"""The lifecycle node `metro`: a camera topic in, people, joints and meshes out."""

import contextlib
import logging
import math
import sys
import time
import traceback
from contextlib import ExitStack
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy._rclpy_pybind11 import RCLError
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from rclpy.qos import QoSProfile, ReliabilityPolicy
from sensor_msgs.msg import CameraInfo, CompressedImage, Image

from metro_ros.core.bundle import default_bundle_path, load_bundle
from metro_ros.core.camera import NOMINAL_FOV_DEG, Camera
from metro_ros.core.engines import open_engine
from metro_ros.core.errors import CameraError, ConfigError, MetroError
from metro_ros.core.estimator import Estimator, EstimatorConfig
from metro_ros.core.mirror import mirror_bundle
from metro_ros.ros.conversions import camera_from_message, image_from_message, stamp_seconds
from metro_ros.ros.diagnostics import Statistics
from metro_ros.ros.outputs import Outputs, mesh_level, overridable, reliable
from metro_ros.ros.params import FIXED, NodeConfig, declare, read
from metro_ros.ros.worker import Worker

ESTIMATOR = "estimator."
"""Prefix of the parameters of EstimatorConfig."""
LOG_PERIOD_S = 5.0
"""A complaint about the stream is repeated no more often; diagnostics count them all."""


class Frame(NamedTuple):
    """An image message and when it came, seconds of the monotonic clock."""

    message: Image | CompressedImage
    arrived_s: float


class MetroNode(LifecycleNode):
    """configure loads the model and creates the publishers, activate subscribes; deactivate and cleanup undo that."""

    def __init__(self) -> None:
        """Declare the parameters. Raises ConfigError or rclpy's own errors when one was set to nonsense."""
        super().__init__("metro")
        self.config = declare(self, NodeConfig)
        self._estimator_config = declare(self, EstimatorConfig, ESTIMATOR)
        self._statistics = Statistics()
        self._configured = ExitStack()  # what cleanup undoes, the last first
        self._active = ExitStack()  # what deactivate undoes
        self._estimator: Estimator | None = None
        self._camera: Camera | None = None
        self._camera_key: tuple | None = None
        self._last_stamp_s = -math.inf
        self.add_on_set_parameters_callback(self._set_parameters)

    def start(self) -> bool:
        """Configure and activate, for those who run no lifecycle manager. Whether both went well."""
        success = TransitionCallbackReturn.SUCCESS
        return self.trigger_configure() == success and self.trigger_activate() == success

    def stop(self) -> None:
        """Undo everything, in whatever state the node is. For the end of the process."""
        self._active.close()
        self._configured.close()

    # Transitions. rclpy swallows what they raise, so each failure is logged here.

    def on_configure(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Load bundle and engine, create the publishers, publish the topology."""
        try:
            self._configure()
            return super().on_configure(state)
        except MetroError as error:
            self.get_logger().error(str(error))
        except Exception:
            self.get_logger().error(f"cannot configure: {traceback.format_exc()}")
        self._configured.close()
        return TransitionCallbackReturn.FAILURE

    def on_activate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Start the worker and subscribe."""
        result = super().on_activate(state)
        self._activate()
        return result

    def on_deactivate(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Unsubscribe, let the worker finish its frame, take the markers away."""
        self._active.close()
        return super().on_deactivate(state)

    def on_cleanup(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Give publishers, engine and model back."""
        self._configured.close()
        return super().on_cleanup(state)

    def on_shutdown(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Undo everything."""
        self.stop()
        return super().on_shutdown(state)

    def on_error(self, state: LifecycleState) -> TransitionCallbackReturn:
        """Undo everything; the node is unconfigured again and can be given better parameters."""
        self.stop()
        return super().on_error(state)

    def _configure(self) -> None:
        config = self.config
        bundle = load_bundle(config.bundle or default_bundle_path())
        if config.mirror:
            bundle = mirror_bundle(bundle)
        mesh_level(config, bundle)
        engine = open_engine(bundle, config.engine, config.precision, config.threads or None)
        self._configured.callback(engine.close)
        self._estimator = Estimator(bundle, engine, self._estimator_config)
        self._configured.callback(setattr, self, "_estimator", None)
        self._outputs = Outputs(self, bundle)
        self._configured.callback(self._outputs.destroy)
        self._diagnostics = self.create_publisher(
            DiagnosticArray, "/diagnostics", reliable(10), qos_overriding_options=overridable()
        )
        self._configured.callback(self.destroy_publisher, self._diagnostics)
        timer = self.create_timer(config.diagnostics_period_s, self._diagnose)
        self._configured.callback(self.destroy_timer, timer)
        self.get_logger().info(f"model {bundle.manifest.name} on {engine.name} {engine.precision}")

    def _activate(self) -> None:
        self._active.callback(self._outputs.clear)
        self._worker = Worker(self._handle, self._failed)
        self._active.callback(self._worker.stop)
        topic, kind = "image", Image
        if self.config.transport == "compressed":  # beside the image topic wherever that was remapped to
            topic, kind = self.resolve_topic_name("image") + "/compressed", CompressedImage
        for message_type, name, callback in (
            (CameraInfo, "camera_info", self._on_camera_info),
            (kind, topic, self._on_image),
        ):
            qos = QoSProfile(depth=1, reliability=ReliabilityPolicy.BEST_EFFORT)
            subscription = self.create_subscription(
                message_type, name, callback, qos, qos_overriding_options=overridable()
            )
            self._active.callback(self.destroy_subscription, subscription)
        self.get_logger().info(f"listening to {subscription.topic_name}")

    # The stream. The two callbacks run in the executor, what follows them in the worker's thread.

    def _on_image(self, message: Image | CompressedImage) -> None:
        self._statistics.add("frames_received")
        if not self._outputs.watched():
            self._statistics.add("frames_unwatched")
        elif self._worker.put(Frame(message, time.monotonic())):
            self._statistics.add("frames_dropped")

    def _on_camera_info(self, info: CameraInfo) -> None:
        numbers = (*info.k, *info.p, *info.d, info.width, info.height, info.binning_x, info.binning_y)
        roi = (info.roi.x_offset, info.roi.y_offset, info.roi.width, info.roi.height)
        key = (info.distortion_model, numbers, roi, self.config.rectified)
        if key == self._camera_key:
            return
        self._camera_key = key
        try:
            self._camera = camera_from_message(info, self.config.rectified)
        except CameraError as error:
            self._camera = None
            self._failed(error)

    def _handle(self, frame: Frame) -> None:
        header = frame.message.header
        image = image_from_message(frame.message)
        stamp_s = stamp_seconds(header)
        if stamp_s < self._last_stamp_s:
            self._statistics.add("clock_jumps_back")
            self.get_logger().warning(
                f"the image clock went back by {self._last_stamp_s - stamp_s:.3f} s: starting over",
                throttle_duration_sec=LOG_PERIOD_S,
            )
        self._last_stamp_s = stamp_s
        assert self._estimator is not None  # the worker lives only while the node is configured
        people = self._estimator(image, self._camera_for(image), stamp_s)
        self._outputs.publish(people, header, self.config)
        self._statistics.add("frames_done")
        self._statistics.add_latency((time.monotonic() - frame.arrived_s) * 1e3)

    def _camera_for(self, image: npt.NDArray[np.uint8]) -> Camera | None:
        """The calibration, if it is for this image; else None, and distances are a guess that the messages name so."""
        camera, size = self._camera, image.shape[1::-1]
        if camera is None:
            problem = "no calibration in camera_info"
        elif (camera.width, camera.height) != size:
            problem = f"camera_info is for {camera.width}x{camera.height}, the image has {size[0]}x{size[1]}"
        else:
            return camera
        self._statistics.add("frames_uncalibrated")
        self.get_logger().warning(
            f"{problem}: assuming {NOMINAL_FOV_DEG:.0f} degrees of view, distances are a guess",
            throttle_duration_sec=LOG_PERIOD_S,
        )
        return None

    def _failed(self, error: Exception) -> None:
        """Count and name what went wrong with a message; the stream goes on."""
        if not self.context.ok():  # nothing can be published while the process ends
            return
        self._statistics.add_error(error)
        if isinstance(error, MetroError):
            self.get_logger().warning(f"message refused: {error}", throttle_duration_sec=LOG_PERIOD_S)
        else:
            trace = "".join(traceback.format_exception(error))
            self.get_logger().error(f"frame lost, please report: {trace}", throttle_duration_sec=LOG_PERIOD_S)

    def _diagnose(self) -> None:
        report = self._statistics.report(self.get_clock().now().to_msg(), self.get_fully_qualified_name())
        if self._diagnostics.get_subscription_count():
            self._diagnostics.publish(report)

    def _set_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        """Refuse what is out of range or fixed while configured; everything else counts from the next frame on."""
        try:
            config = read(self, NodeConfig, changes=parameters)
            estimator_config = read(self, EstimatorConfig, ESTIMATOR, parameters)
            if self._estimator is not None:
                fixed = sorted(FIXED & {parameter.name for parameter in parameters})
                if fixed:
                    raise ConfigError(f"{', '.join(fixed)} cannot change now", remedy="deactivate and clean up first")
                mesh_level(config, self._estimator.bundle)
                self._estimator.config = estimator_config
        except MetroError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.config, self._estimator_config = config, estimator_config
        return SetParametersResult(successful=True)


class RosLogHandler(logging.Handler):
    """Passes what the ROS-free core logs on to the node's log."""

    def __init__(self, node: LifecycleNode) -> None:
        super().__init__(logging.INFO)
        self._logger = node.get_logger().get_child("core")

    def emit(self, record: logging.LogRecord) -> None:
        """Keep the level: warnings and worse are warnings here."""
        if record.levelno >= logging.WARNING:
            self._logger.warning(record.getMessage())
        else:
            self._logger.info(record.getMessage())


def main(arguments: list[str] | None = None) -> int:
    """Run the node until it is interrupted. 0, or 2 when its parameters or its model are no good."""
    rclpy.init(args=arguments)
    node = None
    try:
        node = MetroNode()
        core_log = logging.getLogger("metro_ros")
        core_log.setLevel(logging.INFO)
        core_log.addHandler(RosLogHandler(node))
        if node.config.autostart and not node.start():
            return 2
        rclpy.spin(node)
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except (MetroError, InvalidParameterTypeException, InvalidParameterValueException) as error:
        print(f"metro: {error}", file=sys.stderr)
        return 2
    except RCLError:
        if rclpy.ok():  # a callback that the interrupt overtook finds its publisher invalid
            raise
    finally:
        if node is not None:
            node.stop()
            node.destroy_node()
        with contextlib.suppress(RCLError):  # the interrupt's own handler may be at it
            rclpy.try_shutdown()
    return 0


if __name__ == "__main__":
    sys.exit(main())
