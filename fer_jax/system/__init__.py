"""What we ask of the terminal, the disk and the process."""
