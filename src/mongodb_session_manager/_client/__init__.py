"""The driver: options, figures, ownership, threads and errors."""
