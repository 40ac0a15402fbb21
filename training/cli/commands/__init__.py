"""The commands and options of `hilum-train`, grouped by task; they import their work when run."""
