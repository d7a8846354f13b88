"""From text to token ids and back, without networks. A tokenizer is a value, saved with the model it was made for."""
