"""The report: a finished output, or one under way, as one HTML page.

It reads what ``pipeline.data`` wrote and needs neither Ray nor torch.
"""
