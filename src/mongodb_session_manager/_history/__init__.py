"""One live agent, on its way to the database."""
