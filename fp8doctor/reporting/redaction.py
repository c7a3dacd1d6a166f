"""todo"""
def redact(d): return d
