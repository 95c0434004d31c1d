"""Records on disk to numbers: frames, laws, fits, the frontier, the alignment tax. Never imports torch."""
