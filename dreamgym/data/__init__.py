"""What models are tuned on: seed play, imported logs, a teacher's words, token examples."""
