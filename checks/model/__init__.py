"""A model of the user's own: which of its layers run in FP8, what does each gain, what holds its step back?"""
