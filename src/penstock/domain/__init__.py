"""The nouns: frozen records and the error tree.

Not a place for behaviour: what follows from a record is decided in ``rules``; where it is kept is
the business of ``store``.
"""
