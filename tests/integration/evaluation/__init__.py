"""Evaluation against servers: scripted ones, and the embedded one with a real adapter."""
