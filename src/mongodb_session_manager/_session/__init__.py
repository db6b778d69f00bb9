"""Everything of a session but its agents' histories: metadata, feedback, figures, hooks, Graphs and Swarms."""
