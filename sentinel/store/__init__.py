"""The tables and one repository per noun, on PostgreSQL."""
