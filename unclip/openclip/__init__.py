"""OpenCLIP's models: their names, their folders, their tokenizer, and new ones. What reads with them is `unclip.clip`."""
