PREFIX = "reference."
class ReferenceIndex: pass
