"""The linear layer: what does FP8 cost and gain here, by shape?"""
