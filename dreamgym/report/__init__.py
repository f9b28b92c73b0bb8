"""What is shown of finished work: the page, its pictures, the tables."""
