"""What the doctor for networks looks at, one check a function: evidence in numbers, a verdict, what to do.

Thresholds stand where they are used. None is a law: each is where experience begins to worry.
"""
