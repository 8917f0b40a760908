"""Answers questions from a folder of documents, with quotes and citations."""
