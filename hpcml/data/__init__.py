"""Data sets over ranks: reading, splitting, encoding, and the order of batches."""
