"""Whether an installation is well: facts about its backends, judged; see ``fraudml doctor``."""
