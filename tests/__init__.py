"""Tests: unit (no sockets), integration (real PostgreSQL and Kafka), e2e; they mirror the packages."""
