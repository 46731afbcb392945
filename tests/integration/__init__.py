"""Tests on real PostgreSQL and Kafka servers."""
