"""Hot operators, each beside a plain twin that defines what it must return."""
