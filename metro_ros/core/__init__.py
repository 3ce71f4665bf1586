"""What needs no robot: image and camera in, people out. NumPy, OpenCV, one inference engine; no ROS, no torch."""
