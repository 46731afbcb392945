"""The words that every part shares, and the plumbing under them; imports none of the other packages."""
