"""The paper's tables and figures: which runs each asks for, and what it makes of the answers."""
