"""A load test under faults, and the plain model that it is checked against."""
