"""Many GPUs, many nodes: what differs among them, and which is the odd one?"""
