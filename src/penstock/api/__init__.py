"""The HTTP faces: parse, one call of an action, shape the answer."""
