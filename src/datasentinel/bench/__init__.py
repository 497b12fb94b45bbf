"""Measures a model beside its peers on this machine, keeps the result, and compares two results.

`subject` is what is measured, `contenders` are who is measured, `measure` takes their times in turns, `run`
ties them together into a `report`, which `tables` and `charts` show and `compare` holds against another one.
"""
