"""The ROS 2 node: settings, cameras, worker, model, outputs, diagnostics."""
