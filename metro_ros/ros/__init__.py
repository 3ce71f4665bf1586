"""The ROS 2 side: messages to images and people to messages. The only room that knows rclpy."""
