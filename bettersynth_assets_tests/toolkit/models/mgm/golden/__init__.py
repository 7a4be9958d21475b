"""Numbers that the original MGM code computed once, and the rules by which both sides make weights and inputs."""
