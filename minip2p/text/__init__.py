"""From text to token ids, and back. No network: a tokenizer is a value that travels with the model it was made for."""
