"""PostgreSQL and Kafka stand-ins that run in this checkout, for the quickstart and the tests."""
