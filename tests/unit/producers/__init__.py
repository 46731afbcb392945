"""What leaves for Kafka."""
