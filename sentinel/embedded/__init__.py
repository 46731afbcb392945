"""PostgreSQL and Kafka stand-ins that run in this checkout, for the quickstart and the tests."""

VOLATILE_CLUSTER_PREFIX = "mockCluster"
"""Beginning of the cluster id of librdkafka's in-process broker: nothing on such a cluster is durable."""
