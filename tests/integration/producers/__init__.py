"""The relay between a real PostgreSQL and a real Kafka."""
