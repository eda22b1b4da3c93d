"""stub"""
def explain(*a, **k): return []
def reference_index(*a, **k): return None
Explanation = object
