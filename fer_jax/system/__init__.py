"""The terminal, the disk and the process."""
