"""padless: pretraining of ModernBERT-style encoders without padding, from documents to a Hugging Face model."""

__version__ = "0.1.0"
