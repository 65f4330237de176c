"""A seeded simulation of lanes, fleets, failures and autoscaling, on one device's measured figures."""
