"""MongoDB session manager for Strands Agents."""

__version__ = "0.6.0"
