"""The only place that touches a collection."""
