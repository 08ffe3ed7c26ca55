"""The `marey` command: its words, what each does, and what a person reads."""
