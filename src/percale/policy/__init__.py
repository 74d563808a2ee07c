"""What policies mean: selectors to verdicts. Pure: values in, values out. Used by render, explain, agent and cli."""
