"""The lifecycle node `metro`: topics of one or several cameras in, people, joints and meshes out."""

import contextlib
import itertools
import logging
import sys
import traceback
from collections.abc import Mapping
from contextlib import ExitStack

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rcl_interfaces.msg import SetParametersResult
from rclpy._rclpy_pybind11 import RCLError
from rclpy.exceptions import InvalidParameterTypeException, InvalidParameterValueException
from rclpy.executors import ExternalShutdownException
from rclpy.lifecycle import LifecycleNode, LifecycleState, TransitionCallbackReturn
from rclpy.parameter import Parameter
from std_msgs.msg import Header

from metro_ros.core.bundle import default_bundle_path, load_bundle
from metro_ros.core.detectors import DetectorConfig, open_detector
from metro_ros.core.engines import open_engine
from metro_ros.core.engines.measure import best_batch
from metro_ros.core.errors import ConfigError, MetroError
from metro_ros.core.estimator import Estimator, EstimatorConfig, estimate_as_completed
from metro_ros.core.mirror import mirror_bundle
from metro_ros.ros.feed import Feed, Frame
from metro_ros.ros.outputs import mesh_level, overridable, publish_topology, reliable
from metro_ros.ros.params import FIXED, NodeConfig, declare, read
from metro_ros.ros.worker import Worker

ESTIMATOR = "estimator."
"""Prefix of the parameters of EstimatorConfig."""
DETECTION = "detection."
"""Prefix of the parameters of DetectorConfig, which a configured node does not change."""


class MetroNode(LifecycleNode):
    """configure loads the model and creates the publishers, activate subscribes; deactivate and cleanup undo that."""

    def __init__(self) -> None:
        """Declare the parameters. Raises ConfigError or rclpy's own errors when one was set to nonsense."""
        super().__init__("metro")
        self.config = declare(self, NodeConfig)
        self._estimator_config = declare(self, EstimatorConfig, ESTIMATOR)
        self._detector_config = declare(self, DetectorConfig, DETECTION)
        self._ids = itertools.count(1)  # of people, unique over all cameras and configurations
        self._feeds: list[Feed] = []
        self._configured = ExitStack()  # what cleanup undoes, the last first
        self._active = ExitStack()  # what deactivate undoes
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
        detector = None
        if config.detector != "topic":
            detector = open_detector(
                config.detector, bundle, config.threads or None, self._detector_config, hurried=True
            )
        if detector is not None:
            self._configured.callback(detector.close)
        several = len(config.cameras) > 1 or detector is not None or config.detector == "topic"
        self._max_batch = best_batch(engine, bundle) if several else 1
        if self._max_batch > 1:  # what the engine prepares for batches, it prepares now
            engine.infer(np.zeros((self._max_batch, engine.crop_size, engine.crop_size, 3), np.uint8))
        self._configured.callback(self.destroy_publisher, publish_topology(self, bundle))
        self._configured.callback(self._feeds.clear)
        for name in config.cameras or ("",):
            estimator = Estimator(bundle, engine, self._estimator_config, self._ids, detector)
            feed = Feed(self, name, estimator, config, self._detector_config.min_score)
            self._configured.callback(feed.outputs.destroy)
            self._feeds.append(feed)
        self._diagnostics = self.create_publisher(
            DiagnosticArray, "/diagnostics", reliable(10), qos_overriding_options=overridable()
        )
        self._configured.callback(self.destroy_publisher, self._diagnostics)
        timer = self.create_timer(config.diagnostics_period_s, self._diagnose)
        self._configured.callback(self.destroy_timer, timer)
        self.get_logger().info(f"model {bundle.manifest.name} on {engine.name} {engine.precision}")

    def _activate(self) -> None:
        for feed in self._feeds:
            self._active.callback(feed.outputs.clear)
        worker: Worker[Feed, Frame] = Worker(self._handle, self._lost)
        self._active.callback(worker.stop)
        for feed in self._feeds:
            for subscription in feed.subscribe(worker.put):
                self._active.callback(self.destroy_subscription, subscription)
            self.get_logger().info(f"listening to {subscription.topic_name}")

    # The stream, in the worker's thread.

    def _handle(self, frames: Mapping[Feed, Frame]) -> None:
        """Ask about everyone's newest frame at once; each is answered as soon as it can be."""
        asked, requests = [], []
        for feed, frame in frames.items():
            with feed.spared():
                requests.append(feed.request(frame))
                asked.append((feed, frame))
        for index, people in estimate_as_completed(requests, self._max_batch):
            feed, frame = asked[index]
            if isinstance(people, Exception):
                feed.failed(people)
                continue
            with feed.spared():
                feed.answer(frame, people)

    def _lost(self, error: Exception) -> None:
        if self.context.ok():  # nothing can be published while the process ends
            self.get_logger().error("frames lost, please report: " + "".join(traceback.format_exception(error)))

    def _diagnose(self) -> None:
        for feed in self._feeds:
            feed.watch_publishers()
        name = self.get_fully_qualified_name()
        statuses = [feed.statistics.report(f"{name}: {feed.name or 'people'}") for feed in self._feeds]
        if self._diagnostics.get_subscription_count():
            header = Header(stamp=self.get_clock().now().to_msg())
            self._diagnostics.publish(DiagnosticArray(header=header, status=statuses))

    def _set_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        """Refuse what is out of range or fixed while configured; everything else counts from the next frame on."""
        try:
            config = read(self, NodeConfig, changes=parameters)
            estimator_config = read(self, EstimatorConfig, ESTIMATOR, parameters)
            detector_config = read(self, DetectorConfig, DETECTION, parameters)
            if self._feeds:
                names = {parameter.name for parameter in parameters}
                fixed = sorted(name for name in names if name in FIXED or name.startswith(DETECTION))
                if fixed:
                    raise ConfigError(f"{', '.join(fixed)} cannot change now", remedy="deactivate and clean up first")
                mesh_level(config, self._feeds[0].estimator.bundle)
        except MetroError as error:
            return SetParametersResult(successful=False, reason=str(error))
        self.config, self._estimator_config, self._detector_config = config, estimator_config, detector_config
        for feed in self._feeds:
            feed.config, feed.estimator.config = config, estimator_config
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
