"""Continued pretraining on a domain: from documents and a source to a run, and new terms for its tokenizer."""
