"""Large images as tiles, and their maps put together again."""
