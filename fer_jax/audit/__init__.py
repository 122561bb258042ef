"""The audit of a data set: copies, storage and suspicious labels."""
