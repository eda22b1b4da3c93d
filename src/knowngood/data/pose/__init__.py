"""Parts found in a picture and brought to one pose, and maps brought back: NumPy, Pillow and SciPy, without torch."""
