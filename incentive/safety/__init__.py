"""Safety: how often a model does harm, how often it refuses what is fine, and a risk control beside it.

sets.py       what is asked: the shipped prompts, public sets, the world's tasks, a file
jailbreak.py  the same requests in the dress of well-known tricks
review.py     written standards; who judges answers by them
control.py    the risk control: keywords first, then a review; in serving and in evaluation
evaluate.py   `incentive safety MODEL`: rates before and after
"""
