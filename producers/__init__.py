"""Everything that goes out: findings, dead letters, promotions, and the traffic simulator."""
