"""What stands beside the conversation: metadata, feedback, figures, hooks, Graphs and Swarms."""
