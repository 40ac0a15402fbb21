"""The command line `hilum-train`: commands and options, and what runs when they are called."""
