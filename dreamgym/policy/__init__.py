"""The policy: its vLLM engines as Ray actors, and the way new weights reach them."""
