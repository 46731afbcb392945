"""Everything that comes in: the Kafka loop and one decoder per event format."""
