"""What a model reads and writes: its checkpoint, tokenizer, chat format and prompts."""
