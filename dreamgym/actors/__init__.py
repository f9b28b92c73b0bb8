"""Rollout actors, their fleet, and one episode token by token."""
