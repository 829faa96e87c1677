"""What can be wrong with a checkpoint."""


class CheckpointError(ValueError):
    """A file of a checkpoint that is missing, damaged, of another version, or cannot be written."""
