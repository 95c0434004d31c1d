"""Which stages a study has, and where they run: the study model, the graph and the runner."""
