"""Study image bytes to pixels."""
