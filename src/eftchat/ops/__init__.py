"""Running a node: time, settings, logs, probes."""
