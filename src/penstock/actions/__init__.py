"""What may be asked of Penstock: one class per noun, used by every face alike.

An action checks that the actor may do it, then reads or changes the store in one transaction. It
never speaks HTTP and never runs an agent.
"""
