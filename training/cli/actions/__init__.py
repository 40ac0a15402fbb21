"""What each command does: call the workflow, show progress, turn errors into an exit status."""
