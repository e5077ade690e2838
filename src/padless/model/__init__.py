"""The ModernBERT encoder on flat tokens, with Hugging Face's parameter names."""
