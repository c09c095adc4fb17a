"""Pictures as few bytes: files that are counted to the last byte."""
