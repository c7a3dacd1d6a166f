"""Other people's texts and traces: what do they say of a box, in the words of our own facts?"""
