"""Pure functions of the method: tensor in, tensor out; each equation has one home here."""
