"""Everything that goes out: findings, dead letters, promotions."""
