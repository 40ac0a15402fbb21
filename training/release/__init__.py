"""Release: model card, software bill of materials, golden images, and publishing to MLflow."""
