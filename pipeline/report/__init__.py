"""A finished output, or one under way, as one HTML page. Knows data; Ray and torch do not enter."""
