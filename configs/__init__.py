"""What can be set, and the errors that refuse it. Imports nothing else of marey."""
