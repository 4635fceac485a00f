"""Readouts, one file each: how the tokens become one feature vector per image.

Source: Dosovitskiy et al. 2021, App. D.3, Fig. 9 (token and avg); Zhai et al. 2022 (map).
"""
