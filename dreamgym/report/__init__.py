"""What is shown of finished work: findings, curves, Markdown with pictures, the tables."""
