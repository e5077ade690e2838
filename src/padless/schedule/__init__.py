"""Everything a step takes from the clock, as pure functions of nominal tokens. Standard library only."""
