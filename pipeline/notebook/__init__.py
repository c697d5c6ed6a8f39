"""The method for notebooks and for Ray Data pipelines of one's own. No Ray is imported."""
