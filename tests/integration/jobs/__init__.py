"""Runs, jobs, triggers and the worker over a real PostgreSQL."""
