"""Pure functions of the method: tensor in, tensor out; each equation has one home here."""

VOID = 255  # label of pixels that nothing is said of, in masks of every kind
