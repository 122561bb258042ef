"""Readers of data sets as people have them: a csv, folders, drawn faces."""
